"""Which examples each optimizer step sees, and when scores are taken; a function of lengths and settings alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.data.batching import micro_batches, training_batches
from bertcompress.training.settings import TrainingSettings

Indices = NDArray[np.int64]


class StepPlan:
    """The whole run, step by step: step s of the run is the same examples whether or not the run was interrupted."""

    def __init__(self, lengths: NDArray[np.integer[Any]], settings: TrainingSettings) -> None:
        """Take the examples' lengths in tokens, (n,)."""
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self._settings = settings
        groups = -(-len(self.lengths) // settings.batch_size)
        self.steps_per_epoch = -(-groups // settings.gradient_accumulation_steps)
        wanted = settings.epochs * self.steps_per_epoch
        self.total = max(1, round(wanted)) if wanted > 0 else 0
        self._epoch: tuple[int, list[Indices]] = (-1, [])

    def groups(self, step: int) -> Sequence[Indices]:
        """Return the groups of examples whose gradients make step `step` (0, 1, ..., total - 1)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            settings = self._settings
            batches = training_batches(len(self.lengths), settings.batch_size, seed=settings.seed, epoch=epoch)
            self._epoch = (epoch, batches)
        size = self._settings.gradient_accumulation_steps
        return self._epoch[1][place * size : (place + 1) * size]

    def micro_batches(self, groups: Sequence[Indices], process: int = 0, processes: int = 1) -> list[Indices]:
        """Return what one process forwards, one after the other, to do its share of these groups."""
        parts: list[Indices] = []
        for group in groups:
            share = group[np.argsort(self.lengths[group], kind="stable")][process::processes]  # shares of equal work
            parts.extend(micro_batches(share, self.lengths, self._settings.max_tokens))
        return parts

    def evaluated(self, step: int) -> bool:
        """Return whether the score is taken once `step` steps are done."""
        times = self._settings.evaluations_per_epoch
        before, after = ((count * times) // self.steps_per_epoch for count in (step - 1, step))
        return step == self.total or after > before
