"""Where step sizes begin: figures of known distributions, and what no values may do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bertcompress.compressors.quantize.initialization import METHODS, initial_step
from bertcompress.compressors.quantize.settings import INITIALIZATIONS
from bertcompress.encoder.bits import TERNARY, code_range
from bertcompress.encoder.lsq import fake_quantize

COUNT = 589_824  # of a linear map 768 x 768


@pytest.fixture(scope="module")
def samples():
    random = np.random.default_rng(0)
    found = {"normal": random.standard_normal(COUNT), "laplace": random.laplace(scale=math.sqrt(0.5), size=COUNT)}
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in found.items()}


# Bound and relative squared error, measured apart from this code when the method was studied (unit variance). The KL
# bound of 8 bits lies between 3.7 and 4.6 from sample to sample: its minimum is flat, and so is the error.
@pytest.mark.parametrize(
    ("kind", "bits", "method", "bound", "error"),
    [
        ("normal", 2, "kl", 1.48, 0.210), ("normal", 2, "percentile", 1.96, 0.323), ("normal", 2, "lsq", 1.60, 0.231),
        ("normal", 2, "mse", 1.20, 0.191), ("normal", 4, "kl", 2.62, 0.013), ("normal", 4, "percentile", 1.96, 0.019),
        ("normal", 4, "lsq", 4.23, 0.030), ("normal", 4, "mse", 2.50, 0.013), ("normal", 8, "kl", 3.82, 1e-4),
        ("normal", 8, "percentile", 1.96, 0.013), ("normal", 8, "lsq", 18.0, 0.0017), ("normal", 8, "mse", 3.95, 1e-4),
        ("laplace", 2, "kl", 1.17, 0.276), ("laplace", 2, "percentile", 2.12, 0.330),
        ("laplace", 2, "lsq", 1.42, 0.264),
        ("laplace", 2, "mse", 1.40, 0.264), ("laplace", 8, "percentile", 2.12, 0.049),
        ("laplace", 8, "kl", 5.38, 6e-4),
        ("laplace", 8, "lsq", 16.0, 0.0013),
    ],
)  # fmt: skip
def test_bounds_of_known_distributions(samples, kind, bits, method, bound, error):
    codes, values = code_range(bits), samples[kind]
    step = initial_step(values[None], codes, method)
    assert step.shape == (1,)
    assert float(step) * codes.high == pytest.approx(bound, rel=0.06)
    found = (fake_quantize(values, step, codes) - values).square().mean() / values.square().mean()
    assert float(found) == pytest.approx(error, rel=0.25)


def test_the_largest_magnitude_is_the_bound(samples):
    for values in samples.values():
        assert float(initial_step(values[None], code_range(4), "max")) == pytest.approx(float(values.abs().max()) / 7)


def test_at_8_bits_calibration_is_far_better_than_lsqs_rule(samples):
    codes, values = code_range(8), samples["normal"]
    errors = {
        method: float(
            (fake_quantize(values, initial_step(values[None], codes, method), codes) - values).square().mean()
        )
        for method in METHODS
    }
    assert errors["kl"] < errors["lsq"] / 10
    assert errors["mse"] <= 1.02 * min(errors.values())  # of bounds 3 % apart, on a sample


def test_all_names_are_known_before_torch_is():
    assert set(INITIALIZATIONS) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [TERNARY, 2, 4, 8])
def test_each_row_has_its_own_step_and_none_is_zero(method, bits):
    random = torch.Generator().manual_seed(0)
    values = torch.randn(5, 900, generator=random) * torch.tensor([1.0, 2.0, 0.0, 1e-20, 100.0])[:, None]
    steps = initial_step(values, code_range(bits), method)
    assert steps.shape == (5,)
    assert (steps > 0).all()
    assert steps.isfinite().all()
    alone = torch.cat([initial_step(row[None], code_range(bits), method) for row in values])
    torch.testing.assert_close(steps, alone, rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[0.5], [1.0, -1.0], [math.inf, 1.0], [math.nan, 1.0]])
def test_odd_values_give_a_step_that_can_divide(method, values):
    step = initial_step(torch.tensor([values]), code_range(8), method)
    assert (step > 0).all()
    assert not step.isnan().any()


def slow_kl_bound(magnitudes, levels, bins):
    """One row, as the released code has it, with numpy's own interpolation."""
    peak = float(magnitudes.max())
    counts, _ = np.histogram(magnitudes, bins=bins, range=(0.0, peak))
    shares = np.cumsum(counts / counts.sum())
    best, least = bins - 0.5, math.inf
    for end in range(levels + 1, bins):
        again = shares.copy()
        again[end - 1 :] = 1.0
        few = np.interp(np.linspace(0, end - 1, levels), np.arange(end), again[:end])
        again[:end] = np.interp(np.arange(end), np.linspace(0, end - 1, levels), few)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = (shares - again) * np.log2(shares / again)
        distance = float(np.where(again > 0, terms, 0.0).sum())
        if distance < least:
            best, least = end + 0.5, distance
    return best * peak / bins


@pytest.mark.parametrize("bits", [TERNARY, 2, 3, 4])
def test_many_rows_at_once_have_the_bounds_that_they_have_one_by_one(bits):
    """Also where the smallest bins are empty, so that a share is 0."""
    random = torch.Generator().manual_seed(0)
    values = torch.randn(4200, 400, generator=random)
    values[::3] = values[::3].sign() * values[::3].abs().clamp_min(0.7)
    steps, codes = initial_step(values, code_range(bits), "kl"), code_range(bits)
    levels = max(codes.high, (codes.levels + 1) // 2)
    for row in (0, 1, 2, 3, 4095, 4096, 4199):
        bound = slow_kl_bound(values[row].abs().numpy(), levels, 20)
        assert float(steps[row]) == pytest.approx(bound / codes.high, rel=1e-6)


def test_unsigned_codes_use_their_whole_range():
    values = torch.rand(1, 200_000, generator=torch.Generator().manual_seed(0))
    codes = code_range(8, signed=False)
    for method in ("kl", "mse", "max"):
        assert float(initial_step(values, codes, method)) * codes.high == pytest.approx(1.0, abs=0.08)
