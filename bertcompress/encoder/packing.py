"""Codes of few bits in bytes and back, row by row, so that the rows of a table can be read one at a time.

Eight codes of b bits take b bytes, the first code in the lowest bits of the first byte; a row that is no multiple of
eight is filled up, and ends with the byte that its last bit is in. Ternary codes go five to a byte, as digits of base 3
(3^5 = 243), which is 1.6 bits for each.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from bertcompress.encoder.bits import TERNARY, TRITS, packed_size

GROUP = 8  # codes that are packed together


def pack(codes: Tensor, bits: float, low: int) -> Tensor:
    """Return codes (..., columns) as bytes (..., `packed_size`).

    Args:
        codes: whole numbers from `low` on that `bits` can tell apart, of any type.
        bits: 1.58 (ternary) or 2 to 8.
        low: the lowest code, which is stored as 0.

    Raises:
        ValueError: a code does not fit.
    """
    digits = codes.long() - low
    most = 3 if bits == TERNARY else 2 ** int(bits)
    if digits.numel() and not (0 <= int(digits.min()) and int(digits.max()) < most):
        raise ValueError(
            f"pack: got codes from {int(codes.min())} to {int(codes.max())}, allowed are {low} to {low + most - 1}."
        )
    if bits == TERNARY:
        powers = 3 ** torch.arange(TRITS, device=codes.device)
        return (_grouped(digits, TRITS) * powers).sum(-1).to(torch.uint8)
    width = int(bits)
    if width == 8:
        return digits.to(torch.uint8)  # eight of them would not fit the word below
    words = (_grouped(digits, GROUP) << width * torch.arange(GROUP, device=codes.device)).sum(-1, keepdim=True)
    found = (words >> 8 * torch.arange(width, device=codes.device)) & 255
    return found.flatten(-2)[..., : packed_size(codes.shape[-1], bits)].to(torch.uint8)


def unpack(packed: Tensor, bits: float, low: int, columns: int) -> Tensor:
    """Return the codes (..., columns) in bytes (..., `packed_size`), as int8 where they fit, else as int16.

    Args:
        packed: as from `pack`.
        bits: of a code.
        low: the lowest code.
        columns: codes in a row.
    """
    if bits == 8:
        digits = packed.unsqueeze(-1).short()
    elif bits in (TERNARY, 2, 4):
        digits = F.embedding(packed.int(), _codes_of_bytes(bits).to(packed.device))
    else:
        width = int(bits)
        words = (_grouped(packed.long(), width) << 8 * torch.arange(width, device=packed.device)).sum(-1, keepdim=True)
        digits = (words >> width * torch.arange(GROUP, device=packed.device)) & (2**width - 1)
    kept = digits.flatten(-2)[..., :columns]
    return (kept.to(torch.int8 if low < 0 or bits < 8 else torch.int16) + low).contiguous()


@functools.cache
def _codes_of_bytes(bits: float) -> Tensor:
    """Return the digits in each byte, (256, digits), where a byte holds whole ones."""
    base, count = (3, TRITS) if bits == TERNARY else (2 ** int(bits), 8 // int(bits))
    return (torch.arange(256).unsqueeze(-1) // base ** torch.arange(count) % base).to(torch.int8)


def _grouped(values: Tensor, size: int) -> Tensor:
    """Return (..., columns) as (..., groups, size), filled up with zeros."""
    groups = -(-values.shape[-1] // size)
    filled = F.pad(values, (0, groups * size - values.shape[-1]))
    return filled.reshape(*values.shape[:-1], groups, size)
