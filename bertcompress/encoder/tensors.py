"""What a network stores: the name, shape, type and number of weights of every tensor; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bertcompress.errors import ConfigError

DTYPE_BYTES = {"F32": 4, "I8": 1, "U8": 1}


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

    Weights have one step size per output row, embeddings one per table row. Activations are quantized when the
    network runs, with one step size per token, so an example's logits never depend on its batch mates.
    """

    weight_bits: int = 8
    embedding_bits: int = 8
    activation_bits: int = 8

    def __post_init__(self) -> None:
        """Refuse bit widths that the encoder cannot store or execute."""
        for name in ("weight_bits", "embedding_bits", "activation_bits"):
            if getattr(self, name) not in (8, 32):
                raise ConfigError(
                    f"Quantization.{name}: got {getattr(self, name)!r}, allowed are 8 (int8) and 32 (float)."
                )
        if (self.weight_bits == 32) != (self.activation_bits == 32):
            raise ConfigError(
                f"Quantization: weight_bits={self.weight_bits} with activation_bits={self.activation_bits} has no int8 "
                "matrix product; quantize both (8, 8) or neither (32, 32)."
            )


def float_tensor(name: str, *shape: int) -> Tensor:
    """Return a tensor of float32 weights."""
    return Tensor(name, shape, "F32", math.prod(shape))


def norm_tensors(name: str, size: int) -> Iterator[Tensor]:
    """Yield the tensors of a layer normalisation."""
    yield float_tensor(f"{name}.weight", size)
    yield float_tensor(f"{name}.bias", size)


def linear_tensors(name: str, inputs: int, outputs: int, quantization: Quantization | None) -> Iterator[Tensor]:
    """Yield the tensors of a linear map, with int8 codes and one step size per output row where quantized."""
    if quantization is None or quantization.weight_bits == 32:
        yield float_tensor(f"{name}.weight", outputs, inputs)
    else:
        yield Tensor(f"{name}.codes", (outputs, inputs), "I8", outputs * inputs)
        yield Tensor(f"{name}.step", (outputs,), "F32")
    yield float_tensor(f"{name}.bias", outputs)


def embedding_tensors(name: str, rows: int, size: int, quantization: Quantization | None) -> Iterator[Tensor]:
    """Yield the tensors of an embedding table, with int8 codes and one step size per row where quantized."""
    if quantization is None or quantization.embedding_bits == 32:
        yield Tensor(f"{name}.weight", (rows, size), "F32", rows * size, table=True)
    else:
        yield Tensor(f"{name}.codes", (rows, size), "I8", rows * size, table=True)
        yield Tensor(f"{name}.step", (rows,), "F32", table=True)
