"""How far step sizes move while they are learned: one that runs away, or stays where it began, shows here."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bertcompress.compressors.quantize.learned import LearnedEmbedding
from bertcompress.compressors.quantize.steps import LearnedStep

logger = logging.getLogger(__name__)

Sizes = Mapping[str, Mapping[str, Tensor]]
Drift = dict[str, dict[str, float]]


@torch.no_grad()
def step_sizes(network: nn.Module) -> Sizes:
    """Return the step sizes of a prepared network, (groups,) each, by what has them and by the quantizer's name."""
    found: dict[str, dict[str, Tensor]] = {"weights": {}, "tables": {}, "activations": {}}
    for name, module in network.named_modules():
        if isinstance(module, LearnedStep):
            parent, _, child = name.rpartition(".")
            of_weight = child == "weight_step"
            table = isinstance(network.get_submodule(parent), LearnedEmbedding)
            kind = ("tables" if table else "weights") if of_weight else "activations"
            found[kind][name] = module.step.detach().clone()
    return found


def drift(before: Sizes, after: Sizes) -> Drift:
    """Return, for each kind of step sizes there is, their ratios to what they were, and the smallest of them.

    Args:
        before: as calibration has set them.
        after: of the same network.

    Returns:
        By kind: `median`, `least` and `most` of the ratios, and `smallest`, a step size itself.
    """
    result: Drift = {}
    for kind, steps in before.items():
        if not steps:
            continue
        ratios = torch.cat([after[kind][name] / step for name, step in steps.items()])
        result[kind] = {
            "median": float(ratios.median()),
            "least": float(ratios.min()),
            "most": float(ratios.max()),
            "smallest": min(float(step.min()) for step in after[kind].values()),
        }
    return result


def log_drift(label: str, found: Drift) -> None:
    """Say how far step sizes have moved, in one line."""
    told = [f"{kind} {each['median']:.2f} ({each['least']:.2f} to {each['most']:.2f})" for kind, each in found.items()]
    if told:
        logger.info("%s: step sizes over those of the calibration, median (least to most): %s", label, ", ".join(told))
