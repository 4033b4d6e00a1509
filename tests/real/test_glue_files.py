"""Counts and label distributions of the real GLUE files against the official ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bertcompress.data.base import Task
from bertcompress.data.tasks import load_task
from bertcompress.errors import DataError


@pytest.fixture(autouse=True)
def _data(data_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(data_root))
    monkeypatch.chdir(tmp_path)


def counts(task: Task) -> dict[str, int]:
    return {name: len(data) for name, data in task.splits.items()}


def distribution(task: Task, split: str) -> list[int]:
    return list(task.describe()["splits"][split]["labels"].values())


@pytest.mark.parametrize(
    ("name", "sizes", "train", "validation"),
    [
        ("sst2", (67349, 872, 1821), [29780, 37569], [428, 444]),
        ("cola", (8551, 1043, 1063), [2528, 6023], [322, 721]),
        ("mrpc", (3668, 408, 1725), [1194, 2474], [129, 279]),
        ("rte", (2490, 277, 3000), [1249, 1241], [146, 131]),
        ("wnli", (635, 71, 146), [323, 312], [40, 31]),
    ],
)
def test_complete_sets(name: str, sizes: tuple[int, int, int], train: list[int], validation: list[int]) -> None:
    task = load_task(name)
    assert counts(task) == dict(zip(("train", "validation", "test"), sizes, strict=True))
    assert distribution(task, "train") == train
    assert distribution(task, "validation") == validation
    assert distribution(task, "test") == [0, 0, sizes[2]]
    assert task.notes == ()
    with pytest.raises(DataError, match="hidden"):
        task.scoring_split("test")


def test_stsb() -> None:
    task = load_task("stsb")
    assert counts(task) == {"train": 5749, "validation": 1500, "test": 1379}
    facts = task.describe()["splits"]
    assert facts["train"]["labels"] == {
        "hidden": 0, "minimum": 0.0, "mean": pytest.approx(2.7010, abs=1e-4), "maximum": 5.0,
    }  # fmt: skip
    assert facts["validation"]["labels"]["mean"] == pytest.approx(2.3639, abs=1e-4)
    assert facts["test"]["labels"] == {"hidden": 1379}
    assert task.notes == ()


def test_qqp_sample() -> None:
    task = load_task("qqp")
    assert len(task.train) + len(task.validation) == 23496  # 23,497 lines, the first of which is malformed
    assert 0.08 < len(task.validation) / 23496 < 0.12
    assert any("1 malformed of 23497 lines" in note and "line 1 " in note for note in task.notes)
    positive = sum(task.train["label"][:]) + sum(task.validation["label"][:])
    assert 0.36 < positive / 23496 < 0.39  # 36.9% in the official set


def test_mnli_sample() -> None:
    task = load_task("mnli")
    assert counts(task) == {"train": 12988, "validation": 9815}
    assert distribution(task, "validation") == [3479, 3123, 3213]
    assert task.scoring_split()[0] == "validation"


def test_qnli_without_train() -> None:
    task = load_task("qnli")
    assert counts(task) == {"validation": 5463, "test": 5463}
    assert distribution(task, "validation") == [2702, 2761]
    assert task.train is None


def test_ax_cannot_be_scored() -> None:
    task = load_task("ax")
    assert counts(task) == {"test": 1104}
    with pytest.raises(DataError, match="no labels"):
        task.scoring_split()


def test_sst2_loads_in_seconds() -> None:
    start = time.monotonic()
    load_task("sst2")
    assert time.monotonic() - start < 10
