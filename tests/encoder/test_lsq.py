"""Learned step size quantization against its closed forms, another way to write it, and what a user would expect."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcompress.encoder import lsq
from bertcompress.encoder.bits import TERNARY, WIDTHS, CodeRange, code_range
from bertcompress.encoder.lsq import fake_quantize, to_codes


def drawn(*shape, seed=0, spread=1.0):
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "expected"),
    [
        (TERNARY, True, True, (-1, 1)),
        (TERNARY, False, True, (0, 2)),
        (2, True, True, (-1, 1)),
        (2, True, False, (-2, 1)),
        (2, False, True, (0, 3)),
        (8, True, True, (-127, 127)),
        (8, True, False, (-128, 127)),
        (8, False, False, (0, 255)),
    ],
)
def test_codes_of_a_width(bits, signed, narrow, expected):
    assert code_range(bits, signed=signed, narrow=narrow) == expected
    assert code_range(bits, signed=signed, narrow=narrow).levels == expected[1] - expected[0] + 1


def detached(values, step, codes, scale):
    """LSQ written with detached parts, as users know it."""
    scaled = (step - step * scale).detach() + step * scale
    clipped = (values / scaled).clamp(codes.low, codes.high)
    rounded = (clipped.round() - clipped).detach() + clipped
    return rounded * scaled


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(), (6, 1)])
def test_gradients_are_those_of_lsq_written_with_detached_parts(bits, signed, shape):
    codes, scale = code_range(bits, signed=signed), 0.37
    values, weights = drawn(6, 50, spread=codes.high), drawn(6, 50, seed=1)
    step = 0.5 + drawn(*shape, seed=2).abs()
    found = []
    for write in (lambda v, s: fake_quantize(v, s, codes, scale=scale), lambda v, s: detached(v, s, codes, scale)):
        v, s = values.clone().requires_grad_(), step.clone().requires_grad_()
        result = write(v, s)
        (result * weights).sum().backward()
        found.append((result.detach(), v.grad, s.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bits", WIDTHS)
def test_gradients_have_the_closed_form(bits):
    codes, step = code_range(bits, narrow=False), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    values = drawn(400, spread=0.3 * codes.high).requires_grad_()
    fake_quantize(values, step, codes).sum().backward()
    x = (values / step).detach()
    outside = (x <= codes.low) | (x >= codes.high)
    expected = torch.where(
        x <= codes.low, float(codes.low), torch.where(x >= codes.high, float(codes.high), x.round() - x)
    )
    assert torch.equal(values.grad, (~outside).double())
    assert math.isclose(step.grad.item(), expected.sum().item(), rel_tol=1e-12)
    assert 0 < outside.sum() < len(x)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_bound_learns_as_its_step_does(bits):
    """KDLSQ's released code learns alpha = step * highest code: its gradient is that of the step over that code."""
    codes = code_range(bits)
    values, alpha = drawn(300, spread=0.7), torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    fake_quantize(values, alpha / codes.high, codes).sum().backward()
    x = values / 0.9
    quantized = (x.clamp(-1, 1) * codes.high).round() / codes.high
    expected = torch.where(x.abs() > 1, x.sign(), quantized - x).sum()
    torch.testing.assert_close(alpha.grad, expected, rtol=1e-10, atol=1e-10)


def test_finite_differences_see_what_was_clipped_and_nothing_else():
    codes, tiny = code_range(4), 1e-6
    values = torch.tensor([9.9, -12.0, 2.3, 0.4], dtype=torch.float64)
    for value in values:
        step = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        fake_quantize(value, step, codes).backward()
        ends = [fake_quantize(value, torch.tensor(0.5 + way * tiny, dtype=torch.float64), codes) for way in (1, -1)]
        difference = (ends[0] - ends[1]).item() / (2 * tiny)
        assert math.isclose(difference, step.grad.item(), rel_tol=1e-6) is bool(value.abs() > 3.5)


def test_weights_that_were_clipped_can_come_back():
    values = torch.tensor([5.0, 0.1, -5.0], requires_grad=True)
    fake_quantize(values, torch.tensor(1.0), code_range(2), gradient="ste").sum().backward()
    assert values.grad.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_offset_learns_from_what_was_clipped(bits):
    codes = code_range(bits, narrow=False)
    values = drawn(200, spread=0.4 * codes.high) + 1.0
    step, offset = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.3, 0.8))
    result = fake_quantize(values, step, codes, offset)
    result.sum().backward()
    inner = values - 0.8
    torch.testing.assert_close(result.detach(), fake_quantize(inner, torch.tensor(0.3).double(), codes) + 0.8)
    x = inner / 0.3
    assert offset.grad.item() == ((x <= codes.low) | (x >= codes.high)).sum().item()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(WIDTHS), st.booleans(), st.booleans(), st.floats(1e-4, 1e4), st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)  # fmt: skip
def test_quantization_is_idempotent_and_has_few_levels(bits, signed, narrow, step, seed, dtype):
    codes = code_range(bits, signed=signed, narrow=narrow)
    step = torch.tensor(step, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    values = (drawn(500, seed=seed, spread=2.0 * codes.high) * step.double()).to(dtype)
    once = fake_quantize(values, step, codes)
    assert once.dtype == dtype
    assert len(once.unique()) <= codes.levels
    if dtype != torch.bfloat16:  # has 8 bits itself: codes above 256 and products with a step are rounded
        assert torch.equal(fake_quantize(once, step, codes), once)
    if signed and narrow:
        assert torch.equal(fake_quantize(-values, step, codes), -once)


def test_codes_times_step_are_the_values_bit_for_bit():
    values, step, codes = drawn(1000).float(), torch.tensor(0.0173), code_range(5)
    kept = to_codes(values, step, codes).to(torch.int8)
    assert torch.equal(kept.float() * step, fake_quantize(values, step, codes))


def test_a_result_in_another_type_is_the_same_one_rounded_last():
    values, step, codes = drawn(1000).float(), torch.tensor(0.0173), code_range(5)
    plain = fake_quantize(values, step, codes)
    assert torch.equal(fake_quantize(values, step, codes, dtype=torch.bfloat16), plain.bfloat16())


def test_nothing_at_all_is_rounded_too():
    values, step = torch.zeros(0, 5, requires_grad=True), torch.tensor(0.1, requires_grad=True)
    fake_quantize(values, step, code_range(4)).sum().backward()
    assert values.grad.shape == (0, 5)
    assert step.grad == 0


def test_autocast_does_not_round_codes():
    values = drawn(64, 64).float().requires_grad_()
    step = torch.tensor(0.01, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fake_quantize(values, step, CodeRange(-127, 127))
    assert torch.equal(inside, fake_quantize(values, step, CodeRange(-127, 127)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gradient", ["clip", "ste"])
@pytest.mark.parametrize("steps", ["one", "rows", "one and an offset"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("made", [torch.float32, torch.bfloat16])
def test_blocks_come_out_as_the_plain_formulas_do(dtype, gradient, steps, turned, made, monkeypatch):
    codes, scale = code_range(4), 0.3
    values = drawn(7, 31, 97, spread=3.0).to(dtype)
    values = values.transpose(0, 1) if turned else values
    weights = drawn(*values.shape, seed=1).to(dtype)
    step = 0.5 + drawn(*((*values.shape[:-1], 1) if steps == "rows" else ()), seed=2).abs().float()
    offset = torch.tensor([-0.7]) if "offset" in steps else None
    assert lsq._blocked(values, step, offset)
    plain, *blocked = [], [], []
    for block, found in ((0, plain), (1000, blocked[0]), (10**9, blocked[1])):
        monkeypatch.setattr(lsq, "BLOCK", block)
        monkeypatch.setattr(lsq, "_blocked", lambda *_, block=block: block > 0)
        v, s = values.clone().requires_grad_(), step.clone().requires_grad_()
        o = None if offset is None else offset.clone().requires_grad_()
        result = fake_quantize(v, s, codes, o, gradient=gradient, scale=scale, dtype=made)
        assert result.dtype == made
        (result * weights.to(made)).sum().backward()
        found += [result.detach(), v.grad, s.grad, *(() if o is None else (o.grad,))]
    for number, (whole, parts) in [pair for each in blocked for pair in enumerate(zip(plain, each, strict=True))]:
        assert whole.dtype == parts.dtype
        if number < 2:
            assert torch.equal(whole, parts)
        else:
            torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
