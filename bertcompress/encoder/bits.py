"""Bit widths: which codes there are, and how many bytes they take; needs no torch."""

from __future__ import annotations

from typing import NamedTuple

TERNARY = 1.58  # bits: log2(3), of the codes -1, 0, 1
TRITS = 5  # ternary codes in a byte, as 3^5 = 243
WHOLE = 32  # bits of what is not quantized
WIDTHS = (TERNARY, 2, 3, 4, 5, 6, 7, 8)


class CodeRange(NamedTuple):
    """The lowest and the highest code."""

    low: int
    high: int

    @property
    def levels(self) -> int:
        """The number of codes."""
        return self.high - self.low + 1


def code_range(bits: float, *, signed: bool = True, narrow: bool = True) -> CodeRange:
    """Return the codes of a bit width.

    Args:
        bits: 1.58 (ternary) or 2 to 8.
        signed: whether values can be negative; attention probabilities cannot, and have twice as many levels so.
        narrow: leave out the lowest code, which has no positive partner, as KDLSQ's released code does. LSQ's paper
            keeps it: at 2 bits the codes are -2 to 1 instead of -1 to 1.
    """
    if bits == TERNARY:
        return CodeRange(-1, 1) if signed else CodeRange(0, 2)
    width = int(bits)
    if not signed:
        return CodeRange(0, 2**width - 1)
    half = 2 ** (width - 1)
    return CodeRange(1 - half if narrow else -half, half - 1)


def plain_bits(bits: float) -> float:
    """Return a whole number of bits as such: 8.0, which a file may say, is 8."""
    whole = isinstance(bits, float) and bits.is_integer()
    return int(bits) if whole else bits


def packed_size(columns: int, bits: float) -> int:
    """Return the bytes of a row of codes."""
    return -(-columns // TRITS) if bits == TERNARY else -(-columns * int(bits) // 8)
