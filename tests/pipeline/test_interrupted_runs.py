"""Runs that are stopped, killed, out of disk, or two at once."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from safetensors import SafetensorError

from bertcompress import runs
from bertcompress.errors import CheckpointError, RunError
from bertcompress.model import Model
from bertcompress.pipeline import judging
from bertcompress.pipeline import run as run_module
from bertcompress.training import checkpoint

from .toy_run import (
    QUANTIZE,
    STEPS,
    STUDENT,
    TRAINING,
    cli,
    environment,
    layout,
    reproducible,
    weights,
    whole_layout,
    write_config,
)

SCRIPT = Path(__file__).with_name("interrupted_script.py")


def test_a_second_run_at_once_is_refused_and_the_first_goes_on(fresh_place, monkeypatch):
    seconds = []

    def meanwhile(*arguments, **options):
        if not seconds:
            seconds.append(cli("run", "toy.yaml", "--output", "runs/toy"))
        return evaluate(*arguments, **options)

    evaluate = judging.evaluate
    monkeypatch.setattr(judging, "evaluate", meanwhile)
    runs.run("toy.yaml", "runs/toy")
    (second,) = seconds
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr.splitlines()[-1].startswith("runs/toy is in use by another run; wait for it, stop it, or")
    assert "Traceback" not in second.stderr
    assert layout(fresh_place / "runs/toy") == whole_layout()


def test_the_report_is_written_while_the_folder_is_held(place, monkeypatch):
    from bertcompress import report

    def second(folder):
        with pytest.raises(RunError, match="in use"):
            runs.prepare("toy.yaml", folder).execute()
        return write_cards(folder)

    write_cards = report.write_cards
    monkeypatch.setattr(report, "write_cards", second)
    runs.run("toy.yaml", "runs/toy")


@pytest.fixture
def quick_checkpoints(monkeypatch):
    """A checkpoint after every training step."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)


@pytest.mark.usefixtures("quick_checkpoints")
@pytest.mark.parametrize("saves", [5, 12, 24])
def test_a_run_that_is_stopped_in_training_ends_with_the_same_numbers(saves, fresh_place, finished_place, monkeypatch):
    """Each of the two trainings has 12 steps, so 12 is the first one's last."""
    count = [0]

    def stop(self, *arguments):
        save(self, *arguments)
        count[0] += 1
        if count[0] == saves:
            raise KeyboardInterrupt

    save = checkpoint.Checkpoints.save
    monkeypatch.setattr(checkpoint.Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        runs.run("toy.yaml", "runs/toy")
    made = saves > 12
    assert (fresh_place / "runs/toy/0-teacher").exists() is made
    assert (fresh_place / "runs/toy/results.json").exists() is made
    runs.run("toy.yaml", "runs/toy")
    assert count[0] == 24  # no step was trained twice
    expected = finished_place / "runs/toy"
    assert reproducible(fresh_place / "runs/toy/results.json") == reproducible(expected / "results.json")
    assert weights(fresh_place / "runs/toy") == weights(expected)
    assert layout(fresh_place / "runs/toy") == whole_layout()


@pytest.mark.usefixtures("quick_checkpoints")
def test_time_before_an_interruption_counts(fresh_place, monkeypatch):
    def stop(self, *arguments):
        time.sleep(1.5)
        save(self, *arguments)
        raise KeyboardInterrupt

    save = checkpoint.Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            runs.run("toy.yaml", "runs/toy")
    time.sleep(3)  # does not count: nobody worked
    began = time.monotonic()
    runs.run("toy.yaml", "runs/toy")
    elapsed = time.monotonic() - began
    teacher = json.loads((fresh_place / "runs/toy/results.json").read_text())["models"][0]
    assert 1.5 < teacher["measured"]["seconds"] < elapsed + 3


def test_an_interrupted_run_can_be_reported(fresh_place, monkeypatch):
    from bertcompress.report import write_report

    with monkeypatch.context() as patch:
        patch.setattr(run_module.RunFolder, "complete", stop_at(STEPS[1], KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            runs.run("toy.yaml", "runs/toy")
    results = json.loads((fresh_place / "runs/toy/results.json").read_text())
    assert [model["name"] for model in results["models"]] == list(STEPS[:1])
    write_report([fresh_place / "runs/toy"])
    assert (fresh_place / "runs/toy/report.md").read_text().count("planned, not finished") == 2


def stop_at(step, error):
    """A `RunFolder.complete` that fails for one step."""
    complete = run_module.RunFolder.complete

    def stop(self, name, *arguments):
        if name == step:
            raise error
        return complete(self, name, *arguments)

    return stop


@pytest.mark.parametrize("place_in_complete", ["before", "between", "after"])
def test_a_step_is_never_half_there(place_in_complete, fresh_place, finished_place, monkeypatch):
    """Stops around the two renames that put a step in the place of an older one."""
    run = fresh_place / "runs/toy"
    shutil.copytree(finished_place / "runs/toy", run)
    write_config(fresh_place / "toy.yaml", compress=[{**STUDENT, "temperature": 3.0}, QUANTIZE])
    rename, calls = Path.rename, []

    def stop(self, target):
        if STEPS[1] in str(self) and target.name in (STEPS[1], f"{STEPS[1]}.old"):
            calls.append(target)
            if len(calls) == {"before": 1, "between": 2, "after": 0}[place_in_complete]:
                raise KeyboardInterrupt
            moved = rename(self, target)
            if (len(calls), place_in_complete) == (2, "after"):
                raise KeyboardInterrupt
            return moved
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            runs.run("toy.yaml", run)
    assert len(calls) == (1 if place_in_complete == "before" else 2)
    runs.run("toy.yaml", run)
    runs.run("toy.yaml", fresh_place / "runs/fresh")
    assert weights(run) == weights(fresh_place / "runs/fresh")
    assert layout(run) == whole_layout()


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    CheckpointError("the model cannot be written"),
]
FULL[-1].__cause__ = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", FULL, ids=["python", "safetensors", "ours"])
def test_a_full_disk_is_told_and_costs_no_finished_step(error, fresh_place, finished_place, monkeypatch):
    def full(self, folder):
        if STEPS[1] in str(folder):
            Path(folder).mkdir(exist_ok=True)
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            raise error
        return save(self, folder)

    save = Model.save_pretrained
    run = fresh_place / "runs/toy"
    with monkeypatch.context() as patch:
        patch.setattr(Model, "save_pretrained", full)
        with pytest.raises(RunError, match=r"the disk is full .*Finished steps are kept; free some space"):
            runs.run("toy.yaml", run)
    teacher = (run / STEPS[0] / "model.safetensors").stat().st_mtime_ns
    assert not (run / STEPS[1]).exists()
    runs.run("toy.yaml", run)
    assert (run / STEPS[0] / "model.safetensors").stat().st_mtime_ns == teacher
    assert weights(run) == weights(finished_place / "runs/toy")
    assert layout(run) == whole_layout()


def test_other_errors_of_the_system_are_not_called_a_full_disk(fresh_place, monkeypatch):
    monkeypatch.setattr(
        run_module.RunFolder, "complete", stop_at(STEPS[0], PermissionError(errno.EACCES, "Permission denied"))
    )
    with pytest.raises(PermissionError):
        runs.run("toy.yaml", "runs/toy")


def test_files_of_trackers_stay_with_their_step(fresh_place, monkeypatch):
    work = run_module.RunFolder.work

    def tracked(self, name):
        (work(self, name) / "trackers").mkdir()
        (work(self, name) / "trackers" / "events").write_text(name)
        return work(self, name)

    monkeypatch.setattr(run_module.RunFolder, "work", tracked)
    runs.run("toy.yaml", "runs/toy")
    assert layout(fresh_place / "runs/toy") == whole_layout() | {f"{name}/trackers/events" for name in STEPS}


def test_ctrl_c_ends_with_130_and_the_command_goes_on(fresh_place):
    config = write_config(fresh_place / "toy.yaml", teacher={"model": "bert", **TRAINING, "epochs": 2000})
    checkpoints = fresh_place / "runs/toy/.work/0-teacher/checkpoint"
    errors = interrupt(config, lambda log: list(checkpoints.glob("step-*")))
    assert "Traceback" not in errors
    assert errors.endswith(f"run the same again:\n  bertcompress run {config}\n")
    assert list(checkpoints.glob("step-*"))
    errors = interrupt(config, lambda log: "continues from the checkpoint after step" in log.read_text())
    assert "0-teacher: continues from the checkpoint after step" in errors


def interrupt(config, ready):
    """Start a run in a process of its own, send it Ctrl-C when `ready`, and return what it said on stderr."""
    log = config.with_name("log")
    with log.open("w") as stream:
        command = [sys.executable, str(SCRIPT), "run", str(config)]
        # Whoever started the tests in the background may have had SIGINT ignored, which children inherit.
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, stderr=stream, env=environment(), cwd=config.parent, preexec_fn=heard)
    try:
        limit = time.monotonic() + 120
        while not ready(log) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, log.read_text()
    finally:
        process.kill()
    return log.read_text()
