"""Dropout keeps the right share, keeps the expectation, and follows the seed."""

from __future__ import annotations

import pytest
import torch

from bertcompress.encoder.dropout import dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1_000_003,), (3, 7, 40_001)])
def test_share_of_zeros_and_scale(rate, shape):
    torch.manual_seed(0)
    result = dropout(torch.ones(shape), rate, True)
    count = result.numel()
    share = float((result == 0).sum()) / count
    assert abs(share - rate) < 4 * (rate * (1 - rate) / count) ** 0.5 + 1 / 65536
    kept = result[result != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)), rtol=2e-4, atol=0)


def test_neighbours_that_share_a_draw_are_independent():
    torch.manual_seed(0)
    zeros = (dropout(torch.ones(400_000), 0.25, True) == 0).view(-1, 4).float()
    correlation = torch.corrcoef(zeros.T) - torch.eye(4)
    assert correlation.abs().max() < 4 / 100_000**0.5
    assert (zeros.mean(0) - 0.25).abs().max() < 4 * (0.25 * 0.75 / 100_000) ** 0.5


def test_gradient_is_the_mask():
    torch.manual_seed(0)
    values = torch.ones(1000, requires_grad=True)
    result = dropout(values, 0.3, True)
    result.sum().backward()
    assert torch.equal(values.grad, result.detach())


def test_seed_decides():
    def draw(seed):
        torch.manual_seed(seed)
        return dropout(torch.ones(100), 0.5, True)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.5, False)])
def test_nothing_is_dropped_when_nothing_should_be(rate, training):
    values = torch.randn(50)
    assert torch.equal(dropout(values, rate, training), values)
