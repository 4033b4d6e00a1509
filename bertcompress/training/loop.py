"""The one training loop: any objective, one process or many, interrupted or not, with the same end.

accelerate finds the device and the processes, sums over them and offers the trackers. The network is not wrapped
for data parallelism: each process adds up the gradients of its share of a step, and one message per step sums
them (`gradients`), so shares may be of any size, and a parameter may go unused. All that is random in a step
follows from (seed, step, process), not from what ran before it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from bertcompress.data.base import HIDDEN
from bertcompress.errors import ConfigError, DataError
from bertcompress.memory import MemoryTrimmer, kept_memory
from bertcompress.training.objectives import Objective
from bertcompress.training.progress import TrainingProgress
from bertcompress.training.randomness import preserved
from bertcompress.training.session import Score, Session
from bertcompress.training.settings import TrainingSettings
from bertcompress.training.teacher import TeacherOutputs
from bertcompress.training.tracking import Trackers, peak_memory_mib

if TYPE_CHECKING:
    from bertcompress.data.features import Features


@dataclass(frozen=True)
class TrainingResult:
    """What a training did, and what it cost.

    Attributes:
        steps: optimizer steps done; fewer than planned if `patience` ended it.
        examples: examples seen, over all processes.
        seconds: wall time, over all interruptions.
        examples_per_second: over the whole training, scores included.
        curves: [[step, value], ...] for "loss", "learning_rate" and, with a score, "score".
        best_score: the best score, None without one.
        best_step: the step of the weights that the network ends with.
        peak_memory_mib: largest resident memory of this process so far, or of the GPU.
        precision: the arithmetic of the matrix products, fp32 or bf16.
        processes: processes that shared the work.
    """

    steps: int
    examples: int
    seconds: float
    examples_per_second: float
    curves: dict[str, list[list[float]]]
    best_score: float | None
    best_step: int
    peak_memory_mib: float
    precision: str
    processes: int


def train(
    network: nn.Module,
    objective: Objective,
    features: Features,
    settings: TrainingSettings,
    *,
    teacher: TeacherOutputs | None = None,
    score: Score | None = None,
    checkpoint: Path | None = None,
    description: str = "",
    factors: Mapping[str, float] | None = None,
    origin: str | None = None,
) -> TrainingResult:
    """Train the network in place; it ends in evaluation mode, with its best weights if there is a score.

    The objective's projections are trained too and are left in it. The teacher is never changed. The global random
    generators are as before afterwards.

    Args:
        network: what to train.
        objective: what to minimise.
        features: the training examples.
        settings: how.
        teacher: outputs to learn from, over the same features; needed if the objective compares.
        score: higher is better; called with the network in evaluation mode, in the first process only.
        checkpoint: folder for checkpoints. If it holds one of this very training, that is continued, and ends with
            the same weights as an uninterrupted run. It is left there for the caller to remove.
        description: for the progress display and the trackers.
        factors: of the learning rates of some parameters, see `optimizers.parameter_groups`.
        origin: a digest of all that the network was made from, by which a checkpoint is known; by default that of the
            network itself. For networks that hold what was measured: another number of threads rounds it otherwise.

    Raises:
        ConfigError: the objective, teacher and network do not fit together, or a tracker is not installed.
        DataError: there are no examples, or the objective needs labels that are missing.
        TrainingError: the loss or the gradients are no longer finite.
    """
    _check(network, objective, features, teacher)
    with preserved(), kept_memory():
        session = Session(network, objective, features, settings, teacher, score, description, factors, origin)
        try:
            _run(session, checkpoint)
        finally:
            session.close()
    return _result(session)


def _run(session: Session, checkpoint: Path | None) -> None:
    """Train to the end."""
    main, plan = session.accelerator.is_main_process, session.plan
    began = time.monotonic()
    saver = None if checkpoint is None or not plan.total else session.resume(checkpoint)
    state, before, memory = session.state, session.state.seconds, MemoryTrimmer()
    with (
        Trackers(session.settings, session.name, checkpoint, main) as trackers,
        TrainingProgress(session.name, plan.total, state.step, visible=main) as progress,
    ):
        while state.step < plan.total and not state.stopped:
            loss, examples = session.step()
            session.record(trackers)
            if session.score is not None and plan.evaluated(state.step):
                session.evaluate(trackers)
            state.seconds = before + time.monotonic() - began
            progress.update(state.step, loss, examples)
            memory.tick()
            if saver is not None and main and saver.due():
                session.save(saver)
    session.finish()
    state.seconds = before + time.monotonic() - began


def _check(network: nn.Module, objective: Objective, features: Features, teacher: TeacherOutputs | None) -> None:
    if not len(features):
        raise DataError("train: there are no examples; check the task's training split.")
    if objective.needs_labels:
        unknown = _unlabelled(features)
        if unknown:
            raise DataError(
                f"train: the term 'hard' needs labels, and {unknown} of {_labelled(features)} have none; remove "
                "those examples, or learn from a teacher alone ('soft', 'logits')."
            )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError("train: the network has no parameter to train; train before quantizing, not after.")
    if objective.needs_teacher:
        _check_teacher(network, objective, teacher)


def _labelled(features: Features) -> str:
    if features.words is None:
        return f"{len(features)} examples"
    return f"{int((features.words >= 0).sum())} words"


def _unlabelled(features: Features) -> int:
    """Return the number of labels that are hidden; in tagging these are words."""
    if features.labels is None:
        return len(features) if features.words is None else int((features.words >= 0).sum())
    hidden = np.isnan(features.labels) if features.labels.dtype.kind == "f" else features.labels == HIDDEN
    return int(hidden.sum())


def _check_teacher(network: nn.Module, objective: Objective, teacher: TeacherOutputs | None) -> None:
    if teacher is None:
        raise ConfigError(
            "train: the objective compares with a teacher, and there is none; give teacher=TeacherOutputs."
        )
    missing = objective.needs - teacher.needs
    if missing:
        raise ConfigError(f"train: the teacher's outputs lack {sorted(missing)}; make them with needs=objective.needs.")
    own = {parameter.data_ptr() for parameter in network.parameters()}
    if any(parameter.data_ptr() in own for parameter in teacher.network.parameters()):
        raise ConfigError("train: network and teacher share weights, so the teacher would change; train a copy.")


def _result(session: Session) -> TrainingResult:
    state = session.state
    return TrainingResult(
        steps=state.step,
        examples=state.examples,
        seconds=state.seconds,
        examples_per_second=state.examples / state.seconds if state.examples and state.seconds else 0.0,
        curves=state.curves,
        best_score=state.best_score,
        best_step=state.best_step if state.best_score is not None else state.step,
        peak_memory_mib=peak_memory_mib(session.device),
        precision=session.precision,
        processes=session.accelerator.num_processes,
    )
