"""That all sides of the low-bit benchmarks compute what they are timed for."""

from __future__ import annotations

import pytest

from benchmarks.peers import low_bits


def test_products_of_a_width_are_as_far_from_float_whoever_takes_them():
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    found = low_bits.errors(low_bits.all_sides(1))
    fours = [error for name, error in found.items() if "4 bits" in name]
    eights = [error for name, error in found.items() if "8 bits" in name]
    assert (len(fours), len(eights)) == (5, 3)
    assert fours == pytest.approx([fours[0]] * len(fours), rel=0.01)
    assert eights == pytest.approx([eights[0]] * len(eights), rel=0.05)
    assert 4 * eights[0] < fours[0] < 0.5
