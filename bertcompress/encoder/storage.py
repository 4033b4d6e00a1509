"""What a network's file holds: each part, how it is stored and why, and its bytes before and after; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bertcompress.encoder.bits import WHOLE
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.encoder.tensors import Tensor

MIB = 2**20
WEIGHTS = (".weight", ".codes", ".packed")
STEPS = (".step", ".input_step", ".input_offset", ".input_factor")
NOTHING = "nothing else was asked for"


@dataclass(frozen=True)
class StoredPart:
    """A part of a network, as its file holds it.

    Attributes:
        name: of the part.
        bits: of each weight.
        weights: number of them.
        float_bytes: that they would take as float32.
        stored_bytes: that they take.
        why: what they were left in float for; empty where they are quantized.
    """

    name: str
    bits: float
    weights: int
    float_bytes: int
    stored_bytes: int
    why: str


def stored_parts(spec: EncoderSpec) -> tuple[StoredPart, ...]:
    """Return the parts of a network's file, whose bytes add up to `spec.bytes()`."""
    found: dict[tuple[str, float, str], list[Tensor]] = {}
    for tensor in spec.tensors():
        name, why = _part(tensor, spec)
        found.setdefault((name, _bits(tensor, spec), why), []).append(tensor)
    last = sorted(found.items(), key=lambda item: item[0][0] == "step sizes")
    return tuple(
        StoredPart(
            name,
            bits,
            sum(each.weights for each in tensors),
            4 * sum(each.weights for each in tensors),
            sum(each.size_in_bytes for each in tensors),
            why,
        )
        for (name, bits, why), tensors in last
    )


def storage_table(spec: EncoderSpec) -> str:
    """Return the parts as a table in plain text, in MiB."""
    parts = stored_parts(spec)
    weights, before, after = (sum(values) for values in zip(*map(_sizes, parts), strict=True))
    head = ("part", "bits", "weights", "float32 MiB", "MiB", "ratio", "left in float because")
    rows = [head, *map(_row, (*parts, StoredPart("all", 0, weights, before, after, "")))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(_aligned(row, widths)).rstrip() for row in rows)


def _part(tensor: Tensor, spec: EncoderSpec) -> tuple[str, str]:
    """Return the name of a tensor's part, and why it is in float, if it is."""
    name = tensor.name.rpartition(".")[0]
    if tensor.name.endswith(STEPS):
        return "step sizes", "they tell what codes stand for"
    if tensor.table:
        table = name.rpartition(".")[2]
        return f"{table.replace('_', ' ')} embeddings", "" if tensor.dtype != "F32" else _why_table(spec, table)
    if tensor.name.endswith(WEIGHTS) and len(tensor.shape) == 2:
        if name == "classifier":
            return "output layer", "its errors would be those of the logits"
        whole = spec.quantization is None or spec.quantization.weight_bits == WHOLE
        return "linear maps", NOTHING if whole else ""
    if tensor.name.endswith(".weight") and len(tensor.shape) == 3:
        return "depthwise convolutions", "there is no integer kernel for them"
    return "biases and norms", "they are few"


def _why_table(spec: EncoderSpec, table: str) -> str:
    if spec.quantization is None:
        return NOTHING
    return f"embedding_bits is {WHOLE}" if table in spec.quantization.tables else "`tables` leaves it out"


def _bits(tensor: Tensor, spec: EncoderSpec) -> float:
    if tensor.dtype == "F32" or spec.quantization is None:
        return WHOLE
    return spec.quantization.embedding_bits if tensor.table else spec.quantization.weight_bits


def _sizes(part: StoredPart) -> tuple[int, int, int]:
    return part.weights, part.float_bytes, part.stored_bytes


def _row(part: StoredPart) -> tuple[str, ...]:
    ratio = f"{part.float_bytes / part.stored_bytes:.2f}" if part.weights else ""
    return (
        part.name,
        f"{part.bits:g}" if part.bits else "",
        f"{part.weights:,}" if part.weights else "",
        f"{part.float_bytes / MIB:.2f}" if part.weights else "",
        f"{part.stored_bytes / MIB:.2f}",
        ratio,
        part.why,
    )


def _aligned(row: tuple[str, ...], widths: list[int]) -> Iterator[str]:
    last = len(row) - 1
    for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if place in (0, last) else cell.rjust(width)
