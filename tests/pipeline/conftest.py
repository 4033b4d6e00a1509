"""One finished toy run for all tests of this folder, and copies of it to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bertcompress import runs

from . import toy_run


@pytest.fixture(autouse=True)
def one_thread():
    """Compute as the processes that these tests start do, and as other folders' tests do not."""
    with toy_run.one_thread():
        yield


@pytest.fixture(scope="session")
def finished_place(tmp_path_factory, letters_tokenizer) -> Path:
    """A folder with the checkpoint `bert`, the task's files, `toy.yaml`, and its finished run in `runs/toy`."""
    place = tmp_path_factory.mktemp("toy")
    toy_run.write_checkpoint(place / "bert", letters_tokenizer)
    toy_run.write_task(place)
    with toy_run.one_thread():
        runs.run(toy_run.write_config(place / "toy.yaml"), place / "runs" / "toy")
    return place


@pytest.fixture
def place(finished_place, tmp_path, monkeypatch) -> Path:
    """A copy of it, which is the working directory; times of files are kept."""
    copy = tmp_path / "place"
    shutil.copytree(finished_place, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def fresh_place(place) -> Path:
    """A copy of it in which nothing has been run."""
    shutil.rmtree(place / "runs")
    return place
