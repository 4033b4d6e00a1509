"""A run that is killed at any moment and started again ends as if it had not been."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

import bertcompress
from bertcompress import runs

from ..pipeline import toy_run

SCRIPT = Path(__file__).with_name("kill_script.py")
KILLS, SEED = 10, 20240229
TRAINING = {**toy_run.TRAINING, "epochs": 4, "evaluations_per_epoch": 3}
COUNTS = {"train": 1200, "validation": 300, "test": 400}
STEPS = ("0-teacher", "1-extract_then_distill", "2-distill", "3-post_training_quantization")
CHAIN = [
    {"method": "extract_then_distill", "num_layers": 3, "hidden_size": 24, "num_heads": 2, **TRAINING},
    {"method": "distill", "objective": {"soft": 1.0, "hard": 1.0}, **TRAINING, "epochs": 2},
    {"method": "post_training_quantization"},
]


@dataclass(frozen=True)
class Attempt:
    """A run in a process group of its own."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def phases(self) -> Path:
        return self.folder.with_suffix(".phases")

    def seconds(self) -> float:
        """Processor time so far: a clock that other work on the machine does not disturb."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def kill(self) -> str:
        """Kill the whole group, and return what it was doing."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return self.phases.read_text().splitlines()[-1] if self.phases.exists() else "importing"


@pytest.fixture
def place(tmp_path, letters_tokenizer):
    toy_run.write_checkpoint(tmp_path / "bert", letters_tokenizer, width=32)
    toy_run.write_task(tmp_path, COUNTS)
    teacher = {"model": "bert", **TRAINING}
    toy_run.write_config(tmp_path / "toy.yaml", teacher=teacher, compress=CHAIN)
    return tmp_path


@pytest.fixture
def start(place):
    """Start a run of a name in a process group of its own; none outlives the test."""
    started: list[Attempt] = []

    def start(name: str, *fatal: str) -> Attempt:
        folder = place / "runs" / name
        folder.parent.mkdir(exist_ok=True)
        folder.with_suffix(".phases").unlink(missing_ok=True)
        places = (place / "toy.yaml", folder, folder.with_suffix(".phases"))
        command = [sys.executable, str(SCRIPT), *map(str, places), *fatal]
        root = str(Path(bertcompress.__file__).parents[1])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}
        with folder.with_suffix(".log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        started.append(Attempt(process, folder))
        return started[-1]

    yield start
    for attempt in started:
        if attempt.process.poll() is None:
            attempt.kill()


def seconds_of_children() -> float:
    """Processor time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def finish(attempt: Attempt) -> Path:
    assert attempt.process.wait(timeout=600) == 0, attempt.folder.with_suffix(".log").read_text()
    return attempt.folder


def models(folder: Path) -> dict[str, bytes]:
    """All that is saved of every model, but for how long it took."""
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    return {f"{step}/{name}": (folder / step / name).read_bytes() for step in STEPS for name in names}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(start, capsys):
    before = seconds_of_children()
    whole = finish(start("whole"))
    duration = seconds_of_children() - before
    numbers, expected = toy_run.reproducible(whole / "results.json"), models(whole)
    generator, killed = random.Random(SEED), 0
    while killed < KILLS:
        moment = generator.uniform(0, duration)
        attempt = start(f"killed-{killed}")
        while attempt.process.poll() is None and attempt.seconds() < moment:
            time.sleep(0.003)
        if attempt.process.poll() is not None:  # it was quicker than the first
            shutil.rmtree(finish(attempt))
            continue
        doing = attempt.kill()
        steps = [step for step in STEPS if (attempt.folder / step).exists()]
        with capsys.disabled():
            print(f"killed after {moment:5.1f} of {duration:.1f} s: {doing}; finished steps: {len(steps)}")  # noqa: T201
        made = {step: (attempt.folder / step / "model.safetensors").stat().st_mtime_ns for step in steps}
        resumed = finish(start(f"killed-{killed}"))
        assert toy_run.reproducible(resumed / "results.json") == numbers
        assert models(resumed) == expected
        assert made == {step: (resumed / step / "model.safetensors").stat().st_mtime_ns for step in steps}
        assert not (resumed / ".work").exists()
        killed += 1


TURNS = [
    *(("saving a model", "2"), ("moving a step into its place", "1"), ("moving a step into its place", "3")),
    *(("scoring in training", "3"), ("evaluating", "1"), ("evaluating", "3")),
    *(("writing cards", "1"), ("writing the report", "1")),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_in_any_phase_ends_as_if_it_had_not_been(place, start):
    short = {**TRAINING, "epochs": 1}
    chain = [{**CHAIN[0], **short}, {**CHAIN[1], **short}, CHAIN[2]]
    toy_run.write_config(place / "toy.yaml", teacher={"model": "bert", **short}, compress=chain)
    whole = finish(start("whole"))
    numbers, expected = toy_run.reproducible(whole / "results.json"), models(whole)
    for number, (phase, turn) in enumerate(TURNS):
        attempt = start(f"killed-{number}", phase, turn)
        assert attempt.process.wait(timeout=600) == -signal.SIGKILL, phase
        assert attempt.phases.read_text().splitlines()[-1] == phase
        resumed = finish(start(f"killed-{number}"))
        assert toy_run.reproducible(resumed / "results.json") == numbers, phase
        assert models(resumed) == expected, phase
        assert not (resumed / ".work").exists(), phase


@pytest.mark.slow
def test_measured_entries_are_all_that_differs_between_two_runs(place):
    """With everything measured, which takes long; the other tests leave efficiency out."""
    short = {**TRAINING, "epochs": 0.5}
    config = toy_run.write_config(
        place / "toy.yaml",
        teacher={"model": "bert", **short},
        compress=[{"method": "post_training_quantization"}],
        evaluate=["accuracy", "loyalty", "efficiency"],
    )
    for name in ("first", "second"):
        runs.run(config, place / "runs" / name)
    first, second = (place / "runs" / name / "results.json" for name in ("first", "second"))
    assert json.loads(first.read_text()) != json.loads(second.read_text())
    assert toy_run.reproducible(first) == toy_run.reproducible(second)
