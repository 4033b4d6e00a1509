"""What a network stores: the name, shape, type and number of weights of every tensor; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bertcompress.encoder.bits import TERNARY, WHOLE, WIDTHS, packed_size, plain_bits
from bertcompress.errors import ConfigError, allowed

DTYPE_BYTES = {"F32": 4, "I8": 1, "U8": 1}
TABLES = ("word", "position", "token_type")
STEPS = ("row", "tensor")
ACTIVATION_STEPS = ("token", "tensor")
SITES = 4  # quantized inputs of attention's own products: queries, keys, values, probabilities


class Tensor(NamedTuple):
    """One stored tensor of a network: its name, shape, safetensors dtype, and how many weights it stands for."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "F32"
    weights: int = 0  # weights that the tensor encodes; 0 for step sizes, which are not model parameters
    table: bool = False  # part of an embedding table

    @property
    def size_in_bytes(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def at_least(owner: str, name: str, value: object, minimum: int) -> None:
    """Refuse what is no whole number of at least `minimum`, naming the field."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{owner}.{name}: got {value!r}, allowed is a whole number of at least {minimum}.")


@dataclass(frozen=True)
class Quantization:
    """How the linear maps and embeddings of an encoder are stored and executed; sizes in bits.

    Codes of less than 8 bits are packed in bytes. Activations are quantized when the network runs, with step sizes of
    each token or with stored ones, so an example's logits never depend on its batch mates.

    Attributes:
        weight_bits: of the linear maps: 1.58 (ternary), 2 to 8, or 32 (float).
        embedding_bits: of the embedding tables, likewise.
        activation_bits: of what goes into a quantized linear map: 2 to 8, or 32; then weights are only stored in few
            bits, and multiplied as floats.
        weight_steps: "row", a step size for each output, or "tensor", one for all; queries, keys and values have
            their own also then.
        embedding_steps: "row", a step size for each row of a table, or "tensor".
        tables: which tables are quantized, of "word", "position", "token_type".
        activation_steps: "token", a step size for each token, found as the network runs, or "tensor", one for all that
            goes into a linear map, stored with it.
        activation_offset: whether what goes into a feed-forward's second map is stored from an offset on, with
            unsigned codes: it comes from an activation function, which is hardly ever negative. Needs stored steps.
        smoothing: above 0, what goes into a linear map is multiplied by a stored factor for each of its dimensions, and
            weights are divided by it, so that a few large dimensions do not widen the step of all; how far, from 0 to
            1. Needs stored steps.
        shared_inputs: whether queries, keys and values have one stored step size for what goes into them; else three.
        attention_bits: of the queries, keys, values and probabilities that attention multiplies, with stored step
            sizes; the products themselves are those of floats. 32 leaves them as they are.
    """

    weight_bits: float = 8
    embedding_bits: float = 8
    activation_bits: int = 8
    weight_steps: str = "row"
    embedding_steps: str = "row"
    tables: tuple[str, ...] = TABLES
    activation_steps: str = "token"
    activation_offset: bool = False
    smoothing: float = 0.0
    shared_inputs: bool = True
    attention_bits: int = WHOLE

    def __post_init__(self) -> None:
        """Refuse what the encoder cannot store or execute."""
        self._check_types()
        object.__setattr__(self, "tables", tuple(self.tables))
        for name in ("weight_bits", "embedding_bits", "activation_bits", "attention_bits"):
            object.__setattr__(self, name, plain_bits(getattr(self, name)))
            self._check_bits(name)
        steps = {"weight_steps": STEPS, "embedding_steps": STEPS, "activation_steps": ACTIVATION_STEPS}
        for name, choices in steps.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"Quantization.{name}: got {getattr(self, name)!r}, allowed are {allowed(choices)}.")
        for table in self.tables:
            if table not in TABLES:
                raise ConfigError(f"Quantization.tables: got {table!r}, allowed are {allowed(TABLES)}.")
        if self.weight_bits == WHOLE and self.activation_bits != WHOLE:
            raise ConfigError(
                f"Quantization: weight_bits=32 with activation_bits={self.activation_bits} has no integer matrix "
                "product; quantize the weights too, or set activation_bits=32."
            )
        self._check_smoothing()
        for name in ("activation_offset", "smoothing"):
            if getattr(self, name) and not self.input_steps():
                raise ConfigError(
                    f"Quantization.{name}: got {getattr(self, name)!r} with activation_steps={self.activation_steps!r} "
                    f"and activation_bits={self.activation_bits}; it needs stored steps: "
                    "activation_steps='tensor' and activation_bits of 2 to 8."
                )

    def _check_types(self) -> None:
        for name in ("activation_offset", "shared_inputs"):
            value: object = getattr(self, name)
            if not isinstance(value, bool):
                raise ConfigError(f"Quantization.{name}: got {value!r}, allowed are true and false.")
        tables: object = self.tables
        if not isinstance(tables, (list, tuple)):
            raise ConfigError(f"Quantization.tables: got {tables!r}, allowed is a list of {allowed(TABLES)}.")

    def _check_smoothing(self) -> None:
        value: object = self.smoothing
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ConfigError(f"Quantization.smoothing: got {value!r}, allowed are 0 (none) to 1.")

    def _check_bits(self, name: str) -> None:
        widths = (*WIDTHS, WHOLE) if name in ("weight_bits", "embedding_bits") else (*WIDTHS[1:], WHOLE)
        value: object = getattr(self, name)
        if isinstance(value, bool) or value not in widths:
            ternary = "1.58 (ternary), " if TERNARY in widths else ""
            raise ConfigError(
                f"Quantization.{name}: got {value!r}, allowed are {ternary}2 to 8, and 32 (float, not quantized)."
            )

    def input_steps(self, inputs: int = 1) -> int:
        """Return how many step sizes are stored for what goes into a linear map; 0 where tokens have their own.

        Args:
            inputs: that the map stands for: 3 of queries, keys and values in one.
        """
        if WHOLE in (self.weight_bits, self.activation_bits) or self.activation_steps == "token":
            return 0
        return 1 if self.shared_inputs else inputs

    @property
    def short_name(self) -> str:
        """Weights and tables in a word: "int8", "ternary", "4-bit", "2/8-bit"; empty where both are in float."""
        widths = [self.weight_bits, *([self.embedding_bits] if self.tables else [])]
        low = [width for width in dict.fromkeys(widths) if width != WHOLE]
        if low in ([8], [TERNARY]):
            return "int8" if low == [8] else "ternary"
        return "/".join(f"{width:g}" for width in low) + "-bit" if low else ""

    def bits_of_table(self, name: str) -> float:
        """Return the bits of an embedding table."""
        return self.embedding_bits if name in self.tables else WHOLE


def float_tensor(name: str, *shape: int) -> Tensor:
    """Return a tensor of float32 weights."""
    return Tensor(name, shape, "F32", math.prod(shape))


def norm_tensors(name: str, size: int) -> Iterator[Tensor]:
    """Yield the tensors of a layer normalisation."""
    yield float_tensor(f"{name}.weight", size)
    yield float_tensor(f"{name}.bias", size)


def codes_tensor(name: str, rows: int, columns: int, bits: float, *, table: bool = False) -> Tensor:
    """Return the tensor of codes: whole bytes of 8 bits, or rows of packed ones."""
    if bits == 8:
        return Tensor(f"{name}.codes", (rows, columns), "I8", rows * columns, table)
    return Tensor(f"{name}.packed", (rows, packed_size(columns, bits)), "U8", rows * columns, table)


def linear_tensors(
    name: str, inputs: int, outputs: int, quantization: Quantization | None, groups: int = 1, *, activated: bool = False
) -> Iterator[Tensor]:
    """Yield the tensors of a linear map, with codes and step sizes where quantized.

    Args:
        name: of the map.
        inputs: numbers that go in.
        outputs: numbers that come out.
        quantization: None leaves it in float.
        groups: of outputs that have a step size of their own where rows have not.
        activated: whether what goes in comes from an activation function.
    """
    if quantization is None or quantization.weight_bits == WHOLE:
        yield float_tensor(f"{name}.weight", outputs, inputs)
    else:
        yield codes_tensor(name, outputs, inputs, quantization.weight_bits)
        yield Tensor(f"{name}.step", (outputs if quantization.weight_steps == "row" else groups,), "F32")
        if quantization.input_steps(groups):
            yield Tensor(f"{name}.input_step", (quantization.input_steps(groups),), "F32")
        if quantization.smoothing:
            yield Tensor(f"{name}.input_factor", (inputs,), "F32")
        if activated and quantization.activation_offset:
            yield Tensor(f"{name}.input_offset", (1,), "F32")
    yield float_tensor(f"{name}.bias", outputs)


def site_tensors(name: str, quantization: Quantization | None) -> Iterator[Tensor]:
    """Yield the step sizes of what attention multiplies, where it is quantized."""
    if quantization is not None and quantization.attention_bits != WHOLE:
        yield Tensor(f"{name}.step", (SITES,), "F32")


def embedding_tensors(name: str, rows: int, size: int, quantization: Quantization | None) -> Iterator[Tensor]:
    """Yield the tensors of an embedding table, with codes and step sizes where quantized."""
    bits = WHOLE if quantization is None else quantization.bits_of_table(name.rpartition(".")[2])
    if quantization is None or bits == WHOLE:
        yield Tensor(f"{name}.weight", (rows, size), "F32", rows * size, table=True)
    else:
        yield codes_tensor(name, rows, size, bits, table=True)
        yield Tensor(f"{name}.step", (rows if quantization.embedding_steps == "row" else 1,), "F32", table=True)
