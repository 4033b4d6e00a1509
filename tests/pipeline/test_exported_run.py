"""`export:` in a run's file: the files are made once, judged as models are, and shown in the report."""

from __future__ import annotations

import json

import pytest

from bertcompress import runs, runtime
from bertcompress.errors import ConfigError
from bertcompress.pipeline.planning import plan_run
from bertcompress.training.precision import native_bf16

from .toy_run import QUANTIZE, STEPS, STUDENT, write_config


@pytest.fixture(autouse=True)
def _packages():
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)


def test_the_last_model_is_exported_judged_and_not_exported_again(place, monkeypatch):
    stored = {**QUANTIZE, "activation_steps": "tensor"}
    config = write_config(place / "toy.yaml", compress=[STUDENT, stored], export=["openvino", "onnx"])
    runs.run(config, place / "runs/toy")
    results = json.loads((place / "runs/toy/results.json").read_text())
    names = [entry["name"] for entry in results["models"]]
    assert names == [*STEPS, "export-openvino", "export-onnx"]
    for entry, file in zip(results["models"][-2:], ("model.xml", "model.onnx"), strict=True):
        # 4 of each of 2 layers, the last one's queries apart, and the pooler's
        assert entry["facts"]["integer_products"] == 10
        assert entry["loyalty"].keys() == results["models"][2]["loyalty"].keys()
        assert entry["file_bytes"] > 0
        assert entry["spec"] == results["models"][2]["spec"]
        assert runtime.load(place / "runs/toy" / entry["name"]).path.name == file
    report = (place / "runs/toy/report.md").read_text()
    assert "export-onnx" in report
    page = (place / "runs/toy/report.html").read_text()
    assert page.count("10 products are executed in integers; on random examples its logits differ by at most") == 2
    card = (place / "runs/toy/export-onnx/README.md").read_text()
    assert "bc.runtime.load(" in card
    assert "transformers import" not in card
    assert "transformers import" in (place / "runs/toy" / STEPS[2] / "README.md").read_text()

    def never(*_):
        raise AssertionError("exported twice")

    monkeypatch.setattr("bertcompress.model.Model.export", never)
    runs.run(config, place / "runs/toy")


@pytest.mark.skipif(not native_bf16("cpu"), reason="the processor has no bfloat16")
def test_a_file_is_judged_in_the_precision_that_is_asked_for(place):
    stored = {**QUANTIZE, "activation_steps": "tensor"}
    config = write_config(place / "toy.yaml", compress=[STUDENT, stored], export=["openvino-bf16", "openvino"])
    runs.run(config, place / "runs/toy")
    results = json.loads((place / "runs/toy/results.json").read_text())
    fast, exact = results["models"][-2:]
    assert [fast["name"], exact["name"]] == ["export-openvino-bf16", "export-openvino"]
    assert [each["facts"]["runtime"].endswith(" (bf16)") for each in (fast, exact)] == [True, False]
    assert fast["loyalty"] != exact["loyalty"]
    assert any("bf16" in kernel for kernel in fast["facts"]["kernels"])
    assert fast["facts"]["largest_difference"] > exact["facts"]["largest_difference"]
    assert fast["file_bytes"] == exact["file_bytes"]


def test_a_model_that_is_quantized_already_can_be_judged_and_exported(place):
    config = write_config(place / "toy.yaml", compress=[STUDENT, QUANTIZE])
    runs.run(config, place / "runs/toy")
    made = {"model": str(place / "runs/toy" / STEPS[2]), "epochs": 0}
    again = write_config(place / "again.yaml", teacher=made, compress=[], export=["onnx"])
    runs.run(again, place / "runs/again")
    before = json.loads((place / "runs/toy/results.json").read_text())["models"][2]
    whole, exported = json.loads((place / "runs/again/results.json").read_text())["models"]
    assert whole["scores"] == before["scores"] == exported["scores"]
    assert exported["facts"]["integer_products"] == 10


def test_what_cannot_be_exported_is_refused_before_anything_is_trained(place):
    config = write_config(place / "toy.yaml", compress=[{**STUDENT, "epochs": 3}, QUANTIZE], export=["openvino"])
    with pytest.raises(ConfigError, match="activation_steps='tensor'"):
        runs.run(config, place / "runs/new")
    assert not (place / "runs/new").exists()
    with pytest.raises(ConfigError, match="activation_steps='tensor'"):
        plan_run(runs.prepare(config, place / "runs/new"))
