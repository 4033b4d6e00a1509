"""A frozen, serialisable description of an encoder as a chain of residual operations.

The description needs no torch: the tensors it implies, and from them the parameters, multiply-accumulates
and bytes of the network, are computed from the numbers alone, so a plan costs nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bertcompress.encoder.tensors import (
    Quantization,
    Tensor,
    at_least,
    embedding_tensors,
    float_tensor,
    linear_tensors,
    norm_tensors,
    site_tensors,
)
from bertcompress.errors import ConfigError, allowed

HEAD_TASKS = ("none", "classification", "regression", "question_answering", "tagging", "masked_lm")
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "tanh")
POOLERS = ("none", "tanh", "relu", "gelu")


@dataclass(frozen=True)
class Attention:
    """Multi-head self-attention with `num_heads` heads of `head_size` dimensions each."""

    num_heads: int
    head_size: int

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        at_least("Attention", "num_heads", self.num_heads, 1)
        at_least("Attention", "head_size", self.head_size, 1)

    def tensors(self, prefix: str, hidden: int, quantization: Quantization | None) -> Iterator[Tensor]:
        """Yield the tensors of the operation on a residual stream of width `hidden`."""
        width = self.num_heads * self.head_size
        yield from linear_tensors(f"{prefix}.qkv", hidden, 3 * width, quantization, groups=3)
        yield from site_tensors(f"{prefix}.sites", quantization)
        yield from linear_tensors(f"{prefix}.output", width, hidden, quantization)
        yield from norm_tensors(f"{prefix}.norm", hidden)

    def macs(self, length: int, hidden: int) -> int:
        """Multiply-accumulates for one sequence of `length` tokens."""
        width = self.num_heads * self.head_size
        return 4 * length * hidden * width + 2 * length * length * width


@dataclass(frozen=True)
class FeedForward:
    """Two linear maps with the encoder's activation between them."""

    intermediate_size: int

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        at_least("FeedForward", "intermediate_size", self.intermediate_size, 1)

    def tensors(self, prefix: str, hidden: int, quantization: Quantization | None) -> Iterator[Tensor]:
        """Yield the tensors of the operation on a residual stream of width `hidden`."""
        yield from linear_tensors(f"{prefix}.intermediate", hidden, self.intermediate_size, quantization)
        yield from linear_tensors(f"{prefix}.output", self.intermediate_size, hidden, quantization, activated=True)
        yield from norm_tensors(f"{prefix}.norm", hidden)

    def macs(self, length: int, hidden: int) -> int:
        """Multiply-accumulates for one sequence of `length` tokens."""
        return 2 * length * hidden * self.intermediate_size


@dataclass(frozen=True)
class SeparableConvolution:
    """Two stages of depthwise then pointwise convolution, each residual (NAS-BERT, section 3.1 and figure 1)."""

    kernel_size: int

    def __post_init__(self) -> None:
        """Refuse impossible sizes; an even kernel has no centre."""
        at_least("SeparableConvolution", "kernel_size", self.kernel_size, 1)
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"SeparableConvolution.kernel_size: got {self.kernel_size}, allowed are odd sizes.")

    def tensors(self, prefix: str, hidden: int, quantization: Quantization | None) -> Iterator[Tensor]:
        """Yield the tensors of the operation on a residual stream of width `hidden`."""
        for stage in range(2):
            depthwise = f"{prefix}.stages.{stage}.depthwise"
            yield float_tensor(f"{depthwise}.weight", hidden, 1, self.kernel_size)
            yield float_tensor(f"{depthwise}.bias", hidden)
            yield from linear_tensors(f"{prefix}.stages.{stage}.pointwise", hidden, hidden, quantization)
            yield from norm_tensors(f"{prefix}.stages.{stage}.norm", hidden)

    def macs(self, length: int, hidden: int) -> int:
        """Multiply-accumulates for one sequence of `length` tokens."""
        return 2 * length * hidden * (self.kernel_size + hidden)


Operation: TypeAlias = Attention | FeedForward | SeparableConvolution
OPERATIONS: dict[str, type[Operation]] = {
    "attention": Attention,
    "feed_forward": FeedForward,
    "separable_convolution": SeparableConvolution,
}
_OPERATION_NAMES = {operation: name for name, operation in OPERATIONS.items()}


@dataclass(frozen=True)
class Layer:
    """Operations that run one after the other on a residual stream of width `hidden_size`."""

    operations: tuple[Operation, ...]
    hidden_size: int

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        at_least("Layer", "hidden_size", self.hidden_size, 1)
        if not self.operations:
            raise ConfigError(
                "Layer.operations: got none, allowed is at least one operation; leave the layer out instead."
            )


@dataclass(frozen=True)
class Embeddings:
    """Word, learned position and (where `type_vocab_size` > 0) segment embeddings of width `size`."""

    vocab_size: int
    size: int
    max_positions: int = 512
    type_vocab_size: int = 2
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        for name, minimum in (("vocab_size", 1), ("size", 1), ("max_positions", 1), ("type_vocab_size", 0)):
            at_least("Embeddings", name, getattr(self, name), minimum)
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ConfigError(
                f"Embeddings.pad_token_id: got {self.pad_token_id}, allowed are 0 to {self.vocab_size - 1}."
            )


@dataclass(frozen=True)
class Head:
    """What stands on the encoder: a task's output layer and the pooler before it, if any.

    `pooler` names the activation of a dense map of the first token: tanh in BERT and RoBERTa, relu in
    DistilBERT, gelu in ELECTRA. Masked-LM heads ignore it; their transform always uses the encoder's activation.
    """

    task: str = "none"
    num_labels: int = 0
    pooler: str = "none"

    def __post_init__(self) -> None:
        """Refuse unknown tasks and label counts that do not fit them."""
        if self.task not in HEAD_TASKS:
            raise ConfigError(f"Head.task: got {self.task!r}, allowed are {allowed(HEAD_TASKS)}.")
        if self.pooler not in POOLERS:
            raise ConfigError(f"Head.pooler: got {self.pooler!r}, allowed are {allowed(POOLERS)}.")
        fixed = {"none": 0, "masked_lm": 0, "regression": 1, "question_answering": 2}
        if self.task in fixed and self.num_labels != fixed[self.task]:
            raise ConfigError(f"Head.num_labels: got {self.num_labels}, allowed for {self.task} is {fixed[self.task]}.")
        if self.task not in fixed:
            at_least("Head", "num_labels", self.num_labels, 1)


@dataclass(frozen=True)
class EncoderSpec:
    """The whole network: embeddings, a chain of layers, and a head.

    Where the width of the stream changes, between the embeddings and the first layer or between two layers, a
    linear map links the two; `hidden_size` is the width that the head sees.
    """

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    head: Head = field(default_factory=Head)
    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float = 0.1
    initializer_range: float = 0.02
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        """Refuse settings that no network can be built from."""
        if not self.layers:
            raise ConfigError("EncoderSpec.layers: got none, allowed is at least one layer.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"EncoderSpec.activation: got {self.activation!r}, allowed are {allowed(ACTIVATIONS)}.")
        for name in ("hidden_dropout", "attention_dropout", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"EncoderSpec.{name}: got {getattr(self, name)}, allowed is 0 <= rate < 1.")

    @property
    def hidden_size(self) -> int:
        """Width of the last layer, which the head sees."""
        return self.layers[-1].hidden_size

    @property
    def num_layers(self) -> int:
        """Number of layers in the chain."""
        return len(self.layers)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the stream: of the embeddings, then of each layer; length `num_layers + 1`."""
        return (self.embeddings.size, *(layer.hidden_size for layer in self.layers))

    @property
    def low_bits(self) -> str:
        """What weights and tables are stored as, in a word such as "int8" or "4-bit"; empty for float."""
        return "" if self.quantization is None else self.quantization.short_name

    def replace(self, **changes: Any) -> EncoderSpec:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return every tensor of the network, as it is stored, in the order of the network's modules."""
        return tuple(self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        # transformers names a bare encoder's tensors without the prefix that a task's network puts before them.
        prefix = "" if self.head.task == "none" else "encoder."
        yield from self._encoder_tensors(prefix)
        yield from self._head_tensors()

    def _encoder_tensors(self, prefix: str) -> Iterator[Tensor]:
        table, quantization = self.embeddings, self.quantization
        for name, rows in (
            ("word", table.vocab_size),
            ("position", table.max_positions),
            ("token_type", table.type_vocab_size),
        ):
            if rows:
                yield from embedding_tensors(f"{prefix}embeddings.{name}", rows, table.size, quantization)
        yield from norm_tensors(f"{prefix}embeddings.norm", table.size)
        for index, layer in enumerate(self.layers):
            if self.widths[index] != layer.hidden_size:
                yield from linear_tensors(
                    f"{prefix}layers.{index}.link", self.widths[index], layer.hidden_size, quantization
                )
            for place, operation in enumerate(layer.operations):
                yield from operation.tensors(
                    f"{prefix}layers.{index}.operations.{place}", layer.hidden_size, quantization
                )
        if self.head.pooler != "none":
            yield from linear_tensors(f"{prefix}pooler", self.hidden_size, self.hidden_size, quantization)

    def _head_tensors(self) -> Iterator[Tensor]:
        if self.head.task == "masked_lm":
            # The decoder is the word embedding table, so only its bias is new.
            yield from linear_tensors("transform", self.hidden_size, self.embeddings.size, self.quantization)
            yield from norm_tensors("norm", self.embeddings.size)
            yield float_tensor("decoder_bias", self.embeddings.vocab_size)
        elif self.head.task != "none":
            # The output layer stays in float: it is tiny and its errors are the logits' own.
            yield from linear_tensors("classifier", self.hidden_size, self.head.num_labels, None)

    def parameters(self, embeddings: bool = True) -> int:
        """Count the weights, with or without the embedding tables; a quantized weight counts as one."""
        return sum(tensor.weights for tensor in self._tensors() if embeddings or not tensor.table)

    def bytes(self) -> int:
        """Bytes of all tensors' data, as stored."""
        return sum(tensor.size_in_bytes for tensor in self._tensors())

    def macs(self, sequence_length: int) -> int:
        """Multiply-accumulates of one forward pass over one sequence: matrix products and convolutions."""
        length, total = sequence_length, 0
        for index, layer in enumerate(self.layers):
            if self.widths[index] != layer.hidden_size:
                total += length * self.widths[index] * layer.hidden_size
            total += sum(operation.macs(length, layer.hidden_size) for operation in layer.operations)
        if self.head.pooler != "none":
            total += self.hidden_size**2
        return total + self._head_macs(length)

    def _head_macs(self, length: int) -> int:
        if self.head.task == "masked_lm":
            return length * self.embeddings.size * (self.hidden_size + self.embeddings.vocab_size)
        tokens = length if self.head.task in ("question_answering", "tagging") else 1
        return tokens * self.hidden_size * self.head.num_labels

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the inverse of `from_dict`."""
        result = dataclasses.asdict(self)
        for layer, described in zip(self.layers, result["layers"], strict=True):
            described["operations"] = [
                {"operation": _OPERATION_NAMES[type(operation)], **dataclasses.asdict(operation)}
                for operation in layer.operations
            ]
        result["layers"] = list(result["layers"])
        return result

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderSpec:
        """Rebuild a spec from `to_dict`'s result.

        Raises:
            ConfigError: a part is missing, unknown or impossible.
        """
        try:
            layers = tuple(
                Layer(tuple(_operation(each) for each in layer["operations"]), layer["hidden_size"])
                for layer in values["layers"]
            )
            quantization = values.get("quantization")
            rest = {
                **values,
                "embeddings": Embeddings(**values["embeddings"]),
                "layers": layers,
                "head": Head(**values["head"]),
                "quantization": Quantization(**quantization) if quantization else None,
            }
            return cls(**rest)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"EncoderSpec: the description has a missing or unknown part: {error}.") from error

    def to_json(self) -> str:
        """Return the description as JSON with sorted keys, equal for equal specs."""
        return json.dumps(self.to_dict(), sort_keys=True)


def _operation(values: Mapping[str, Any]) -> Operation:
    sizes = dict(values)
    name = sizes.pop("operation")
    if name not in OPERATIONS:
        raise ConfigError(f"EncoderSpec.layers: operation {name!r} is unknown, allowed are {allowed(OPERATIONS)}.")
    return OPERATIONS[name](**sizes)


def uniform_layers(
    num_layers: int, hidden_size: int, num_heads: int, intermediate_size: int, head_size: int | None = None
) -> tuple[Layer, ...]:
    """Return BERT's own chain: attention then feed-forward in each layer, all of the same size.

    Raises:
        ConfigError: `head_size` is not given and `hidden_size` is not a multiple of `num_heads`.
    """
    if head_size is None:
        if hidden_size % num_heads:
            raise ConfigError(
                f"hidden_size={hidden_size} is not a multiple of num_heads={num_heads}; give head_size as well."
            )
        head_size = hidden_size // num_heads
    layer = Layer((Attention(num_heads, head_size), FeedForward(intermediate_size)), hidden_size)
    return (layer,) * num_layers
