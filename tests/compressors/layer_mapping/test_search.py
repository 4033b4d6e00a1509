"""The search gives the same answer whoever works on it, however often they are killed, and evaluates no gene twice."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from bertcompress.compressors import LayerMappingSearch
from bertcompress.compressors.layer_mapping.genes import Space
from bertcompress.compressors.layer_mapping.genetic import GeneticSettings, next_generation
from bertcompress.compressors.layer_mapping.sampler import GeneticSampler, gene_of
from bertcompress.compressors.layer_mapping.search import GeneticSearch
from bertcompress.errors import ConfigError, RunError
from bertcompress.search import workers as signs
from bertcompress.search.board import Outcome
from bertcompress.search.studies import open_storage, open_study, reached
from bertcompress.search.workers import Workers, this_worker

SCRIPT = Path(__file__).parent / "search_script.py"
script = runpy.run_path(str(SCRIPT))


def start(folder, name, pause):
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, str(SCRIPT), str(folder), name, str(pause)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def evaluated(folder):
    path = folder / "evaluated"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a search by one process, its answer in `one`."""
    folder = tmp_path_factory.mktemp("alone")
    script["main"](folder, "one", 0.0)
    return folder


def test_a_search_evaluates_each_gene_once_and_says_all(alone):
    answer = json.loads((alone / "one").read_text())
    lines = evaluated(alone)
    assert len(lines) == len(set(lines)) == len(answer["candidates"]) + 6
    assert [len(each) for each in answer["generations"]] == [8] * 5
    best = [max(each) for each in answer["generations"]]
    assert best == sorted(best)  # elites
    for gene, fitness, _ in answer["candidates"]:
        assert fitness == script["worth"](gene)
    assert [each[1]["seed"] for each in answer["finals"]] == [1, 2, 1, 2, 1, 2]


def test_two_processes_give_the_answer_of_one(alone, tmp_path):
    both = [start(tmp_path, name, 0.05) for name in ("first", "second")]
    for process in both:
        finish(process)
    answers = [(tmp_path / name).read_text() for name in ("first", "second")]
    assert answers == [(alone / "one").read_text()] * 2
    lines = evaluated(tmp_path)
    assert len(lines) == len(set(lines))
    assert set(lines) == set(evaluated(alone))


def test_a_killed_search_goes_on_and_gives_the_same_answer(alone, tmp_path):
    for wanted in (2, 9, 17):
        process = start(tmp_path, "killed", 0.1)
        while len(evaluated(tmp_path)) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed").exists()
    script["main"](tmp_path, "resumed", 0.0)
    assert (tmp_path / "resumed").read_text() == (alone / "one").read_text()
    lines = evaluated(tmp_path)
    assert len(lines) - len(set(lines)) <= 3  # what a process was at when it was killed is done again, no more


def test_a_process_that_waits_takes_over_from_one_that_dies(alone, tmp_path):
    slow = start(tmp_path, "slow", 3600)
    while not evaluated(tmp_path):
        time.sleep(0.01)
    quick = start(tmp_path, "quick", 0.0)
    while len(evaluated(tmp_path)) < 8:  # all of the first generation but what the other holds, which it waits for
        time.sleep(0.01)
    slow.send_signal(signal.SIGKILL)
    slow.wait()
    finish(quick)
    assert (tmp_path / "quick").read_text() == (alone / "one").read_text()


def test_a_finished_search_is_only_read(alone):
    before = evaluated(alone)
    script["main"](alone, "again", 0.0)
    assert evaluated(alone) == before
    assert (alone / "again").read_text() == (alone / "one").read_text()


def search(space, settings, evaluate, seed=0):
    sampler = GeneticSampler(space, settings, seed)
    study = open_study(open_storage(None, None), "here", sampler)
    return GeneticSearch(study, sampler, evaluate, "here"), study


def test_the_sampler_gives_what_the_pure_functions_give():
    space, settings = Space(3, 4), GeneticSettings(population=6, generations=3, generation_patience=None)
    found, study = search(space, settings, lambda gene: Outcome(float(sum(gene))))
    found.run()
    trials = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    genes = [gene_of(trial.params) for trial in trials]
    last = [(gene, float(sum(gene))) for gene in genes[:6]]
    assert genes[6:12] == next_generation(space, settings, 0, 1, last)
    values = {slot: float(sum(gene)) for slot, gene in enumerate(genes)}
    assert found.sampler.generations(2, values) == [genes[:6], genes[6:12], genes[12:]]


def test_a_space_smaller_than_a_population_is_searched_whole():
    seen = []
    space = Space(1, 3)
    found, _ = search(space, GeneticSettings(population=20), lambda gene: seen.append(gene) or Outcome(gene[0]))
    assert found.run().candidates[0].gene == (3,)
    assert sorted(seen) == [(1,), (2,), (3,)]


def test_a_search_without_progress_ends_early():
    settings = GeneticSettings(population=4, generations=50, generation_patience=2)
    found, _ = search(Space(4, 12), settings, lambda gene: Outcome(1.0))
    assert len(found.run().generations) == 3


def test_a_mapping_that_fails_loses_and_the_search_goes_on():
    found, _ = search(Space(2, 3), GeneticSettings(population=4, generations=2), lambda gene: Outcome(
        float("-inf") if gene[0] == 0 else 1.0))  # fmt: skip
    result = found.run()
    assert result.candidates[0].fitness == 1.0
    assert all(each.fitness == 1.0 or each.gene[0] == 0 for each in result.candidates)


def test_an_evaluation_that_breaks_leaves_its_slot_free():
    broken = [True]

    def evaluate(gene):
        if broken.pop() if broken else False:
            raise KeyboardInterrupt
        return Outcome(float(sum(gene)))

    space, settings = Space(2, 3), GeneticSettings(population=4, generations=2)
    sampler = GeneticSampler(space, settings, 0)
    storage = open_storage(None, None)
    with pytest.raises(KeyboardInterrupt):
        GeneticSearch(open_study(storage, "x", sampler), sampler, evaluate, "x").run()
    again = GeneticSampler(space, settings, 0)
    found = GeneticSearch(open_study(storage, "x", again), again, evaluate, "x").run()
    whole = search(space, settings, lambda gene: Outcome(float(sum(gene))))[0].run()
    assert found.generations == whole.generations


def test_a_process_of_another_machine_is_dead_when_it_is_silent(monkeypatch):
    study = optuna.create_study()
    watcher, clock = Workers(study), [0.0]
    monkeypatch.setattr(signs.time, "monotonic", lambda: clock[0])
    other = "elsewhere-1/12/34.00"
    study.set_user_attr("alive:" + other, 1.0)
    assert watcher.alive(other)
    clock[0] = signs.SILENCE_SECONDS - 1
    assert watcher.alive(other)
    study.set_user_attr("alive:" + other, 0.5)  # its clock may go wrong; that the sign changed is what counts
    assert watcher.alive(other)
    clock[0] += signs.SILENCE_SECONDS + 1
    assert not watcher.alive(other)


def test_processes_of_this_machine_are_known_by_number_and_start():
    watcher, me = Workers(optuna.create_study()), this_worker()
    assert watcher.alive(me)
    machine, pid, started = me.rsplit("/", 2)
    assert not watcher.alive(f"{machine}/{pid}/{float(started) - 60:.2f}")  # the number was given again


def test_ctrl_c_while_waiting_frees_the_slot(monkeypatch):
    space, settings = Space(2, 3), GeneticSettings(population=4, generations=2, generation_patience=None)
    storage = open_storage(None, None)

    def interrupted(*_):
        raise KeyboardInterrupt

    sampler = GeneticSampler(space, settings, 0)
    first = GeneticSearch(open_study(storage, "x", sampler), sampler, lambda gene: Outcome(float(sum(gene))), "x")
    with monkeypatch.context() as patched:
        patched.setattr(first, "_ended_before", interrupted)
        with pytest.raises(KeyboardInterrupt):
            first.run()
    again = GeneticSampler(space, settings, 0)
    second = GeneticSearch(open_study(storage, "x", again), again, lambda gene: Outcome(float(sum(gene))), "x")
    assert len(second.run().generations) == 2  # this process lives, and would wait for itself


def test_a_storage_that_is_gone_is_a_sentence(tmp_path):
    sampler = GeneticSampler(Space(2, 3), GeneticSettings(population=4, generations=2), 0)
    study = open_study(open_storage(None, tmp_path), "x", sampler)

    def evaluate(gene):
        (tmp_path / "search.db").write_bytes(b"no data base")
        return Outcome(1.0)

    with pytest.raises(RunError, match="x: the search's storage cannot be used"), reached("x"):
        GeneticSearch(study, sampler, evaluate, "x").run()


def test_an_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(RunError, match="storage: nonsense cannot be opened"):
        open_storage("nonsense", tmp_path)


def test_names_of_tasks_are_a_list():
    with pytest.raises(ConfigError, match=r"fitness_tasks: got 'sst2', allowed is a list of names, such as \['sst2'\]"):
        LayerMappingSearch(num_layers=2, fitness_tasks="sst2")
