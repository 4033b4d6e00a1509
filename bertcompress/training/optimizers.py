"""AdamW with fused kernels, its parameter groups, and learning rates as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bertcompress.training.settings import TrainingSettings

EPSILON = 1e-6  # BERT's own. Where the true gradient is 0 (a key's bias), 1e-8 would turn rounding noise into steps.
FUSED_DEVICES = ("cpu", "cuda", "xpu", "mps")


def parameter_groups(
    parameters: Mapping[str, nn.Parameter], weight_decay: float, factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Split parameters into those that decay (matrices, tables) and those that do not (biases, norms, step sizes).

    Whatever has fewer than two dimensions is a bias, a norm or a step size.

    Args:
        parameters: by name.
        weight_decay: of those that decay.
        factors: a part of a parameter's name -> factor of its learning rate; the first that fits counts.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        factor = next((value for part, value in (factors or {}).items() if part in name), 1.0)
        groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "weight_decay": weight_decay if decays else 0.0, "factor": factor}
        for (factor, decays), members in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], settings: TrainingSettings, factors: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """Return AdamW (betas 0.9 and 0.999, epsilon 1e-6), fused where torch has the kernel; see `parameter_groups`."""
    devices = {parameter.device.type for parameter in parameters.values()}
    groups = parameter_groups(parameters, settings.weight_decay, factors)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, eps=EPSILON, fused=devices <= set(FUSED_DEVICES))


def learning_rate(step: int, total: int, settings: TrainingSettings) -> float:
    """Return the learning rate of step `step` (0, 1, ..., total - 1).

    It rises in equal parts to the peak over the first `warmup * total` steps, then follows the schedule. No step
    has a rate of 0: the first rises above it, and the schedule reaches it after the last.
    """
    rising = round(settings.warmup * total)
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    passed = (step - rising) / max(1, total - rising)
    if settings.schedule == "linear":
        return settings.learning_rate * (1.0 - passed)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * passed))
    return settings.learning_rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of the optimizer this rate, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
