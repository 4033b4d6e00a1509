"""What a network computes, said once, for whoever builds a graph of it.

The graphs are written operation by operation rather than traced: only so do integers stay integers. A tracer's
graph of a quantized map is a dozen operations that an optimizer may or may not recognise, and where it does not, the
map is silently computed in float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bertcompress.encoder.bits import WHOLE, CodeRange, code_range
from bertcompress.encoder.chain import ChainLayer, ChainModel, ChainPreTrainedModel
from bertcompress.encoder.operations import (
    AttentionOperation,
    FeedForwardOperation,
    SeparableConvolutionOperation,
    SeparableStage,
)
from bertcompress.encoder.quantized import AttentionSites, QuantizedEmbedding, QuantizedLinear, QuantizedTable
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.errors import ConfigError

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
POOLED = ("classification", "regression")  # heads that read the first token, through the pooler if there is one
HIDDEN_SCORE = -1e9  # added to the scores of pads, as in `encoder.operations`
ALL = slice(None)  # outputs of a map
LEAST = {2: -1, 4: -8}  # the lowest code that a file keeps in so many bits

Array = npt.NDArray[np.float32]
V = TypeVar("V")


@dataclass(frozen=True)
class Codes:
    """A quantized matrix: values are codes times the step of their row.

    Attributes:
        values: int8, (rows, columns).
        steps: float32, (rows,).
    """

    values: npt.NDArray[np.int8]
    steps: Array

    @property
    def bits(self) -> int:
        """Bits that a file keeps each code in: 2 for -1 to 2, 4 for -8 to 7, else 8."""
        low, high = int(self.values.min(initial=0)), int(self.values.max(initial=0))
        return next((bits for bits, least in LEAST.items() if low >= least and high - least < 1 << bits), 8)


@dataclass(frozen=True)
class Inputs:
    """How what goes into a quantized map is rounded.

    Attributes:
        codes: the range of codes; None leaves it in float, and the map's codes are only a way to store them.
        step: the stored step; None finds one for each token.
        offset: what code 0 stands for.
    """

    codes: CodeRange | None
    step: float | None
    offset: float = 0.0


class Graph(Protocol[V]):
    """A graph that is being built; every method adds operations and returns their output."""

    def constant(self, values: npt.NDArray[np.generic]) -> V:
        """Return a constant."""

    def add(self, left: V, right: V) -> V:
        """Return left + right."""

    def multiply(self, left: V, right: V) -> V:
        """Return left * right."""

    def matmul(self, left: V, right: V) -> V:
        """Return left @ right."""

    def softmax(self, values: V) -> V:
        """Return the softmax over the last axis."""

    def activation(self, name: str, values: V) -> V:
        """Return one of `spec.ACTIVATIONS`."""

    def norm(self, values: V, weight: Array, bias: Array, eps: float) -> V:
        """Return the layer normalisation over the last axis."""

    def reshape(self, values: V, shape: tuple[int, ...]) -> V:
        """Return another shape; 0 keeps an axis, -1 is what is left."""

    def transpose(self, values: V, order: tuple[int, ...]) -> V:
        """Return other axes' order."""

    def unstacked(self, values: V, count: int) -> list[V]:
        """Return what lies along the first axis, `count` long, without that axis."""

    def concatenate(self, parts: list[V]) -> V:
        """Join parts along the last axis."""

    def first(self, values: V) -> V:
        """Return (batch, length, size) of the first token, (batch, size)."""

    def looked_up(self, table: Array | Codes, ids: V) -> V:
        """Return the rows of some ids."""

    def first_rows(self, table: Array | Codes, ids: V) -> V:
        """Return as many of the first rows as `ids` (batch, length) is long."""

    def linear(self, values: V, weight: Array, bias: Array) -> V:
        """Return values @ weight.T + bias."""

    def quantized_linear(self, values: V, weight: Codes, bias: Array, inputs: Inputs) -> V:
        """Return the same of codes, as an integer product where the inputs are rounded; they have no offset."""

    def rounded(self, values: V, step: float, codes: CodeRange) -> V:
        """Return values as codes times a step."""

    def convolved(self, values: V, weight: Array, bias: Array) -> V:
        """Return (batch, channels, length), each channel convolved by its own odd kernel (channels, 1, width)."""

    def mask(self, attention_mask: V) -> tuple[V, V]:
        """Return (batch, length) as what is added to scores, (batch, 1, 1, length), and as factors, (b, length, 1)."""


class Writer(Generic[V]):
    """Writes a network into a graph."""

    def __init__(self, graph: Graph[V], network: ChainPreTrainedModel) -> None:
        """Take the graph and the network, in evaluation mode as far as the graph is concerned."""
        self.graph, self.network, self.spec = graph, network, network.spec

    def outputs(self, input_ids: V, attention_mask: V, token_type_ids: V) -> V:
        """Write everything; return the logits, or without a head the last hidden states."""
        encoder = self.network if isinstance(self.network, ChainModel) else self.network.encoder
        assert isinstance(encoder, ChainModel)
        self.added, self.factors = self.graph.mask(attention_mask)
        hidden = self._embedded(encoder, input_ids, token_type_ids)
        steps = steps_of(encoder)
        if self.spec.head.task in POOLED:
            hidden = self._first_token(steps, hidden)
        else:
            for step in steps:
                hidden = self._step(step, hidden)
        return self._headed(encoder, hidden)

    def _first_token(self, steps: list[nn.Module], hidden: V) -> V:
        """Write the chain for a head that reads the first token; return what comes of that one, (batch, hidden).

        The other tokens are needed until the last operation that mixes tokens has taken them in. What the chain makes
        of them after that, and what that operation asks on their behalf, nobody reads.
        """
        last = last_mixing(steps)
        for step in steps[: max(0, last)]:
            hidden = self._step(step, hidden)
        mixing = steps[last] if last >= 0 else None
        if isinstance(mixing, AttentionOperation):
            hidden = self._attention_of_first(mixing, hidden)
        else:
            hidden = self.graph.first(hidden if mixing is None else self._step(mixing, hidden))
        for step in steps[last + 1 :]:
            hidden = self._step(step, hidden)
        return hidden

    def _embedded(self, encoder: ChainModel, input_ids: V, token_type_ids: V) -> V:
        tables, graph = encoder.embeddings, self.graph
        words = graph.looked_up(_table(tables.word), input_ids)
        embedded = graph.add(words, graph.first_rows(_table(tables.position), input_ids))
        if tables.token_type is not None:
            embedded = graph.add(embedded, graph.looked_up(_table(tables.token_type), token_type_ids))
        return self._norm(tables.norm, embedded)

    def _step(self, step: nn.Module, hidden: V) -> V:
        if isinstance(step, AttentionOperation):
            return self._attention(step, hidden)
        if isinstance(step, FeedForwardOperation):
            inner = self.graph.activation(self.spec.activation, self._linear(step.intermediate, hidden))
            return self._norm(step.norm, self.graph.add(hidden, self._linear(step.output, inner)))
        if not isinstance(step, SeparableConvolutionOperation):
            return self._linear(step, hidden)
        for stage in step.stages:
            assert isinstance(stage, SeparableStage)
            hidden = self._stage(stage, hidden)
        return hidden

    def _attention(self, operation: AttentionOperation, hidden: V) -> V:
        graph, heads, size = self.graph, operation.num_heads, operation.head_size
        stacked = graph.reshape(self._linear(operation.qkv, hidden), (0, 0, 3, heads, size))
        # Put first, each of the three lies in one piece: runtimes need not copy them apart.
        query, key, value = graph.unstacked(graph.transpose(stacked, (2, 0, 3, 1, 4)), 3)  # (B, h, L, d) each
        context = graph.transpose(self._mixed(operation, query, key, value), (0, 2, 1, 3))
        return self._attended(operation, hidden, graph.reshape(context, (0, 0, heads * size)))

    def _attention_of_first(self, operation: AttentionOperation, hidden: V) -> V:
        """Write attention of the first token alone to all, (batch, length, hidden) to (batch, hidden)."""
        graph, heads, size = self.graph, operation.num_heads, operation.head_size
        first, width = graph.first(hidden), heads * size
        query = graph.reshape(self._linear(operation.qkv, first, slice(0, width)), (0, heads, 1, size))
        others = self._linear(operation.qkv, hidden, slice(width, 3 * width))
        stacked = graph.transpose(graph.reshape(others, (0, 0, 2, heads, size)), (2, 0, 3, 1, 4))
        key, value = graph.unstacked(stacked, 2)  # (B, h, L, d) each
        context = self._mixed(operation, query, key, value)  # (B, h, 1, d)
        return self._attended(operation, first, graph.reshape(context, (0, width)))

    def _mixed(self, operation: AttentionOperation, query: V, key: V, value: V) -> V:
        """Write the values that queries of some tokens (B, h, Q, d) find at all, (B, h, Q, d)."""
        graph = self.graph
        key = graph.transpose(key, (0, 1, 3, 2))  # (B, h, d, L)
        query, key, value = (self._site(operation, each, site) for site, each in enumerate((query, key, value)))
        scale = graph.constant(np.float32(operation.head_size**-0.5))
        scores = graph.add(graph.multiply(graph.matmul(query, key), scale), self.added)
        return graph.matmul(self._site(operation, graph.softmax(scores), 3), value)

    def _attended(self, operation: AttentionOperation, hidden: V, context: V) -> V:
        return self._norm(operation.norm, self.graph.add(hidden, self._linear(operation.output, context)))

    def _site(self, operation: AttentionOperation, values: V, site: int) -> V:
        if operation.sites is None:
            return values
        assert isinstance(operation.sites, AttentionSites)
        return self.graph.rounded(values, float(operation.sites.step[site]), operation.sites.ranges[site])

    def _stage(self, stage: SeparableStage, hidden: V) -> V:
        graph = self.graph
        visible = graph.transpose(graph.multiply(hidden, self.factors), (0, 2, 1))
        bias = stage.depthwise.bias
        assert bias is not None
        mixed = graph.convolved(visible, numbers(stage.depthwise.weight), numbers(bias))
        inner = graph.activation("gelu", self._linear(stage.pointwise, graph.transpose(mixed, (0, 2, 1))))
        return self._norm(stage.norm, graph.add(hidden, inner))

    def _norm(self, norm: nn.LayerNorm, values: V) -> V:
        return self.graph.norm(values, numbers(norm.weight), numbers(norm.bias), norm.eps)

    def _linear(self, module: nn.Module, values: V, outputs: slice = ALL) -> V:
        """Write a map, or those of its outputs."""
        if isinstance(module, nn.Linear):
            return self.graph.linear(values, numbers(module.weight)[outputs], numbers(module.bias)[outputs])
        assert isinstance(module, QuantizedLinear), type(module)
        weight, bias = _codes(module), numbers(module.bias)
        rounding = _inputs(module)
        if module.has_factors:
            values = self.graph.multiply(values, self.graph.constant(numbers(module.input_factor)))
        if module.has_offset:  # the same for every input: out of the values, and into the bias
            values = self.graph.add(values, self.graph.constant(np.float32(-rounding[0].offset)))
            bias = bias + numbers(module.offset_bias(module.input_offset))
        parts = [
            self.graph.quantized_linear(values, Codes(weight.values[at], weight.steps[at]), bias[at], inputs)
            for at, inputs in zip(_groups(module.out_features, len(rounding), outputs), rounding, strict=True)
            if at.start < at.stop
        ]
        return parts[0] if len(parts) == 1 else self.graph.concatenate(parts)

    def _headed(self, encoder: ChainModel, hidden: V) -> V:
        check_head(self.spec)
        task = self.spec.head.task
        if task in POOLED and encoder.pooler is not None:
            hidden = self.graph.activation(self.spec.head.pooler, self._linear(encoder.pooler, hidden))
        if task == "none":
            return hidden
        classifier = self.network.classifier
        assert isinstance(classifier, nn.Module)
        return self._linear(classifier, hidden)


def steps_of(encoder: ChainModel) -> list[nn.Module]:
    """Return the chain as one list: operations, and maps where the stream changes width."""
    steps: list[nn.Module] = []
    for layer in encoder.layers:
        assert isinstance(layer, ChainLayer)
        steps += [*([] if layer.link is None else [layer.link]), *layer.operations]
    return steps


def last_mixing(steps: list[nn.Module]) -> int:
    """Return the place of the last operation whose outputs depend on other tokens, -1 where there is none."""
    mixing = (AttentionOperation, SeparableConvolutionOperation)
    return max((place for place, step in enumerate(steps) if isinstance(step, mixing)), default=-1)


def check_head(spec: EncoderSpec) -> None:
    """Refuse a head that is no task's.

    Raises:
        ConfigError: it predicts masked words.
    """
    if spec.head.task == "masked_lm":
        raise ConfigError(
            "export: the model's head is 'masked_lm', allowed are classification, regression, tagging, "
            "question_answering and none (embedding); load the model with a task: Model.from_pretrained(name, "
            "task=task)."
        )


def numbers(tensor: Tensor) -> Array:
    """Return a tensor's values."""
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())


def _table(module: nn.Module) -> Array | Codes:
    if isinstance(module, QuantizedEmbedding):
        return _codes(module)
    assert isinstance(module, nn.Embedding)
    return numbers(module.weight)


def _codes(module: QuantizedTable) -> Codes:
    return Codes(np.ascontiguousarray(module.whole().cpu().numpy()), numbers(module.row_steps()))


def _inputs(module: QuantizedLinear) -> list[Inputs]:
    """Return how what goes in is rounded, for each group of outputs."""
    if module.activation_bits == WHOLE:
        return [Inputs(None, None)]
    codes = code_range(module.activation_bits, signed=not module.has_offset)
    if module.has_offset:
        return [Inputs(codes, float(module.input_step), float(module.input_offset))]
    return [Inputs(codes, float(step)) for step in module.input_step] if module.input_steps else [Inputs(codes, None)]


@torch.no_grad()
def write(graph: Graph[V], network: ChainPreTrainedModel, inputs: tuple[V, V, V]) -> V:
    """Write a network into a graph; return its logits, or without a head its last hidden states.

    Args:
        graph: to write to.
        network: to write.
        inputs: `INPUTS`, each (batch, length) whole numbers.

    Raises:
        ConfigError: the head predicts masked words, or the target cannot compute what the network does.
    """
    return Writer(graph, network).outputs(*inputs)


def _groups(size: int, count: int, outputs: slice) -> list[slice]:
    """Return which of some outputs lie in each of `count` equal groups of all `size`; those of a group may be none."""
    start, stop, each = outputs.start or 0, size if outputs.stop is None else outputs.stop, size // count
    return [slice(max(start, group * each), min(stop, (group + 1) * each)) for group in range(count)]
