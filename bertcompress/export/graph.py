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
        for layer in encoder.layers:
            assert isinstance(layer, ChainLayer)
            if layer.link is not None:
                hidden = self._linear(layer.link, hidden)
            for operation in layer.operations:
                hidden = self._operation(operation, hidden)
        return self._headed(encoder, hidden)

    def _embedded(self, encoder: ChainModel, input_ids: V, token_type_ids: V) -> V:
        tables, graph = encoder.embeddings, self.graph
        words = graph.looked_up(_table(tables.word), input_ids)
        embedded = graph.add(words, graph.first_rows(_table(tables.position), input_ids))
        if tables.token_type is not None:
            embedded = graph.add(embedded, graph.looked_up(_table(tables.token_type), token_type_ids))
        return self._norm(tables.norm, embedded)

    def _operation(self, operation: nn.Module, hidden: V) -> V:
        if isinstance(operation, AttentionOperation):
            return self._attention(operation, hidden)
        if isinstance(operation, FeedForwardOperation):
            inner = self.graph.activation(self.spec.activation, self._linear(operation.intermediate, hidden))
            return self._norm(operation.norm, self.graph.add(hidden, self._linear(operation.output, inner)))
        assert isinstance(operation, SeparableConvolutionOperation), type(operation)
        for stage in operation.stages:
            assert isinstance(stage, SeparableStage)
            hidden = self._stage(stage, hidden)
        return hidden

    def _attention(self, operation: AttentionOperation, hidden: V) -> V:
        graph, heads, size = self.graph, operation.num_heads, operation.head_size
        width = heads * size
        stacked = graph.reshape(self._linear(operation.qkv, hidden), (0, 0, 3, heads, size))
        # Put first, each of the three lies in one piece: runtimes need not copy them apart.
        query, key, value = graph.unstacked(graph.transpose(stacked, (2, 0, 3, 1, 4)), 3)  # (B, h, L, d) each
        key = graph.transpose(key, (0, 1, 3, 2))  # (B, h, d, L)
        query, key, value = (self._site(operation, each, site) for site, each in enumerate((query, key, value)))
        scale = graph.constant(np.float32(size**-0.5))
        scores = graph.add(graph.multiply(graph.matmul(query, key), scale), self.added)
        attention = self._site(operation, graph.softmax(scores), 3)
        context = graph.transpose(graph.matmul(attention, value), (0, 2, 1, 3))
        context = graph.reshape(context, (0, 0, width))
        return self._norm(operation.norm, graph.add(hidden, self._linear(operation.output, context)))

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

    def _linear(self, module: nn.Module, values: V) -> V:
        if isinstance(module, nn.Linear):
            return self.graph.linear(values, numbers(module.weight), numbers(module.bias))
        assert isinstance(module, QuantizedLinear), type(module)
        weight, bias, groups = _codes(module), numbers(module.bias), max(1, module.input_steps)
        rounding = _inputs(module)
        if module.has_factors:
            values = self.graph.multiply(values, self.graph.constant(numbers(module.input_factor)))
        if module.has_offset:  # the same for every input: out of the values, and into the bias
            values = self.graph.add(values, self.graph.constant(np.float32(-rounding[0].offset)))
            bias = bias + numbers(module.offset_bias(module.input_offset))
        size = module.out_features // groups
        parts = [
            self.graph.quantized_linear(values, Codes(weight.values[at], weight.steps[at]), bias[at], rounding[group])
            for group, at in enumerate(slice(group * size, (group + 1) * size) for group in range(groups))
        ]
        return parts[0] if groups == 1 else self.graph.concatenate(parts)

    def _headed(self, encoder: ChainModel, hidden: V) -> V:
        check_head(self.spec)
        task = self.spec.head.task
        if task in POOLED:
            hidden = self.graph.first(hidden)
            if encoder.pooler is not None:
                hidden = self.graph.activation(self.spec.head.pooler, self._linear(encoder.pooler, hidden))
        if task == "none":
            return hidden
        classifier = self.network.classifier
        assert isinstance(classifier, nn.Module)
        return self._linear(classifier, hidden)


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
