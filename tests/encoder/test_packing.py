"""Packed codes: back to the bit, as small as the formula says, each row on its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcompress.encoder.bits import TERNARY, WIDTHS, code_range, packed_size
from bertcompress.encoder.packing import pack, unpack


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(WIDTHS), st.booleans(), st.booleans(), st.integers(0, 5), st.integers(1, 70), st.integers(0, 99))
def test_what_is_packed_comes_back_row_by_row(bits, signed, narrow, rows, columns, seed):
    low, high = code_range(bits, signed=signed, narrow=narrow)
    codes = torch.randint(low, high + 1, (rows, columns), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits, low)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, packed_size(columns, bits))
    assert torch.equal(unpack(packed, bits, low, columns).long(), codes)
    for row in range(rows):
        assert torch.equal(packed[row], pack(codes[row], bits, low))
        assert torch.equal(unpack(packed[row], bits, low, columns).long(), codes[row])


@pytest.mark.parametrize(
    ("bits", "columns", "size"),
    [(2, 384, 96), (3, 312, 117), (3, 8, 3), (3, 9, 4), (7, 8, 7), (8, 5, 5), (TERNARY, 5, 1), (TERNARY, 384, 77)],
)
def test_rows_are_as_long_as_their_bits(bits, columns, size):
    assert packed_size(columns, bits) == size


def test_layout_is_the_one_that_is_written_down():
    assert pack(torch.tensor([1, 2, 3, 0]), 2, 0).tolist() == [0b00_11_10_01]
    assert pack(torch.tensor([5, 6, 7]), 3, 0).tolist() == [0b11_110_101, 0b1]
    assert pack(torch.tensor([-1, 0, 1, 1, -1, 1]), TERNARY, -1).tolist() == [3 * 1 + 9 * 2 + 27 * 2, 2]
    assert pack(torch.tensor([-127, 127]), 8, -127).tolist() == [0, 254]


@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_that_do_not_fit_are_refused(bits):
    low, high = code_range(bits)
    room = 3 if bits == TERNARY else 2 ** int(bits)
    for wrong in (low - 1, low + room):
        with pytest.raises(ValueError, match=f"got codes from .*allowed are {low} to {low + room - 1}"):
            pack(torch.tensor([high, wrong]), bits, low)


def test_types_are_the_smallest_that_hold_the_codes():
    assert unpack(torch.tensor([255], dtype=torch.uint8), 8, 0, 1).dtype == torch.int16
    assert unpack(torch.tensor([255], dtype=torch.uint8), 8, -127, 1).dtype == torch.int8
    assert unpack(torch.tensor([255], dtype=torch.uint8), 4, 0, 2).tolist() == [15, 15]
