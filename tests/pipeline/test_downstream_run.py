"""A run on unlabelled text whose models are judged by fine-tuning them on other tasks."""

from __future__ import annotations

import json

import pytest

from bertcompress import runs
from bertcompress.config import load_config
from bertcompress.errors import ConfigError
from bertcompress.report.runs import load_run

from .toy_run import TRAINING, cli, reproducible, write_config

NAMES = ["0-teacher", "1-extract_then_distill"]


@pytest.fixture
def agnostic(fresh_place):
    """The path of the run's file, beside a file of texts and the labelled task."""
    (fresh_place / "texts.txt").write_text("".join(f"ab{letter}z cde{letter}\n" for letter in "bcdefgh" * 4))
    labelled = {"kind": "classification", "text": "text", "label": "label", "labels": ["later", "earlier"]}
    files = {name: f"{name}.csv" for name in ("train", "validation", "test")}
    return write_config(
        fresh_place / "agnostic.yaml",
        name="agnostic",
        task={"name": "texts", "kind": "unlabelled", "train": "texts.txt"},
        teacher={"model": "bert", "epochs": 0},
        compress=[{"method": "extract_then_distill", "num_layers": 2, **TRAINING}],
        evaluate=["efficiency"],
        downstream={
            "tasks": [{**labelled, **files, "name": "letters"}],
            "seeds": [0, 1],
            "grid": {"learning_rate": [0.001, 0.002]},
            **{name: value for name, value in TRAINING.items() if name not in ("learning_rate", "epochs")},
            "epochs": 1,
        },
    )


def test_models_are_judged_by_what_they_learn_elsewhere(agnostic, fresh_place):
    report = runs.run(agnostic, fresh_place / "run")
    results = json.loads((fresh_place / "run" / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == NAMES
    for model in results["models"]:
        assert model["scores"] == {}
        assert len(model["downstream"]["letters"]["scores"]["accuracy"]) == 2
        assert len(model["downstream"]["letters"]["tried"]) == 2
    curves = results["models"][1]["curves"]
    assert len(curves["score"]) == TRAINING["epochs"]  # minus the loss on held-out texts
    assert curves["score"][-1][1] < 0
    page, markdown = report.read_text(), report.with_suffix(".md").read_text()
    for text in (page, markdown):
        assert "Fine-tuned on other tasks" in text
        assert "mean score after fine-tuning" in text
    entry = load_run(fresh_place / "run").entries[1]
    accuracies = results["models"][1]["downstream"]["letters"]["scores"]["accuracy"]
    assert entry.score == pytest.approx(sum(accuracies) / 2)
    assert f"{100 * sum(accuracies) / 2:.1f}" in page

    before = reproducible(fresh_place / "run" / "results.json")
    kept = {path: path.stat().st_mtime_ns for path in (fresh_place / "run" / "downstream").rglob("*.json")}
    assert len(kept) == 2 * (2 + 2)
    runs.run(agnostic, fresh_place / "run")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert reproducible(fresh_place / "run" / "results.json") == before


@pytest.mark.slow
def test_only_the_last_model_where_that_is_asked_for(agnostic, fresh_place):
    config = load_config(agnostic, ["downstream.models=last", "downstream.grid={}", "downstream.seeds=[0]"])
    runs.run(config, fresh_place / "run")
    results = json.loads((fresh_place / "run" / "results.json").read_text())
    assert ["downstream" in model for model in results["models"]] == [False, True]


def test_a_quantized_model_is_refused_while_planning(agnostic, fresh_place):
    quantize = (
        "compress=[{method: extract_then_distill, num_layers: 2, epochs: 0}, {method: post_training_quantization}]"
    )
    with pytest.raises(ConfigError, match="2-post_training_quantization cannot be fine-tuned"):
        runs.prepare(load_config(agnostic, [quantize])).check()
    chosen = "downstream.models=[1-extract_then_distill]"
    assert runs.prepare(load_config(agnostic, [quantize, chosen])).check()


def test_what_a_run_depends_on_counts_its_downstream_tasks(agnostic):
    marks = {
        runs.prepare(load_config(agnostic, changes)).check()
        for changes in ([], ["downstream.seeds=[0]"], ["downstream.max_examples=20"])
    }
    assert len(marks) == 3


def test_the_plan_has_a_row_for_the_fine_tunings(agnostic):
    steps = runs.plan(agnostic)
    assert [step.name for step in steps] == [*NAMES, "0-teacher: letters, 4 times", f"{NAMES[1]}: letters, 4 times"]
    assert all(step.seconds > 0 for step in steps)


@pytest.mark.slow
def test_the_command_line_shows_the_scores(agnostic, fresh_place):
    done = cli("run", agnostic, "--output", fresh_place / "run", "--set", "downstream.seeds=[0]")
    assert done.returncode == 0, done.stderr
    assert "letters, accuracy" in done.stdout
    assert "file MiB" in done.stdout
