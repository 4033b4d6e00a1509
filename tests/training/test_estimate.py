from __future__ import annotations

import numpy as np
import pytest

from bertcompress.training.estimate import _extrapolated, estimate_forward_seconds, estimate_seconds
from bertcompress.training.settings import TrainingSettings

from .conftest import make_spec

LENGTHS = np.random.default_rng(0).integers(3, 30, 400)


def test_it_grows_with_the_work():
    spec, settings = make_spec(), TrainingSettings(epochs=1, batch_size=8)
    once = estimate_seconds(spec, None, LENGTHS, settings)
    often = estimate_seconds(spec, None, LENGTHS, TrainingSettings(epochs=30, batch_size=8))
    assert 0 < once < often
    assert estimate_seconds(spec, None, LENGTHS, TrainingSettings(epochs=0)) == 0.0
    assert estimate_forward_seconds(spec, LENGTHS, settings) > 0


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_a_teacher_costs_something(cache_mib):
    settings = TrainingSettings(epochs=1, batch_size=8, max_tokens=64)
    alone = estimate_seconds(make_spec(layers=1), None, LENGTHS, settings)
    taught = estimate_seconds(
        make_spec(layers=1), make_spec(layers=12), LENGTHS, settings, {"hidden_states"}, cache_mib=cache_mib
    )
    assert taught > alone


def test_a_cost_that_is_a_line_is_found_exactly(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("bertcompress.training.estimate.time.perf_counter", lambda: clock[0])
    sizes = list(np.random.default_rng(1).integers(10, 1000, 50))
    cost = [0.5 + 0.01 * size for size in sizes]

    def run(number):
        clock[0] += cost[number]

    assert _extrapolated(run, sizes) == pytest.approx(sum(cost))
    assert _extrapolated(lambda number: clock.__setitem__(0, clock[0] + 2.0), [7] * 9) == pytest.approx(18.0)
