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

from bertcompress.data import files, kept, tables
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
    folder = cache / "tasks"
    return sorted(path for path in folder.iterdir() if path.name != "locks") if folder.is_dir() else []


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


@pytest.mark.parametrize("damage", ["cut", "changed", "lost", "facts", "labels"])
def test_a_damaged_entry_is_made_anew(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    monkeypatch.setattr(tables, "IN_MEMORY", SMALL)
    write_rows(tmp_path / "t.csv")
    fingerprint = load_task(mapping("t.csv"), relative_to=tmp_path).fingerprint()
    (entry,) = entries(cache)
    if damage == "cut":
        (entry / "train.arrow").write_bytes((entry / "train.arrow").read_bytes()[:-100])
    elif damage == "changed":
        content = (entry / "train.arrow").read_bytes()
        (entry / "train.arrow").write_bytes(content.replace(b"text 17 ", b"text 71 "))
    elif damage == "labels":
        facts = (entry / "task.json").read_text()
        (entry / "task.json").write_text(facts.replace('["x", "y", "z"]', '["y", "x", "z"]'))
    elif damage == "lost":
        (entry / "validation.arrow").unlink()
    else:
        (entry / "task.json").write_text("{")
    assert load_task(mapping("t.csv"), relative_to=tmp_path).fingerprint() == fingerprint
    assert entries(cache) == [entry]
    assert f"the tables in {entry} are damaged" in caplog.text
    caplog.clear()
    load_task(mapping("t.csv"), relative_to=tmp_path)
    assert "damaged" not in caplog.text


def test_notes_are_those_of_the_files_and_the_metric_of_this_time(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "IN_MEMORY", SMALL)
    rows = [(body, "x" if at % 100 else "y", score) for at, (body, _, score) in enumerate(ROWS)]
    rows[7] = ("", "x", 1.0)
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        write_rows(tmp_path / folder / "t.csv", rows)
    first = load_task(mapping("t.csv"), relative_to=tmp_path / "first")
    second = load_task(mapping("t.csv", metric="f1"), relative_to=tmp_path / "second")
    assert len(entries(cache)) == 1
    blank, unbalanced, held = first.notes
    assert blank.endswith(f"{tmp_path / 'first' / 't.csv'}, line 9")
    assert unbalanced.endswith("2970 of 3000 examples are 'x' and 30 are 'y'; accuracy says little then, "
                               "metric: matthews_correlation or f1 says more")  # fmt: skip
    assert second.notes == (blank.replace("first/t.csv", "second/t.csv"), unbalanced.partition(";")[0], held)


def test_tables_that_were_not_used_for_long_are_deleted_beyond_the_budget(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "IN_MEMORY", SMALL)

    def run(rows: list[tuple[str, str, float]]) -> Path:
        before = set(entries(cache))
        write_rows(tmp_path / "t.csv", rows)
        task = load_task(mapping("t.csv"), relative_to=tmp_path)
        assert len(task.train) + len(task.validation) == len(rows)
        return (set(entries(cache)) - before or {Path()}).pop()

    edits = [ROWS, ROWS[1:], ROWS[2:]]
    made = [run(rows) for rows in edits]
    for seconds, entry in zip((300, 100, 200), made, strict=True):
        os.utime(entry / "task.json", (seconds, seconds))
    run(edits[1])  # used just now
    size = sum(path.stat().st_size for path in made[0].iterdir())
    monkeypatch.setattr(kept, "BUDGET", 3 * size + size // 2)
    newest = run(ROWS[3:])
    assert entries(cache) == sorted([made[0], made[1], newest])


def test_what_killed_processes_leave_is_removed_and_what_others_work_on_stays(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "IN_MEMORY", SMALL)
    script = (
        "import os, sys, signal; from pathlib import Path; from bertcompress.data.tables import Scratch\n"
        "with Scratch(Path(sys.argv[1])) as scratch:\n"
        "    scratch.path('rows').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(cache / "tasks")], timeout=100, check=False)
    (left,) = entries(cache)
    assert (left / "rows").is_file()
    write_rows(tmp_path / "t.csv")
    with tables.Scratch(cache / "tasks") as other:
        working = other.path("rows").parent
        load_task(mapping("t.csv"), relative_to=tmp_path)
        assert working in entries(cache)
        assert left not in entries(cache)
        assert len(entries(cache)) == 2
    assert working not in entries(cache)
    assert not list((cache / "tasks/locks").glob("making-*"))


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
import json, re, sys
from pathlib import Path
from bertcompress.data import tables
from bertcompress.data.tasks import load_task

tables.IN_MEMORY = 1 << 20
task = load_task(json.loads(sys.argv[1]))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)  # getrusage's is our parent's
print(len(task.train) + len(task.validation), peak)
"""
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is in Linux's /proc/self/status")


def loaded(task: dict[str, Any]) -> tuple[int, float]:
    """Return how many examples a task has, and the MiB at the peak of the process that loads it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(task)], capture_output=True, text=True, timeout=100, check=True
    )
    count, peak = map(int, done.stdout.split())
    return count, peak / 1024


@linux_only
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_memory_is_flat_in_the_size_of_the_file(tmp_path: Path, ending: str) -> None:
    peaks = {}
    for rows in (2_500, 30_000):
        body = ("abcdefghij" * 20 + " ") * 10  # 2 kB
        path = tmp_path / f"{rows}.{ending}"
        write_rows(path, [(f"{number} {body}", "xyz"[number % 3], 0.5) for number in range(rows)])
        count, peaks[path.stat().st_size / 2**20] = loaded(mapping(str(path)))
        assert count == rows
    (small, low), (large, high) = peaks.items()
    assert large > 10 * small > 45
    assert high - low < 0.3 * (large - small), f"{low:.0f} MiB for {small:.0f} MiB, {high:.0f} for {large:.0f}"


@linux_only
def test_memory_is_flat_in_the_size_of_a_file_with_a_word_in_a_line(tmp_path: Path) -> None:
    peaks = {}
    for sentences in (6_000, 60_000):
        path = tmp_path / f"{sentences}.conll"
        with path.open("w") as file:
            for number in range(sentences):
                file.write(f"Ada{number} NNP I-PER\n" + "lived VBD O\nin IN O\nLondon NNP I-LOC\n" * 5 + "\n")
        count, peaks[path.stat().st_size / 2**20] = loaded({"kind": "tagging", "train": str(path)})
        assert count == sentences
    (small, low), (large, high) = peaks.items()
    assert large > 9 * small > 9
    assert high - low < 0.5 * (large - small), f"{low:.0f} MiB for {small:.0f} MiB, {high:.0f} for {large:.0f}"
