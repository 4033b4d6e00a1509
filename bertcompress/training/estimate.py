"""How long a training will take: a few of its own steps, on random weights and random tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bertcompress.data.batching import evaluation_batches
from bertcompress.data.features import Features
from bertcompress.encoder.network import build
from bertcompress.encoder.spec import Attention, EncoderSpec
from bertcompress.training.objectives import Objective
from bertcompress.training.plan import Indices, StepPlan
from bertcompress.training.precision import autocast, resolve_precision
from bertcompress.training.randomness import preserved
from bertcompress.training.session import Session
from bertcompress.training.settings import TrainingSettings
from bertcompress.training.teacher import MIB, NEEDS, PROJECTIONS, TeacherOutputs, evaluating, run_network
from bertcompress.training.term import Batch, Term

SAMPLES = 5  # batches that are timed, after one that is not


class _Probe(Term):
    """Reads all that an objective would read; its value means nothing."""

    name = "probe"

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        outputs = [value for value in student.values() if isinstance(value, Tensor)]
        for need in NEEDS:
            outputs.extend(student.get(need) or ())
        return torch.stack([output.float().square().mean() for output in outputs]).sum()


def estimate_seconds(
    student: EncoderSpec,
    teacher: EncoderSpec | None,
    lengths: NDArray[np.integer[Any]],
    settings: TrainingSettings,
    objective: Objective | None = None,
    *,
    cache_mib: float = 2048,
    make: Callable[[EncoderSpec], nn.Module] = build,
) -> float:
    """Return the seconds that a training will take on this machine in one process, without scores and loading.

    A few of the run's own steps, from short to long, are timed; the others follow from a line through these.

    Args:
        student: what is trained.
        teacher: what it learns from, if anything.
        lengths: tokens of each training example, (n,).
        settings: of the training.
        objective: what is minimised, for what it reads of both networks; the logits alone if left out.
        cache_mib: as for `TeacherOutputs`.
        make: makes the network that is trained, of random weights.
    """
    plan = StepPlan(lengths, settings)
    if not plan.total:
        return 0.0
    needs = frozenset() if objective is None else objective.needs
    logits = objective is None or objective.needs_logits
    with preserved():
        features = _random_features(plan.lengths, student)
        live = teacher is not None and objective is not None and _live(objective, teacher, plan.lengths, cache_mib)
        live = live or settings.epochs <= 1  # what is read once is not kept
        total = _training_seconds(make(student), teacher if live else None, features, settings, needs, logits)
        if teacher is not None and not live:
            read = objective is None or objective.needs_teacher_logits
            total += estimate_forward_seconds(teacher, plan.lengths, settings, needs, logits=read)
    return total


def estimate_forward_seconds(
    spec: EncoderSpec,
    lengths: NDArray[np.integer[Any]],
    settings: TrainingSettings,
    needs: Collection[str] = frozenset(),
    *,
    logits: bool = True,
    make: Callable[[EncoderSpec], nn.Module] = build,
) -> float:
    """Return the seconds that one pass without gradients over examples of these lengths takes, as a score does."""
    with preserved():
        features = _random_features(np.asarray(lengths, dtype=np.int64), spec)
        batches = evaluation_batches(features.lengths, settings.max_tokens)
        network = make(spec)
        precision = resolve_precision(settings.precision, "cpu")

        def run(place: int) -> None:
            with evaluating(network), torch.inference_mode(), autocast(precision, torch.device("cpu")):
                run_network(network, features.collate(batches[place]), sorted(needs), logits=logits)

        return _extrapolated(run, [_padded(batch, features.lengths) for batch in batches])


def _training_seconds(
    student: nn.Module,
    teacher: EncoderSpec | None,
    features: Features,
    settings: TrainingSettings,
    needs: Collection[str],
    logits: bool,
) -> float:
    objective, outputs = _probe(needs, teacher is not None, logits), None
    if teacher is not None:
        limits = {"max_tokens": settings.max_tokens, "precision": settings.precision}
        outputs = TeacherOutputs(build(teacher), features, needs=needs, cache_mib=0, logits=logits, **limits)  # type: ignore[arg-type]
    session = Session(student, objective, features, settings, outputs, None, "estimate")
    plan = session.plan
    epoch = range(min(plan.total, plan.steps_per_epoch))
    sizes = [int(plan.lengths[np.concatenate(plan.groups(step))].sum()) for step in epoch]  # pads are hardly computed

    def run(step: int) -> None:
        session.state.step = step
        session.step()

    try:
        return _extrapolated(run, sizes) * plan.total / len(epoch)
    finally:
        session.close()


def _probe(needs: Collection[str], with_teacher: bool, logits: bool) -> Objective:
    probe = _Probe()
    probe.needs, probe.needs_teacher, probe.needs_logits = frozenset(needs), with_teacher, logits  # type: ignore[misc]
    return Objective({"probe": probe}, {"probe": 1.0})


def _extrapolated(run: Callable[[int], None], sizes: Sequence[int]) -> float:
    """Time some of the numbered jobs and return the seconds that all of them take, given their sizes."""
    order = np.argsort(sizes, kind="stable")
    picks = [int(order[round(share * (len(order) - 1))]) for share in np.linspace(0.1, 0.9, SAMPLES)]
    run(picks[SAMPLES // 2])  # the first pays for memory and kernels
    taken = []
    for pick in picks:
        began = time.perf_counter()
        run(pick)
        taken.append(time.perf_counter() - began)
    known, wanted = np.array([sizes[pick] for pick in picks], float), np.array(sizes, float)
    if np.ptp(known) == 0:
        return float(np.median(taken)) * len(sizes)
    slope, base = np.polyfit(known, taken, 1)
    if slope <= 0 or base < 0:  # noise: a line through the origin
        slope, base = float(np.median(np.array(taken) / known)), 0.0
    return float((base + slope * wanted).sum())


def _random_features(lengths: NDArray[np.int64], spec: EncoderSpec) -> Features:
    table, random = spec.embeddings, np.random.default_rng(0)
    kept = np.minimum(lengths, table.max_positions)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    # Squared: a few tokens are common and most are rare, as in a language.
    ids = (random.random(int(offsets[-1])) ** 2 * table.vocab_size).astype(np.int32)
    return Features(ids, np.zeros(len(ids), np.int8), offsets, None, table.pad_token_id)


def _live(objective: Objective, teacher: EncoderSpec, lengths: NDArray[np.int64], cache_mib: float) -> bool:
    """Return whether the teacher would run along in every epoch."""
    kept = _kept_mib(teacher, lengths, objective.teacher_places)
    if objective.needs_teacher_logits and teacher.head.task == "masked_lm":
        kept += int(lengths.sum()) * teacher.embeddings.vocab_size * 4 / MIB
    return objective.needs_live_teacher or kept > cache_mib


def _kept_mib(spec: EncoderSpec, lengths: NDArray[np.int64], places: Mapping[str, Collection[int]]) -> float:
    """Return MiB of the teacher's outputs, two bytes a number, as `TeacherOutputs` would keep them."""
    attentions = [each for layer in spec.layers for each in layer.operations if isinstance(each, Attention)]
    projected = [each.num_heads * each.head_size for each in attentions]
    sizes: dict[str, list[int]] = {need: projected for need in PROJECTIONS}
    sizes |= {"hidden_states": list(spec.widths), "attention_scores": [each.num_heads for each in attentions]}
    tokens, pairs = int(lengths.sum()), int((lengths**2).sum())
    numbers = [
        (pairs if need == "attention_scores" else tokens) * sizes[need][place]
        for need, read in places.items()
        for place in read
    ]
    return sum(numbers) * 2 / MIB


def _padded(indices: Indices, lengths: NDArray[np.int64]) -> int:
    return len(indices) * int(lengths[indices].max())
