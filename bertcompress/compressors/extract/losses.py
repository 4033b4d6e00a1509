"""The loss that importance is measured by, batch by batch."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bertcompress.errors import ConfigError
from bertcompress.training.masking import Masking
from bertcompress.training.objectives import Objective, build_objective
from bertcompress.training.teacher import evaluating, run_network

if TYPE_CHECKING:
    from bertcompress.data.base import Task
    from bertcompress.data.features import Features
    from bertcompress.model import Model

logger = logging.getLogger(__name__)
GUESSING = 0.95  # of the loss of guessing any word: what a head that was never trained is not below
TOKENS = 4096  # padded tokens in one batch; larger ones are cut


def loss_name(wanted: str, model: Model, task: Task) -> str:
    """Return the loss that "auto" stands for: "mlm" with a head for it, "task" where there are labels, else "self".

    Raises:
        ConfigError: the model or the task does not allow what was asked for.
    """
    from bertcompress.data.base import has_labels

    head = model.spec.head.task
    labelled = task.train is not None and has_labels(task.train) and head not in ("none", "masked_lm")
    name = wanted
    if wanted == "auto":
        name = "mlm" if head == "masked_lm" else "task" if labelled else "self"
    if name == "task" and not labelled:
        raise ConfigError(
            f"importance_loss: got 'task', and task {task.name} has no labels for the model's head ({head!r}); allowed "
            "are 'self', 'auto'."
        )
    if name != "task" and model.tokenizer.mask_token_id is None:
        raise ConfigError(
            f"importance_loss: {name!r} hides tokens, and the tokenizer has no mask token; allowed is 'task' with a "
            "task that has labels, or importance='magnitude'."
        )
    return name


def usable_loss(wanted: str, name: str, model: Model, features: Features, *, batch_size: int, seed: int) -> str:
    """Return `name`, or "self" where "auto" chose a head for hidden tokens that only guesses.

    Checkpoints without such a head, sentence encoders for one, get a new one with the texts; its gradients are noise.
    """
    if wanted != "auto" or name != "mlm":
        return name
    with evaluating(model.network), torch.inference_mode():
        (loss,) = batch_losses("mlm", model, features, kind="unlabelled", batches=1, batch_size=batch_size, seed=seed)
        found, guessed = float(loss()), math.log(model.spec.embeddings.vocab_size)
    if found < GUESSING * guessed:
        return name
    logger.info("importance: the head for hidden tokens only guesses (loss %.2f); measured by 'self'", found)
    return "self"


def batch_losses(
    name: str, model: Model, features: Features, *, kind: str, batches: int, batch_size: int, seed: int
) -> Iterator[Callable[[], Tensor]]:
    """Yield what computes the loss of each batch; float32, on the device that the model is on.

    "task" is the loss of the labels, "mlm" that of hidden tokens. "self" is for encoders without any head: how far the
    last states of a text with hidden tokens are from those without, squared, mean over tokens and dimensions.

    Args:
        name: "task", "mlm" or "self".
        model: whose loss it is.
        features: rows to draw from.
        kind: the task's kind.
        batches: how many; fewer where there are not enough rows.
        batch_size: rows of a batch.
        seed: of the rows and of the hidden tokens.
    """
    masking = None if name == "task" else Masking.of(model.tokenizer, seed)
    objective = None
    if name != "self":
        weights = {"hard" if name == "task" else "mlm": 1.0}
        objective = build_objective(weights, student=model.spec, kind=kind, masking=masking)
    device = next(model.network.parameters()).device
    order = np.random.default_rng([seed, 1]).permutation(len(features))
    for number, rows in enumerate(_cut(order, features, batches, batch_size)):
        batch = features.collate(rows)
        plain = {key: value.clone().to(device) for key, value in batch.items()}
        counts = features.counts(rows)
        if masking is not None:
            masking.apply(batch, features, rows, number)
            counts["masked"] = masking.count(features, rows)
        batch = {key: value.to(device) for key, value in batch.items()}
        if objective is None:
            yield functools.partial(_restored, model, batch, plain)
        else:
            yield functools.partial(_answered, model, objective, batch, counts)


def _answered(model: Model, objective: Objective, batch: dict[str, Tensor], counts: dict[str, int]) -> Tensor:
    loss: Tensor = objective(run_network(model.network, batch), None, batch, counts)
    return loss


def _cut(order: np.ndarray, features: Features, batches: int, batch_size: int) -> Iterator[np.ndarray]:
    lengths = features.lengths
    for start in range(0, min(len(order), batches * batch_size), batch_size):
        rows = order[start : start + batch_size]
        yield rows[: max(1, TOKENS // int(lengths[rows].max()))]


def _restored(model: Model, batch: dict[str, Tensor], plain: dict[str, Tensor]) -> Tensor:
    """Return the squared distance of the last states with and without hidden tokens."""
    with torch.no_grad():
        target = run_network(model.network, plain, ["hidden_states"], logits=False).hidden_states[-1]
    states = run_network(model.network, batch, ["hidden_states"], logits=False).hidden_states[-1]
    mask = batch["attention_mask"].unsqueeze(-1).float()
    distance: Tensor = ((states - target).square() * mask).sum() / (mask.sum() * states.shape[-1])
    return distance
