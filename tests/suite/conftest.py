"""Finished toy suites for all tests of this folder, and copies of them to change."""

from __future__ import annotations

import contextlib
import gc
import shutil
from pathlib import Path

import pytest

from bertcompress.evaluation import intervals
from bertcompress.suite import run_suite
from tests.pipeline import toy_run
from tests.pipeline.toy_run import write_checkpoint

from . import toy_suite


@contextlib.contextmanager
def quick():
    """Compute in one thread, as the processes that these tests start do: sums by two threads round differently.

    Intervals, which no suite shows, are drawn from ten resamples: a thousand correlations take most of a toy run.
    """
    with toy_run.one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(intervals.resample_scores.__kwdefaults__, "resamples", 10)
        yield


@pytest.fixture(autouse=True)
def quick_test():
    """Do so in each test, but not beyond: other folders' tests may come in between."""
    with quick():
        yield


def settle() -> None:
    """Take what is alive out of the garbage collection.

    A suite collects after every run, and to look at all that the libraries hold takes longer than a toy run.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def settled():
    """Do so with what is imported, until the end."""
    settle()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def finished_place(tmp_path_factory, letters_tokenizer) -> Path:
    """A folder with the checkpoint `bert`, both tasks, `toys.yaml`, and its finished suite in `runs/toys`."""
    place = tmp_path_factory.mktemp("toys") / "place"
    place.mkdir()
    write_checkpoint(place / "bert", letters_tokenizer)
    toy_suite.write_tasks(place)
    with quick():
        run_suite(toy_suite.write_suite(place / "toys.yaml"), output=place / "runs" / "toys")
    settle()
    return shutil.copytree(place, place.with_name("finished"))


@pytest.fixture
def place(finished_place, monkeypatch) -> Path:
    """A copy of it where it was made, so that it is as finished there; the working directory."""
    copy = finished_place.with_name("place")
    shutil.rmtree(copy)
    shutil.copytree(finished_place, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def fresh_place(place) -> Path:
    """A copy of it in which nothing has been run."""
    shutil.rmtree(place / "runs")
    return place


@pytest.fixture
def half_place(place) -> Path:
    """A copy of it in which the second and the third of the four runs have not been made."""
    for member in ("letters/seed-1", "lengths/seed-0"):
        shutil.rmtree(place / "runs/toys" / member)
    return place


@pytest.fixture(scope="session")
def finished_glue(tmp_path_factory, letters_tokenizer) -> Path:
    """A data folder with a little of MNLI, RTE and AX, and in `runs/glue` the suite in which RTE starts from MNLI."""
    place = tmp_path_factory.mktemp("glue")
    write_checkpoint(place / "bert", letters_tokenizer)
    toy_suite.write_glue(place)
    changes = {"tasks": ["rte", "mnli"], "seeds": [0], "start_from": {"rte": "mnli"}, "allow_partial": True}
    config = toy_suite.write_suite(place / "glue.yaml", name="glue", **changes)
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTCOMPRESS_DATA", str(place))
        run_suite(config, output=place / "runs" / "glue")
    settle()
    return place


@pytest.fixture
def glue_place(finished_glue, tmp_path, monkeypatch) -> Path:
    """A copy of it, which is the working directory and the data folder."""
    copy = tmp_path / "place"
    shutil.copytree(finished_glue, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(copy))
    return copy
