"""Files larger than memory: what is written to the cache, found there again, and how little memory it takes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from bertcompress.data import files, tables
from bertcompress.data.tasks import load_task
from bertcompress.errors import DataError

ROWS = [(f"text {number} " + "word " * (number % 40), "xyz"[number % 3], number / 7) for number in range(3000)]
SMALL = 1 << 12  # bytes; whatever is larger goes to a file in these tests


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BERTCOMPRESS_CACHE", str(folder))
    return folder


def write_rows(path: Path, rows: list[tuple[str, str, float]] = ROWS) -> None:
    ending = path.name.removesuffix(".gz").rpartition(".")[2]
    if ending == "parquet":
        columns = {name: [row[at] for row in rows] for at, name in enumerate(("body", "team", "score"))}
        Dataset.from_dict(columns).to_parquet(path)
        return
    if ending == "jsonl":
        text = "".join(json.dumps({"body": body, "team": team, "score": score}) + "\n" for body, team, score in rows)
    else:
        sign = "," if ending == "csv" else "\t"
        text = "".join(sign.join(map(str, row)) + "\n" for row in [("body", "team", "score"), *rows])
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def mapping(file: str, **changes: Any) -> dict[str, Any]:
    base = {"kind": "classification", "train": file, "text": "body", "label": "team"}
    return {key: value for key, value in (base | changes).items() if value is not None}


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "tasks").iterdir()) if (cache / "tasks").is_dir() else []


CASES = [
    mapping("t.csv"),
    mapping("t.tsv.gz", validation="t.tsv.gz", test="t.tsv.gz"),
    mapping("t.jsonl", kind="regression", label="score"),
    mapping("t.parquet", text=["team", "body"], kind="embedding", label="score"),
    mapping("t.csv", kind="unlabelled", label=None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']} {case['train']}")
def test_files_in_the_cache_hold_what_small_ones_hold_in_memory(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    write_rows(tmp_path / case["train"])
    small = load_task(case, relative_to=tmp_path)
    assert entries(cache) == []
    monkeypatch.setattr(tables, "IN_MEMORY", SMALL)
    large = load_task(case, relative_to=tmp_path)
    assert len(entries(cache)) == 1
    assert large.train.cache_files
    assert (large.fingerprint(), large.describe()) == (small.fingerprint(), small.describe())
    for split, data in large.splits.items():
        assert data.features == small.splits[split].features
        assert data[:] == small.splits[split][:]
        assert data[5] == small.splits[split][5]
    again = load_task(case, relative_to=tmp_path)
    assert again.fingerprint() == small.fingerprint()
    assert (again.notes, again.labels, again.metric) == (small.notes, small.labels, small.metric)


def test_the_second_run_reads_nothing_anew_unless_a_byte_changed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "IN_MEMORY", SMALL)
    path = tmp_path / "t.csv"
    write_rows(path)
    first = load_task(mapping("t.csv"), relative_to=tmp_path)
    read: list[Path] = []
    honest = files.stage
    monkeypatch.setattr(files, "stage", lambda path, *rest: read.append(path) or honest(path, *rest))
    assert load_task(mapping("t.csv", name="other", metric="accuracy"), relative_to=tmp_path).name == "other"
    assert read == []
    stat = path.stat()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"text 17 ", b"text 71 "))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert load_task(mapping("t.csv"), relative_to=tmp_path).fingerprint() != first.fingerprint()
    assert read == [path]
    load_task(mapping("t.csv", labels=["z", "y", "x"]), relative_to=tmp_path)
    assert read == [path, path]
    assert len(entries(cache)) == 3


@pytest.mark.parametrize("damage", ["cut", "lost", "facts"])
def test_a_damaged_entry_is_made_anew(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(tables, "IN_MEMORY", SMALL)
    write_rows(tmp_path / "t.csv")
    fingerprint = load_task(mapping("t.csv"), relative_to=tmp_path).fingerprint()
    (entry,) = entries(cache)
    if damage == "cut":
        (entry / "train.arrow").write_bytes((entry / "train.arrow").read_bytes()[:-100])
    elif damage == "lost":
        (entry / "validation.arrow").unlink()
    else:
        (entry / "task.json").write_text("{")
    assert load_task(mapping("t.csv"), relative_to=tmp_path).fingerprint() == fingerprint
    assert entries(cache) == [entry]


def test_nothing_is_left_behind_when_the_last_line_is_wrong(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "IN_MEMORY", SMALL)
    write_rows(tmp_path / "t.csv", [*ROWS, ("last", "", 1.0)])
    with pytest.raises(DataError, match=r"t.csv, line 3002, column 'team': the label is missing"):
        load_task(mapping("t.csv"), relative_to=tmp_path)
    assert entries(cache) == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "IN_MEMORY", SMALL)
    cache.write_text("a file where the folder should be")
    write_rows(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"set \$BERTCOMPRESS_CACHE to a folder that can be written"):
        load_task(mapping("t.csv"), relative_to=tmp_path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "t.csv")
    honest = files.stage

    def meddle(path: Path, *rest: Any) -> Any:
        staged = honest(path, *rest)
        path.write_text("body,team\n")
        return staged

    monkeypatch.setattr(files, "stage", meddle)
    with pytest.raises(DataError, match="the files changed while they were read"):
        load_task(mapping("t.csv"), relative_to=tmp_path)


SCRIPT = """
import re, sys
from pathlib import Path
from bertcompress.data import tables
from bertcompress.data.tasks import load_task

tables.IN_MEMORY = 1 << 20
task = load_task({"kind": "classification", "train": sys.argv[1], "text": "body", "label": "team"})
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)  # getrusage's is our parent's
print(len(task.train) + len(task.validation), peak)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from Linux's /proc/self/status")
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_memory_is_flat_in_the_size_of_the_file(tmp_path: Path, ending: str) -> None:
    peaks = {}
    for rows in (2_500, 30_000):
        body = ("abcdefghij" * 20 + " ") * 10  # 2 kB
        path = tmp_path / f"{rows}.{ending}"
        write_rows(path, [(f"{number} {body}", "xyz"[number % 3], 0.5) for number in range(rows)])
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, timeout=100, check=True
        )
        count, peak = map(int, done.stdout.split())
        assert count == rows
        peaks[path.stat().st_size / 2**20] = peak / 1024  # MiB
    (small, low), (large, high) = peaks.items()
    assert large > 10 * small > 45
    assert high - low < 0.3 * (large - small), f"{low:.0f} MiB for {small:.0f} MiB, {high:.0f} for {large:.0f}"
