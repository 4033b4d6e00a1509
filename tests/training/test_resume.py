from __future__ import annotations

import dataclasses
import logging
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bertcompress.training import checkpoint as checkpoints
from bertcompress.training.checkpoint import Checkpoints
from bertcompress.training.loop import train
from bertcompress.training.objectives import build_objective
from bertcompress.training.settings import TrainingSettings

from .conftest import make_features, make_network, make_spec

SCRIPT = Path(__file__).parent / "resume_script.py"


def command(folder, name, pause, dropout=0.2):
    return [sys.executable, str(SCRIPT), str(folder), name, str(pause), str(dropout)]


def environment():
    root = str(Path(__file__).parents[2])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def run_here(monkeypatch):
    """The script's main function, run in this process with one thread; what it changes is put back."""
    monkeypatch.setattr(checkpoints, "SECONDS", checkpoints.SECONDS)
    monkeypatch.setattr(checkpoints, "SHARE", checkpoints.SHARE)
    threads = torch.get_num_threads()
    yield runpy.run_path(str(SCRIPT), run_name="script")["main"]
    torch.set_num_threads(threads)


def equal(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_training_ends_as_if_it_had_not_been(kills, tmp_path, run_here):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    run_here(whole, "result", 0, 0.2)
    total, killed = lines_of(whole), 0
    for _ in range(kills):
        process = subprocess.Popen(command(broken, "result", 0.02), env=environment(), stderr=subprocess.DEVNULL)
        wanted = lines_of(broken) + random.randint(total // (3 * kills), total // (2 * kills))
        while lines_of(broken) < wanted and process.poll() is None:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.05))  # so that it dies anywhere, also while it writes
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = lines_of(broken)
    assert killed == kills
    assert list((broken / "checkpoint").glob("step-*"))
    run_here(broken, "result", 0, 0.2)
    assert lines_of(broken) - before < total  # it did not begin again
    assert equal(load_file(whole / "result"), load_file(broken / "result"))


def lines_of(folder):
    path = folder / "result.steps"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_two_processes_train_the_same_weights_as_one(tmp_path, run_here):
    run_here(tmp_path, "one", 0, 0.0)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    local = ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    parallel = [*launch, *local, *command(tmp_path, "two", 0, 0.0)[1:]]
    around = {**environment(), "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(parallel, env=around, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.read_text() for path in tmp_path.glob("two.exit-*")] == ["False", "False"]
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert (int(one.pop("processes")), int(two.pop("processes"))) == (1, 2)
    assert torch.allclose(one.pop("curve"), two.pop("curve"), rtol=1e-5)
    assert one.keys() == two.keys()
    begun = make_network(make_spec(hidden=8), 1).state_dict()
    assert max(float((one[name] - begun[name]).abs().max()) for name in begun) > 5e-3
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-5


def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class StopError(Exception):
    pass


def run(folder, *, stop_after=None, settings=None, features=None, seed=0, score=None):
    spec = make_spec(dropout=0.2)
    network = make_network(spec, seed)
    seen = []

    def watch(module, inputs, output):
        seen.append(1)
        if stop_after is not None and len(seen) > stop_after:
            raise StopError

    network.register_forward_hook(watch)
    settings = settings or TrainingSettings(epochs=4, batch_size=8, learning_rate=1e-3)
    objective = build_objective({"hard": 1.0}, student=spec)
    try:
        result = train(network, objective, features or make_features(), settings, checkpoint=folder, score=score)
    except StopError:
        result = None
    return network, result, len(seen)


@pytest.fixture
def every_step(monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", 1e12)


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("stop_after", [1, 5, 11])
def test_it_goes_on_where_it_stopped(stop_after, tmp_path):
    expected, account, _ = run(None)
    _, nothing, _ = run(tmp_path, stop_after=stop_after)
    assert nothing is None
    network, result, forwards = run(tmp_path)
    assert forwards == 12 - stop_after
    assert equal(expected.state_dict(), network.state_dict())
    assert (result.curves, result.examples, result.steps) == (account.curves, account.examples, account.steps)
    assert [path.name for path in tmp_path.iterdir()] == ["step-12"]


@pytest.mark.usefixtures("every_step")
def test_the_best_weights_survive_an_interruption(tmp_path):
    scores = iter([0.9, 0.1, 0.2, 0.3])
    run(tmp_path, stop_after=7, score=lambda network: next(scores))
    network, result, _ = run(tmp_path, score=lambda network: next(scores))
    assert (result.best_step, result.best_score) == (3, 0.9)
    first_epoch = TrainingSettings(epochs=4, batch_size=8, learning_rate=1e-3)
    expected = iter([0.9, 0.1, 0.2, 0.3])
    assert equal(
        run(None, settings=first_epoch, score=lambda network: next(expected))[0].state_dict(), network.state_dict()
    )


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"features": make_features(seed=4)},
        {"settings": TrainingSettings(epochs=5, batch_size=8, learning_rate=1e-3)},
        {"score": lambda network: 0.0},
    ],
)
def test_a_checkpoint_of_another_training_is_ignored_and_said_so(changes, tmp_path, caplog):
    run(tmp_path, stop_after=7)
    with caplog.at_level(logging.WARNING):
        _, _, forwards = run(tmp_path, **changes)
    assert forwards == 3 * (changes.get("settings") or TrainingSettings(epochs=4)).epochs
    assert "is ignored" in caplog.text


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("name", ["network.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_ignored_and_said_so(name, tmp_path, caplog):
    run(tmp_path, stop_after=7)
    path = tmp_path / "step-7" / name
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        network, _, forwards = run(tmp_path)
    assert forwards == 12
    assert "is damaged" in caplog.text
    assert equal(run(None)[0].state_dict(), network.state_dict())


def test_trackers_are_no_part_of_what_must_agree(tmp_path, monkeypatch):
    from bertcompress.training.session import Session

    network, features = make_network(make_spec()), make_features()
    objective = build_objective({"hard": 1.0}, student=network.spec)
    prints = []
    for trackers in ((), ("wandb",)):
        settings = dataclasses.replace(TrainingSettings(), trackers=trackers)
        prints.append(Session(network, objective, features, settings, None, None, "")._fingerprint())
    assert prints[0] == prints[1]


def test_a_checkpoint_is_moved_into_place_whole(tmp_path, monkeypatch):
    saver = Checkpoints(tmp_path, "fingerprint")
    saver.save(1, {"network": {"weight": torch.ones(2)}}, {"training": {}})

    def broken(tensors, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "save_file", broken)
    with pytest.raises(OSError, match="no space"):
        saver.save(2, {"network": {"weight": torch.zeros(2)}}, {"training": {}})
    parts, _ = saver.load()
    assert torch.equal(parts["network"]["weight"], torch.ones(2))


def test_checkpoints_are_rare_where_writing_is_slow(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    saver = Checkpoints(tmp_path, "fingerprint")
    monkeypatch.setattr(saver, "_folders", lambda: now.__setitem__(0, now[0] + 5.0) or [])
    assert not saver.due()
    now[0] = checkpoints.SECONDS
    assert saver.due()
    saver.save(1, {}, {})  # takes 5 s
    now[0] += 5.0 / checkpoints.SHARE - 1
    assert not saver.due()
    now[0] += 2
    assert saver.due()
