"""Submissions: the leaderboard's files byte for byte, whose answers they are, and what is missing."""

from __future__ import annotations

import csv
import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import bertcompress as bc
from bertcompress import cli
from bertcompress.data.glue import GLUE
from bertcompress.errors import ConfigError, DataError, RunError
from bertcompress.model import Model
from bertcompress.suite import run_suite, write_submission
from bertcompress.suite.submission import FILES, in_leaderboard_words, render

from .toy_suite import TESTS, write_suite

SUITE, STEP = Path("runs/glue"), "1-extract_then_distill"


@pytest.fixture
def place(glue_place, monkeypatch) -> Path:
    """A finished suite of RTE and MNLI, whose short test sets are taken for the official ones."""
    sizes = {
        "rte": {"test": TESTS["rte"]},
        "mnli": {"test": TESTS["mnli"], "test_mismatched": TESTS["mnli-mm"]},
        "ax": {"test": TESTS["ax"]},
    }
    for name, own in sizes.items():
        monkeypatch.setitem(GLUE, name, dataclasses.replace(GLUE[name], sizes={**GLUE[name].sizes, **own}))
    return glue_place


CASES = {
    "cola": ([[2, 1], [0, 3], [1, 1]], "index\tprediction\n0\t0\n1\t1\n2\t0\n"),
    "wnli": ([[0, 1], [1, 0]], "index\tprediction\n0\t1\n1\t0\n"),
    "rte": ([[0, 1], [1, 0]], "index\tprediction\n0\tnot_entailment\n1\tentailment\n"),
    "qnli": ([[1, 0]], "index\tprediction\n0\tentailment\n"),
    "mnli": ([[9, 1, 2], [1, 9, 2], [1, 2, 9]], "index\tprediction\n0\tentailment\n1\tneutral\n2\tcontradiction\n"),
    "ax": ([[1, 2, 9]], "index\tprediction\n0\tcontradiction\n"),
    "stsb": (
        [[-0.7], [5.2], [-0.0], [2.71828], [4.9996], [-1e-9]],
        "index\tprediction\n0\t0.000\n1\t5.000\n2\t0.000\n3\t2.718\n4\t5.000\n5\t0.000\n",
    ),
}


@pytest.mark.parametrize("task", CASES)
def test_files_are_the_leaderboards_byte_for_byte(task):
    logits, expected = CASES[task]
    assert render(in_leaderboard_words(task, np.array(logits, np.float32))) == expected


def answers(file):
    with file.open(newline="") as stream:
        return [(row["index"], row["prediction"]) for row in csv.DictReader(stream, delimiter="\t")]


def test_a_suite_answers_what_it_has_models_for_and_lists_the_rest(place):
    made = write_submission(SUITE, "out")
    assert list(made.written) == ["RTE.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]
    assert sorted([*made.written, *made.missing]) == sorted(FILES)
    assert made.missing["CoLA.tsv"] == "there is no finished run of cola"
    rows = {name: answers(place / "out" / name) for name in made.written}
    counts = {"RTE.tsv": TESTS["rte"], "MNLI-m.tsv": TESTS["mnli"], "MNLI-mm.tsv": TESTS["mnli-mm"], "AX.tsv": 8}
    assert {name: len(found) for name, found in rows.items()} == counts
    assert all([index for index, _ in found] == [str(n) for n in range(len(found))] for found in rows.values())
    for name, task, split in (("RTE.tsv", "rte", "test"), ("MNLI-mm.tsv", "mnli", "test_mismatched")):
        loaded = bc.load_task(task)
        model = Model.from_pretrained(SUITE / task / "seed-0" / STEP, loaded)
        classes = model.predict(loaded.splits[split]).logits.argmax(-1)
        assert [answer for _, answer in rows[name]] == [loaded.labels[number] for number in classes]


def test_the_zip_holds_the_files_and_is_the_same_every_time(place):
    made = write_submission(SUITE, "out")
    first = (place / "out/submission.zip").read_bytes()
    with zipfile.ZipFile(place / "out/submission.zip") as archive:
        assert archive.namelist() == [name for name in FILES if name in made.written]
        assert all(archive.read(name) == (place / "out" / name).read_bytes() for name in archive.namelist())
    write_submission(SUITE, "again")
    assert (place / "again/submission.zip").read_bytes() == first


def test_what_is_said_of_a_submission(place):
    made = write_submission(SUITE, "out")
    about = json.loads((place / "out/submission.json").read_text())
    assert about["missing"] == made.missing
    rte = json.loads((SUITE / "suite.json").read_text())["tasks"][0]["runs"][0]["models"][1]
    assert about["files"]["RTE.tsv"] == {
        "run": "runs/glue/rte/seed-0",
        "model": STEP,
        "validation_score": rte["score"],
    }
    assert about["files"]["AX.tsv"]["run"] == "runs/glue/mnli/seed-0"


def test_the_diagnostic_set_is_scored_where_its_labels_are(place):
    made = write_submission(SUITE, "out")
    mnli = json.loads((SUITE / "suite.json").read_text())["tasks"][1]["runs"][0]["models"][1]
    assert made.diagnostic == mnli["further"]["ax"]["matthews_correlation"]
    public = [line.rsplit("\t", 1)[0] for line in (place / "glue/AX/diagnostic.tsv").read_text().splitlines()]
    (place / "glue/AX/diagnostic.tsv").write_text("\n".join(public) + "\n")
    without = write_submission(SUITE, "again")
    assert without.diagnostic is None
    assert (place / "again/AX.tsv").read_bytes() == (place / "out/AX.tsv").read_bytes()


def test_a_run_answers_its_own_task(place):
    made = write_submission(SUITE / "rte/seed-0", "alone")
    assert list(made.written) == ["RTE.tsv"]
    write_submission(SUITE, "out")
    assert (place / "alone/RTE.tsv").read_bytes() == (place / "out/RTE.tsv").read_bytes()


def test_teachers_can_be_submitted_and_other_models_by_their_steps(place):
    made = write_submission(SUITE, "out", model="teacher")
    assert {about["model"] for about in made.written.values()} == {"0-teacher"}
    assert write_submission(SUITE, "out", model=STEP).written["RTE.tsv"]["model"] == STEP
    with pytest.raises(ConfigError, match=r"--model: got '2-x', allowed are 'student', 'teacher', '0-teacher', '1-"):
        write_submission(SUITE, "out", model="2-x")


def test_the_best_seed_is_taken_unless_one_is_named(place):
    suite = json.loads((SUITE / "suite.json").read_text())
    rte = suite["tasks"][0]
    better = json.loads(json.dumps(rte["runs"][0]))
    better |= {"seed": 1, "folder": "rte/seed-1"}
    better["models"][1]["score"] += 0.01
    (SUITE / "rte/seed-0").rename(SUITE / "rte/seed-1")
    rte["runs"].append(better)
    suite["seeds"] = [0, 1]
    (SUITE / "suite.json").write_text(json.dumps(suite))
    assert write_submission(SUITE, "out").written["RTE.tsv"]["run"] == "runs/glue/rte/seed-1"
    made = write_submission(SUITE, "out", seed=1)
    assert list(made.written) == ["RTE.tsv"]  # of MNLI there is no seed 1
    with pytest.raises(ConfigError, match=r"--seed: got 7, allowed are the suite's, 0, 1"):
        write_submission(SUITE, "out", seed=7)


def test_an_incomplete_test_set_is_not_answered(place):
    file = place / "glue/RTE/test.tsv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    (place / "glue/MNLI/test_mismatched.tsv").unlink()
    made = write_submission(SUITE, "out")
    assert made.missing["RTE.tsv"] == "the test split of rte has 6 of 7 examples here"
    assert made.missing["MNLI-mm.tsv"].startswith("the test_mismatched split of mnli is not here")
    assert "MNLI-m.tsv" in made.written


def test_files_of_an_earlier_submission_do_not_pass_for_new_ones(place):
    write_submission(SUITE, "out")
    (place / "out/mine.txt").write_text("kept")
    write_submission(SUITE / "rte/seed-0", "out")
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "RTE.tsv", "mine.txt", "submission.json", "submission.zip",
    ]  # fmt: skip


def test_what_cannot_be_submitted_is_refused(place):
    with pytest.raises(RunError, match=r"got no results\.json and no suite\.json"):
        write_submission("glue", "out")
    with pytest.raises(ConfigError, match=r"--seed: got 0, allowed is none here"):
        write_submission(SUITE / "rte/seed-0", "out", seed=0)
    (place / "glue/RTE/test.tsv").unlink()
    with pytest.raises(
        DataError, match=r"no file can be written:\n(.*\n)*  RTE.tsv: the test split of rte is not here"
    ):
        write_submission(SUITE / "rte/seed-0", "out")


def test_other_tasks_have_no_leaderboard(finished_place, monkeypatch):
    monkeypatch.chdir(finished_place)
    with pytest.raises(ConfigError, match="the run's task is 'letters', allowed are GLUE's"):
        write_submission("runs/toys/letters/seed-0", finished_place / "out")
    with pytest.raises(DataError, match="there is no finished run of cola"):
        write_submission("runs/toys", finished_place / "out")


def test_the_command_says_what_is_missing(place):
    found = CliRunner().invoke(cli.app, ["submit", str(SUITE), "--output", "out"])
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert lines[0] == f"RTE.tsv: {STEP} of runs/glue/rte/seed-0"
    assert "CoLA.tsv: not written; there is no finished run of cola" in lines
    assert any(line.startswith("AX: Matthews correlation ") for line in lines)
    assert lines[-2:] == ["The leaderboard takes complete submissions only.", "Files: out"]


def test_left_out_tasks_are_missing_for_their_own_reason(place):
    changes = {"tasks": ["rte", "cola"], "seeds": [0], "skip_missing": True, "allow_partial": True, "compress": []}
    run_suite(write_suite(place / "some.yaml", **changes))
    made = write_submission("runs/some", "out")
    assert made.missing["CoLA.tsv"].startswith("the suite left cola out: task cola: there is no folder")
