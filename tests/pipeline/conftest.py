"""One finished toy run for all tests of this folder, and copies of it to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from bertcompress import runs

from . import toy_run


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Compute in one thread, as the processes that these tests start do: sums by two threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished_place(one_thread, tmp_path_factory, letters_tokenizer) -> Path:
    """A folder with the checkpoint `bert`, the task's files, `toy.yaml`, and its finished run in `runs/toy`."""
    place = tmp_path_factory.mktemp("toy")
    toy_run.write_checkpoint(place / "bert", letters_tokenizer)
    toy_run.write_task(place)
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
