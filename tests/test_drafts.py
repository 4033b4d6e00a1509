"""Files that are written beside their place: all of them arrive, or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bertcompress.drafts import in_one_piece
from bertcompress.errors import CheckpointError

OLD = {"a": "old a", "c": "old c", "other": "stays"}


@pytest.fixture
def folder(tmp_path):
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "inner").write_text("old")
    return tmp_path


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def stop(folder, error):
    with in_one_piece(folder, "it") as draft:
        (draft / "a").write_text("half")
        raise error


def write(folder):
    with in_one_piece(folder, "it") as draft:
        for name in "acd":
            (draft / name).write_text(f"new {name}")
        (draft / "b").mkdir()
        (draft / "b" / "new").write_text("new")


def test_what_is_written_takes_its_place(folder):
    write(folder)
    assert contents(folder) == {"a": "new a", "b/new": "new", "c": "new c", "d": "new d", "other": "stays"}
    write(folder / "deep" / "er")  # made if need be
    assert contents(folder / "deep" / "er").keys() == {"a", "b/new", "c", "d"}


@pytest.mark.parametrize("stuck", ["a", "b", "c", "d"])
def test_all_is_taken_back_where_one_cannot_move(stuck, folder, monkeypatch):
    before, replace = contents(folder), os.replace

    def refuse(source, target):
        if Path(target) == folder / stuck and Path(source).parent.name == "new":
            raise PermissionError(1, "Operation not permitted")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(
        CheckpointError, match="it cannot be written: Operation not permitted; what was there before is"
    ):
        write(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_is_not_written_to_its_end_leaves_no_trace(error, folder):
    before = contents(folder)
    with pytest.raises(error):
        stop(folder, error)
    assert contents(folder) == before


def test_a_folder_that_cannot_be_is_told(folder):
    with pytest.raises(CheckpointError, match="the model cannot be written: "), in_one_piece(folder / "a", "the model"):
        pass
