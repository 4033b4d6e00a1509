"""Run by the resume and data-parallel tests in processes of their own: trains a tiny student and saves its weights.

Arguments: the folder to work in, the name of the result, the seconds that a step should take.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))

import conftest as small

from bertcompress.training import checkpoint
from bertcompress.training.loop import train
from bertcompress.training.objectives import build_objective
from bertcompress.training.settings import TrainingSettings
from bertcompress.training.teacher import TeacherOutputs


def main(folder: Path, name: str, pause: float, dropout: float) -> None:
    """Train, and write `name`.safetensors and a line per step."""
    checkpoint.SECONDS, checkpoint.SHARE = 0.02, 1e9
    torch.set_num_threads(1)
    features = small.make_features(41)
    student, teacher = small.make_spec(dropout=dropout, hidden=8), small.make_spec(layers=4)
    network = small.make_network(student, 1)
    objective = build_objective({"hard": 1, "soft": 1, "hidden": 1}, student=student, teacher=teacher)
    teaching = {"needs": objective.needs, "max_tokens": 64, "precision": "fp32"}
    outputs = TeacherOutputs(small.make_network(teacher, 2), features, **teaching)
    sizes = {"batch_size": 8, "gradient_accumulation_steps": 2, "max_tokens": 40}
    settings = TrainingSettings(epochs=6, learning_rate=1e-3, precision="fp32", **sizes)
    progress = folder / f"{name}.steps"

    def slow(module, inputs, output):
        time.sleep(pause)
        with progress.open("a") as lines:
            lines.write("forward\n")

    network.register_forward_hook(slow)
    scores = []

    def score(module):
        scores.append(float(sum(each.abs().sum() for each in module.parameters())))
        return -scores[-1] if dropout else scores[-1]  # the best is an early step, or the last

    where = folder / "checkpoint" if dropout else None
    result = train(network, objective, features, settings, teacher=outputs, score=score, checkpoint=where)
    if result.processes == 1 or torch.distributed.get_rank() == 0:
        tensors = {**network.state_dict(), **objective.state_dict()}
        tensors["processes"] = torch.tensor(result.processes)
        curve = torch.tensor(result.curves["loss"] + result.curves["score"], dtype=torch.float64)
        save_file({**{key: each.contiguous() for key, each in tensors.items()}, "curve": curve}, folder / name)


def last_words(folder: Path, name: str) -> None:
    """Write whether this process, about to exit, is still in a group: its threads could abort it then."""
    (folder / f"{name}.exit-{os.getpid()}").write_text(str(torch.distributed.is_initialized()))


if __name__ == "__main__":
    atexit.register(last_words, Path(sys.argv[1]), sys.argv[2])  # the first registered runs last
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
