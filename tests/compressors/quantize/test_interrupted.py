"""What a training with quantizers goes on from, and that its end does not depend on how its steps are divided."""

from __future__ import annotations

import dataclasses
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bertcompress.compressors import KDLSQ, Context, QuantizationAwareTraining
from bertcompress.compressors.quantize import learned, steps
from bertcompress.training import checkpoint
from bertcompress.training.session import Session

SCRIPT = Path(__file__).parent / "tracked_script.py"
QUICK = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 16, "max_length": 32, "precision": "fp32"}


class StopError(Exception):
    pass


@pytest.fixture
def interrupted(model, task, tmp_path, monkeypatch):
    """Train until half of the steps are done, with a checkpoint after each."""
    monkeypatch.setattr(checkpoint.Checkpoints, "due", lambda self: True)

    def train(compressor):
        step, folder = Session.step, tmp_path / "step"

        def stop(self):
            if self.state.step == 6:
                raise StopError
            return step(self)

        with monkeypatch.context() as patch:
            patch.setattr(Session, "step", stop)
            with pytest.raises(StopError):
                compressor.compress(model, task, context=Context(folder))
        return Context(folder)

    return train


def weights_of(model):
    return model.network.state_dict()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (KDLSQ(**QUICK, weight_bits=2), {"weight_gradient": "clip"}),
        (KDLSQ(**QUICK, weight_bits=4, activation_steps="token"), {"activation_bits": 4}),
        (KDLSQ(**QUICK, weight_bits=4), {"weight_bits": 3}),
        (KDLSQ(**QUICK), {"initialization": "mse"}),
        (QuantizationAwareTraining(**QUICK, weight_bits=2), {"weight_gradient": "clip"}),
    ],
)
def test_another_training_s_checkpoint_is_not_taken_up(before, change, interrupted, model, task, caplog):
    context, after = interrupted(before), dataclasses.replace(before, **change)
    found = after.compress(model, task, context=context)
    assert "other settings, data or weights" in caplog.text
    assert same(weights_of(found), weights_of(after.compress(model, task)))


@pytest.mark.parametrize("compressor", [KDLSQ(**QUICK, initialization="lsq"), QuantizationAwareTraining(**QUICK)])
def test_a_calibration_that_is_rounded_otherwise_is_still_the_same_training(
    compressor, interrupted, model, task, monkeypatch, caplog
):
    """As another number of threads rounds it."""
    whole, context = compressor.compress(model, task), interrupted(compressor)
    begin = steps.initial_step
    monkeypatch.setattr(steps, "initial_step", lambda *given: begin(*given) * (1 + 1e-6))
    found = compressor.compress(model, task, context=context) if type(compressor) is KDLSQ else None
    if found is None:  # its steps follow the values while it trains, too
        with monkeypatch.context() as patch:
            patch.setattr(learned.LearnedLinear, "begin", lambda self: None)
            patch.setattr(steps, "initial_step", begin)
            found = compressor.compress(model, task, context=context)
    assert "ignored" not in caplog.text
    assert same(weights_of(found), weights_of(whole))


def test_steps_that_follow_values_do_not_depend_on_micro_batches_or_processes(tmp_path):
    threads = torch.get_num_threads()
    run = runpy.run_path(str(SCRIPT), run_name="script")["main"]
    for tokens in (4096, 24):
        run(tmp_path, tokens)
    torch.set_num_threads(threads)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    around = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    around["PYTHONPATH"] = str(Path(__file__).parents[3])
    done = subprocess.run(
        [*launch, str(SCRIPT), str(tmp_path), "4096"], env=around, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    one, divided, first, second = (
        load_file(tmp_path / name) for name in ("1-4096-0", "1-24-0", "2-4096-0", "2-4096-1")
    )
    assert same(first, second)
    for other in (divided, first):  # activations between two codes may go either way, too
        for name, tensor in one.items():
            if tensor.dtype == torch.int8:  # a weight that lies between two codes may go either way
                assert float((tensor != other[name]).float().mean()) < 0.001, name
            else:
                torch.testing.assert_close(other[name], tensor, rtol=0.01, atol=1e-6, msg=name)


@pytest.mark.parametrize("validated", [True, False])
def test_codes_are_those_of_the_weights_after_the_last_update(validated, model, task, monkeypatch):
    kept = []
    real = learned.quantized_state
    monkeypatch.setattr(learned, "quantized_state", lambda network, spec: kept.append(network) or real(network, spec))
    data = task if validated else dataclasses.replace(task, validation=None)
    settings = {**QUICK, "learning_rate": 1e-2, "schedule": "constant"}
    found = QuantizationAwareTraining(**settings).compress(model, data)
    for name, part in kept[0].named_modules():
        if isinstance(part, learned.LearnedLinear):
            groups = part.weight.detach().reshape(len(part.weight_step.log_step), -1)
            stored = found.network.state_dict()[f"{name}.step"]
            torch.testing.assert_close(stored, groups.abs().amax(-1) / 127, rtol=1e-6, atol=0)
