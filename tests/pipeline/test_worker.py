"""A run's search, shared with a process that joins it, killed and resumed: always the same results."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertcompress import runs
from bertcompress.errors import BertCompressError, ConfigError, RunError

from .toy_run import TRAINING, environment, one_thread, reproducible, write_config

SCRIPT = Path(__file__).with_name("shared_search_script.py")
SEARCH = {
    "method": "layer_mapping_search",
    "num_layers": 2,
    "objective": {"hidden": 1, "soft": 1},
    **{**TRAINING, "epochs": 1},
    "ordered": True,
    "population": 4,
    "generations": 3,
    "generation_patience": None,
    "finalists": 2,
    "finalist_seeds": 1,
    "proxy_share": 0.5,
}


@pytest.fixture
def search_place(fresh_place):
    write_config(fresh_place / "search.yaml", compress=[SEARCH])
    return fresh_place


@pytest.fixture(scope="module")
def alone(finished_place):
    """The results of the search by one process."""
    write_config(finished_place / "search.yaml", compress=[SEARCH])
    with one_thread():
        runs.run(finished_place / "search.yaml", finished_place / "runs" / "search")
    return reproducible(finished_place / "runs" / "search" / "results.json")


def start(command, place, **more):
    words = [sys.executable, str(SCRIPT), command, "search.yaml", "--output", "runs/search"]
    around = {**environment(), **more}
    return subprocess.Popen(words, cwd=place, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    told, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return told, errors


def wait_for(condition):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_run_with_a_worker_gives_the_results_of_one_alone(alone, search_place):
    main = start("run", search_place, WAIT="1")
    wait_for((search_place / "runs/search/.lock").exists)
    helper = start("worker", search_place)
    (_, mine), (told, theirs) = finish(main), finish(helper)
    assert reproducible(search_place / "runs/search/results.json") == alone
    assert "Shared: 1-layer_mapping_search" in told
    each = [re.findall(r"generation \d of 3, (\[[\d, ]+\]) has", errors) for errors in (mine, theirs)]
    assert all(each)  # both had a part in it
    evaluated = [*each[0], *each[1]]
    assert len(evaluated) == len(set(evaluated))
    facts = json.loads((search_place / "runs/search/results.json").read_text())["models"][1]["facts"]
    assert len(evaluated) == facts["search"]["evaluated"]


def test_a_killed_run_goes_on_with_its_search(alone, search_place):
    main = start("run", search_place)
    database = search_place / "runs/search/.work/1-layer_mapping_search/checkpoint/search.db"
    assert main.stderr is not None
    while "generation 2 of 3" not in main.stderr.readline():
        assert main.poll() is None
    main.send_signal(signal.SIGKILL)
    main.communicate()
    assert database.exists()
    finish(start("run", search_place))
    assert reproducible(search_place / "runs/search/results.json") == alone


def test_facts_and_report_tell_the_search(alone, finished_place):
    folder = finished_place / "runs" / "search"
    facts = json.loads((folder / "results.json").read_text())["models"][1]["facts"]
    search = facts["search"]
    assert search["mappings"] == 2 * 4 + 6
    assert facts["mapping"] == search["finalists"][0]["mapping"]
    assert set(search["baselines"]) == {"uniform", "last", "top", "bottom", "contribution"}
    assert [len(each) for each in search["generations"]] == [4] * 3
    page, plain = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    chosen = ", ".join("none" if layer == 0 else str(layer) for layer in facts["mapping"])
    for text in (page, plain):
        assert "Which layer teaches which" in text
        assert chosen in text
    student = next(layer for layer, teacher in enumerate(facts["mapping"], start=1) if teacher)
    assert f"teacher layer {facts['mapping'][student - 1]} teaches student layer {student}" in page


def test_a_worker_without_a_run_is_refused(search_place):
    with pytest.raises(RunError, match="no process runs search in runs/search; start it with 'bertcompress run'"):
        runs.assist("search.yaml", "runs/search")


def test_a_worker_for_a_run_that_searches_nothing_is_refused(fresh_place):
    with pytest.raises(ConfigError, match="no step of toy can be shared"):
        runs.assist("toy.yaml", "runs/toy")


@pytest.mark.parametrize(
    ("names", "said"), [(["nothing-like-it"], "nothing-like-it"), (["plain.yaml"], "plain lacks a")]
)
def test_a_fitness_task_that_cannot_judge_is_refused_before_anything_is_trained(fresh_place, names, said):
    (fresh_place / "texts.txt").write_text("one\n\ntwo\n")
    (fresh_place / "plain.yaml").write_text("name: plain\nkind: unlabelled\ntrain: texts.txt\n")
    write_config(fresh_place / "search.yaml", compress=[{**SEARCH, "fitness_tasks": names}])
    with pytest.raises(BertCompressError, match=said):
        runs.run("search.yaml", "runs/search")
    assert not (fresh_place / "runs/search").exists()
