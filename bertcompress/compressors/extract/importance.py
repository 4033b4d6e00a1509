"""How much each unit of an encoder matters: first-order importance, or the size of its weights.

Removing a unit changes the loss by about |sum over its weights of weight * gradient|, to first order (Molchanov et al.
2017, 1611.06440, for whole units; Michel et al. 2019, 1905.10650, for heads). The absolute value is taken of the sum
over a unit's weights, batch by batch, and added up over batches, whose gradients never mix. Dropout is off.

- hidden dimension: the sum, over all places that write it into the stream, of that value for the place: the embedding
  tables, output maps with their biases, links, and normalisations.
- head: of its columns of the output map, which is the derivative with respect to a mask on the head.
- dimension inside a head: of its column of the output map, plus of its rows of queries, plus of its rows of keys.
- neuron: of its row of the first map with its bias, plus of its column of the second.

The paper of extract-then-distill names a metric of importance; its text was not available in full, so these formulas
are ours, after the same laboratory's DynaBERT, except that gradients are cleared between batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bertcompress.compressors.extract.selection import Scores
from bertcompress.encoder.operations import AttentionOperation, FeedForwardOperation, SeparableConvolutionOperation
from bertcompress.training.teacher import evaluating

Weigh = Callable[[nn.Parameter], Tensor]  # a value for each weight, shaped as they are


def taylor_scores(network: nn.Module, losses: Iterable[Callable[[], Tensor]]) -> Scores:
    """Return the first-order importance of every unit, by kind and place; see `selection.Chooser`.

    Args:
        network: whose gradients are as they were afterwards.
        losses: each computes the loss of one batch.
    """
    total: Scores = {}
    kept = [(each, each.grad, each.requires_grad) for each in network.parameters()]
    try:
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        with evaluating(network), torch.enable_grad():
            for loss in losses:
                for parameter in network.parameters():
                    parameter.grad = None
                loss().backward()  # type: ignore[no-untyped-call]
                for unit, values in _scores(network, _first_order).items():
                    total[unit] = total.get(unit, 0) + values
    finally:
        for parameter, gradient, required in kept:
            parameter.requires_grad_(required).grad = gradient
    return total


def magnitude_scores(network: nn.Module) -> Scores:
    """Return the sum of the absolute weights of every unit, over the same weights as in `taylor_scores`."""
    with torch.no_grad():
        return _scores(network, lambda parameter: parameter.abs())


def _first_order(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.detach() * parameter.grad


def _scores(network: nn.Module, weigh: Weigh) -> Scores:
    """Return the absolute sums of weights' values, by unit."""
    encoder: Any = getattr(network, "encoder", network)  # a network without a head is the encoder
    found: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    written = [] if encoder.layers[0].link is not None else _tables(encoder.embeddings, weigh)
    for index, layer in enumerate(encoder.layers):
        if layer.link is not None:
            written.append(_row_sums(layer.link, weigh))
        for number, operation in enumerate(layer.operations):
            place = index, number
            if isinstance(operation, AttentionOperation):
                found |= _attention(operation, place, weigh)
                written += [_row_sums(operation.output, weigh), *_vectors(operation.norm, weigh)]
            elif isinstance(operation, FeedForwardOperation):
                inner = _row_sums(operation.intermediate, weigh).abs() + weigh(_weight(operation.output)).sum(0).abs()
                found["neurons", place] = inner
                written += [_row_sums(operation.output, weigh), *_vectors(operation.norm, weigh)]
            elif isinstance(operation, SeparableConvolutionOperation):
                for stage in operation.stages:
                    written += [_row_sums(stage.pointwise, weigh), *_vectors(stage.norm, weigh)]  # type: ignore[arg-type]
    if len({len(each) for each in written}) == 1:  # layers of several widths have no dimension in common
        found["hidden", ()] = torch.stack([each.abs() for each in written]).sum(0)
    return {unit: values.double().cpu().numpy().astype(np.float64) for unit, values in found.items()}


def _attention(
    operation: AttentionOperation, place: tuple[int, int], weigh: Weigh
) -> dict[tuple[str, tuple[int, ...]], Tensor]:
    shape = operation.num_heads, operation.head_size
    columns = weigh(_weight(operation.output)).sum(0).view(shape)  # (heads, d), of the map that joins the heads
    queries, keys, _ = _row_sums(operation.qkv, weigh).view(3, *shape)
    dimensions = columns.abs() + queries.abs() + keys.abs()
    found: dict[tuple[str, tuple[int, ...]], Tensor] = {("heads", place): columns.sum(1).abs()}
    for head in range(operation.num_heads):
        found["dimensions", (*place, head)] = dimensions[head]
    return found


def _tables(embeddings: Any, weigh: Weigh) -> list[Tensor]:
    tables = [each for each in (embeddings.word, embeddings.position, embeddings.token_type) if each is not None]
    return [*(weigh(table.weight).sum(0) for table in tables), *_vectors(embeddings.norm, weigh)]


def _row_sums(linear: nn.Module, weigh: Weigh) -> Tensor:
    """Return for each output the sum over its weights and its bias."""
    sums = weigh(_weight(linear)).sum(1)
    bias = linear.bias
    return sums + weigh(bias) if isinstance(bias, nn.Parameter) else sums


def _vectors(norm: Any, weigh: Weigh) -> list[Tensor]:
    return [weigh(norm.weight), weigh(norm.bias)]


def _weight(linear: nn.Module) -> nn.Parameter:
    assert isinstance(linear.weight, nn.Parameter)
    return linear.weight
