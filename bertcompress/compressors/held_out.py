"""What a distillation is scored by where there is nothing else: its own loss, on texts that it does not learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bertcompress.data.batching import evaluation_batches
from bertcompress.training.precision import autocast, resolve_precision
from bertcompress.training.teacher import TeacherOutputs, evaluating, run_network

if TYPE_CHECKING:
    from bertcompress.data.features import Features
    from bertcompress.training.objectives import Objective
    from bertcompress.training.settings import TrainingSettings


class HeldOutLoss:
    """Scores a network by minus the objective over all held-out examples as one step; higher is better."""

    def __init__(
        self, objective: Objective, features: Features, teacher: TeacherOutputs | None, settings: TrainingSettings
    ) -> None:
        """Take the objective that is trained, its projections included, and the teacher's outputs if it needs any."""
        self.objective, self.features, self.teacher, self.settings = objective, features, teacher, settings

    def __call__(self, network: nn.Module) -> float:
        """Return the score, without dropout; hidden tokens (`mlm`) are the same ones every time."""
        device = next(network.parameters()).device
        precision = resolve_precision(self.settings.precision, device.type)
        batches = evaluation_batches(self.features.lengths, self.settings.max_tokens)
        masking = self.objective.masking
        rows = np.arange(len(self.features))
        counts = self.features.counts(rows)
        if masking is not None:
            counts["masked"] = masking.count(self.features, rows)
        total = 0.0
        with evaluating(network), evaluating(self.objective), torch.no_grad(), autocast(precision, device):
            for indices in batches:
                collated = self.features.collate(indices)
                if masking is not None:
                    masking.apply(collated, self.features, indices, 0)
                batch = {name: tensor.to(device) for name, tensor in collated.items()}
                needs = sorted(self.objective.needs)
                output = run_network(network, batch, needs, logits=self.objective.needs_logits)
                taught = None if self.teacher is None else self.teacher.batch(indices, batch)
                total += float(self.objective(output, taught, batch, counts))
        return -total
