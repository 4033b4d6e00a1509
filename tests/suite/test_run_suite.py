"""Whole suites: their numbers, and what becomes of them when a run is stopped, killed, damaged or fails."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import weakref

import numpy as np
import pytest
from typer.testing import CliRunner

from bertcompress import cli, runs
from bertcompress.errors import ConfigError, RunError, TrainingError
from bertcompress.model import Model
from bertcompress.pipeline import folder as folder_module
from bertcompress.pipeline.run import Run
from bertcompress.suite import load_suite, run_suite
from bertcompress.suite.summary import summarize
from bertcompress.training import loop
from tests.pipeline.toy_run import environment, reproducible

from .toy_suite import numbers, suite_values, write_suite

TASKS, SEEDS, STEPS = ("letters", "lengths"), (0, 1), ("0-teacher", "1-extract_then_distill")
MEMBERS = [f"{task}/seed-{seed}" for task in TASKS for seed in SEEDS]


def results_of(suite, task, seed):
    return json.loads((suite / task / f"seed-{seed}" / "results.json").read_text())


def states(folder):
    return {run["folder"]: run["state"] for task in numbers(folder)["tasks"] for run in task["runs"]}


def test_medians_and_ranges_are_numpys_over_the_runs_own_results(finished_place):
    folder = finished_place / "runs" / "toys"
    for task in numbers(folder)["tasks"]:
        found = [results_of(folder, task["name"], seed) for seed in SEEDS]
        metric = found[0]["task"]["metric"]
        assert task["score"] == metric
        for place, model in enumerate(task["models"]):
            assert (model["name"], model["seeds"]) == (STEPS[place], 2)
            ours = np.array([each["models"][place]["scores"][metric] for each in found])
            teachers = np.array([each["models"][0]["scores"][metric] for each in found])
            assert model["kept"] == pytest.approx(np.median(ours) / np.median(teachers))
            for values, expected in ((model["score"], ours), (model["scores"][metric], ours)):
                assert values == {"median": np.median(expected), "min": expected.min(), "max": expected.max()}
            shares = [run["models"][place]["kept"] for run in task["runs"]]
            assert shares == pytest.approx((ours / teachers).tolist())
    letters = numbers(folder)["tasks"][0]
    loyalty = [results_of(folder, "letters", seed)["models"][1]["loyalty"]["label"] for seed in SEEDS]
    assert letters["models"][1]["loyalty"]["label"]["median"] == pytest.approx(np.median(loyalty))


def test_seeds_differ_and_every_run_is_an_ordinary_one(finished_place, fresh_place):
    suite = finished_place / "runs" / "toys"
    weights = {name: (suite / name / STEPS[1] / "model.safetensors").read_bytes() for name in MEMBERS}
    assert len(set(weights.values())) == len(MEMBERS)
    config = load_suite("toys.yaml").run_of("letters", 1)
    runs.run(config, "runs/alone")
    assert (fresh_place / "runs/alone" / STEPS[1] / "model.safetensors").read_bytes() == weights["letters/seed-1"]
    ours, alone = suite / "letters/seed-1/results.json", fresh_place / "runs/alone/results.json"
    assert reproducible(ours) == reproducible(alone)


def test_what_is_finished_is_neither_trained_nor_judged_again(place, monkeypatch):
    before = numbers(place / "runs/toys")
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("it was run"))
    monkeypatch.setattr(Model, "predict", lambda *_, **__: pytest.fail("it was judged"))
    result = run_suite("toys.yaml")
    assert not result.failures
    assert numbers(place / "runs/toys") == before
    assert result.results == json.loads((place / "runs/toys/suite.json").read_text())


@pytest.mark.parametrize("damaged", ["results.json", f"{STEPS[1]}/model.safetensors", "member.json"])
def test_what_is_damaged_is_made_again(damaged, place, monkeypatch):
    before = numbers(place / "runs/toys")
    file = place / "runs/toys/letters/seed-1" / damaged
    file.write_bytes(file.read_bytes()[:-20])
    executed, execute = [], Run.execute
    monkeypatch.setattr(Run, "execute", lambda run, *rest: (executed.append(run.name), execute(run, *rest)))
    assert not run_suite("toys.yaml").failures
    assert executed == ["toys: letters, seed 1"]
    assert numbers(place / "runs/toys") == before


def test_a_run_that_is_half_remade_is_not_shown_and_stops_nothing(place, monkeypatch):
    """Its results hold the teacher alone by then, those of the other seed both models."""
    with (place / "letters/train.csv").open("a") as file:
        file.write("bazbc,earlier\n")
    count, complete = [0], folder_module.RunFolder.complete

    def stop(self, *arguments):
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return complete(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.RunFolder, "complete", stop)
        with pytest.raises(KeyboardInterrupt):
            run_suite("toys.yaml", only=["letters"])
    assert len(results_of(place / "runs/toys", "letters", 0)["models"]) == 1
    expected = dict.fromkeys(MEMBERS, "finished") | {MEMBERS[0]: "not run"}
    assert not run_suite("toys.yaml", only=["lengths"]).failures
    assert states(place / "runs/toys") == expected
    executed = []
    monkeypatch.setattr(Run, "execute", lambda run, *_: (executed.append(run.name), fail())[1])
    assert list(run_suite("toys.yaml", only=["letters"]).failures) == MEMBERS[:2]
    assert executed == ["toys: letters, seed 0", "toys: letters, seed 1"]
    assert not run_suite("toys.yaml", only=["lengths"]).failures
    assert states(place / "runs/toys") == expected | {MEMBERS[1]: "not run"}  # its remake had begun


def fail():
    raise TrainingError("no")


def changed(file, change):
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("results.json", lambda found: found["models"].pop()),
        ("member.json", lambda found: found.update(format_version=0)),
        ("member.json", lambda found: found.pop("steps")),
        (f"{STEPS[1]}/step.json", lambda found: found.update(fingerprint="of another model")),
    ],
    ids=["results", "version", "no steps", "step"],
)
def test_results_that_are_not_those_that_were_sealed_are_not_shown(file, change, place):
    changed(place / "runs/toys/letters/seed-1" / file, change)
    found = summarize(load_suite("toys.yaml"), place / "runs/toys", {}, {})["tasks"][0]
    assert [run["state"] for run in found["runs"]] == ["finished", "not run"]
    assert [model["seeds"] for model in found["models"]] == [1, 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_further_split_that_one_seed_was_scored_on_alone_is_that_seeds(seed, place):
    """As between the runs of two seeds that are made again because labels of AX have come."""
    scores = {name: {"matthews_correlation": 0.1 * number} for number, name in enumerate(STEPS)}
    folder = place / "runs/toys"
    changed(folder / f"letters/seed-{seed}/member.json", lambda seal: seal.update(further={"ax": scores}))
    models = summarize(load_suite("toys.yaml"), folder, {}, {})["tasks"][0]["models"]
    for number, model in enumerate(models):
        value = 0.1 * number
        spread = {"median": value, "min": value, "max": value}
        assert model["further"] == {"ax": {"matthews_correlation": spread}}
        assert model["seeds"] == 2


def test_a_changed_recipe_runs_what_it_concerns(place, monkeypatch):
    assert states(place / "runs/toys") == dict.fromkeys(MEMBERS, "finished")
    tasks = suite_values()["tasks"] | {"letters": {"task": "letters.yaml", "teacher": {"epochs": 0.7}}}
    write_suite(place / "toys.yaml", tasks=tasks)
    executed = []
    monkeypatch.setattr(Run, "execute", lambda run, *_: (executed.append(run.name), fail())[1])
    run_suite("toys.yaml", only=["lengths"])
    assert executed == []
    assert states(place / "runs/toys") == dict.fromkeys(MEMBERS[:2], "not run") | dict.fromkeys(MEMBERS[2:], "finished")
    run_suite("toys.yaml")
    assert executed == ["toys: letters, seed 0", "toys: letters, seed 1"]


@pytest.mark.parametrize("completed", [1, 2])
def test_a_stopped_suite_shows_what_there_is_and_ends_with_the_same_numbers(
    completed, half_place, finished_place, monkeypatch
):
    """Each run completes two steps; the second and the third run are to be made."""
    count, complete = [0], folder_module.RunFolder.complete

    def stop(self, *arguments):
        if count[0] == completed:
            raise KeyboardInterrupt
        count[0] += 1
        return complete(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.RunFolder, "complete", stop)
        with pytest.raises(KeyboardInterrupt):
            run_suite("toys.yaml")
    found = states(half_place / "runs/toys")
    middle = ["finished", "not run"] if completed == 2 else ["not run", "not run"]
    assert list(found.values()) == ["finished", *middle, "finished"]
    trained, train = [], loop.train
    monkeypatch.setattr(
        "bertcompress.compressors.fitting.train", lambda *a, **k: (trained.append(1), train(*a, **k))[1]
    )
    run_suite("toys.yaml")
    assert len(trained) == 4 - completed
    assert numbers(half_place / "runs/toys") == numbers(finished_place / "runs/toys")


def test_kill_9_and_the_same_command_again(half_place, finished_place):
    script = (
        "import os, signal, sys\n"
        "from bertcompress import cli\n"
        "from bertcompress.pipeline.folder import RunFolder\n"
        "complete, count = RunFolder.complete, []\n"
        "def kill(self, *arguments):\n"
        "    count.append(1)\n"
        "    if len(count) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return complete(self, *arguments)\n"
        "RunFolder.complete = kill\n"
        "sys.argv = ['bertcompress', 'suite', 'toys.yaml']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(states(half_place / "runs/toys").values()) == ["finished", "not run", "not run", "finished"]
    again = CliRunner().invoke(cli.app, ["suite", "toys.yaml"])
    assert again.exit_code == 0, again.output
    assert numbers(half_place / "runs/toys") == numbers(finished_place / "runs/toys")


def test_a_failed_run_costs_no_other_and_is_done_next_time(half_place, finished_place, monkeypatch):
    def fail(run, *rest):
        if run.name == "toys: letters, seed 1":
            raise TrainingError("the loss is [not] finite")
        return execute(run, *rest)

    execute = Run.execute
    with monkeypatch.context() as patch:
        patch.setattr(Run, "execute", fail)
        found = CliRunner().invoke(cli.app, ["suite", "toys.yaml"])
    assert found.exit_code == 1
    assert "letters/seed-1 failed: the loss is [not] finite" in found.stdout
    assert states(half_place / "runs/toys") == {name: "finished" for name in MEMBERS} | {MEMBERS[1]: "failed"}
    assert "failed: the loss is" in (half_place / "runs/toys/suite.md").read_text()
    letters = numbers(half_place / "runs/toys")["tasks"][0]
    assert [model["seeds"] for model in letters["models"]] == [1, 1]
    assert not run_suite("toys.yaml").failures
    assert numbers(half_place / "runs/toys") == numbers(finished_place / "runs/toys")


def test_what_starts_from_a_failed_teacher_fails_with_it(fresh_place, monkeypatch):
    def fail(run, *rest):
        raise TrainingError("no")

    monkeypatch.setattr(Run, "execute", fail)
    config = write_suite(fresh_place / "toys.yaml", seeds=[3], start_from={"letters": "lengths"})
    failures = run_suite(config).failures
    assert list(failures) == ["lengths/seed-3", "letters/seed-3"]
    assert failures["letters/seed-3"] == "it starts from the teacher of lengths/seed-3, which failed."


def test_a_defect_of_the_library_is_no_failed_run(fresh_place, monkeypatch):
    monkeypatch.setattr(Run, "execute", lambda *_: (_ for _ in ()).throw(AttributeError("a defect")))
    with pytest.raises(AttributeError, match="a defect"):
        run_suite("toys.yaml")


def test_no_model_or_data_outlive_their_run(fresh_place, monkeypatch):
    """What is alive at the start of a run was alive at the start of the first."""
    models, alive = [], []
    make, execute = Model.__init__, Run.execute

    def remember(model, *arguments, **options):
        make(model, *arguments, **options)
        models.append(weakref.ref(model))

    def count(run, *rest):
        gc.collect()
        alive.append(sum(model() is not None for model in models))
        return execute(run, *rest)

    monkeypatch.setattr(Model, "__init__", remember)
    monkeypatch.setattr(Run, "execute", count)
    tasks = {"letters": {"task": "letters.yaml"}}
    run_suite(write_suite(fresh_place / "toys.yaml", tasks=tasks, seeds=[0, 1, 2], compress=[]))
    assert len(models) > 10
    assert alive == [0, 0, 0]


def test_a_chain_that_cannot_work_is_refused_before_anything_is_trained(fresh_place, monkeypatch):
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("it was run"))
    soft = {"compress": {0: {"objective": "soft"}}}
    tasks = {"letters": {"task": "letters.yaml"}, "lengths": {"task": "lengths.yaml", **soft}}
    write_suite(fresh_place / "toys.yaml", tasks=tasks)
    with pytest.raises(ConfigError, match=r"^tasks\.lengths: compress\[0\] extract_then_distill: .*use 'logits'"):
        run_suite("toys.yaml")
    assert not (fresh_place / "runs").exists()


def test_two_suites_in_one_folder_are_refused(place, monkeypatch):
    def second(*_):
        with pytest.raises(RunError, match="in use"):
            run_suite("toys.yaml")
        raise TrainingError("enough")

    write_suite(place / "toys.yaml", seeds=[0, 1, 2])
    monkeypatch.setattr(Run, "execute", second)
    assert set(run_suite("toys.yaml").failures.values()) == {"enough"}


def test_only_one_task_is_run_and_the_table_shows_all(fresh_place):
    found = CliRunner().invoke(cli.app, ["suite", "toys.yaml", "--only", "letters", "--set", "seeds=[1]"])
    assert found.exit_code == 0, found.output
    assert states(fresh_place / "runs/toys") == {"letters/seed-1": "finished", "lengths/seed-1": "not run"}
    rows = [line.split() for line in found.stdout.splitlines()]
    assert any(row[1:2] == ["letters"] and "accuracy" in row for row in rows)
    assert any(row[1:5] == ["lengths", "│", "not", "run"] for row in rows)
    assert found.stdout.endswith("Table: runs/toys/suite.md\n")
