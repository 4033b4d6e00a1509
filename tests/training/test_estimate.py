from __future__ import annotations

import numpy as np
import pytest

from bertcompress.training.estimate import (
    _extrapolated,
    _kept_mib,
    _live,
    estimate_forward_seconds,
    estimate_seconds,
)
from bertcompress.training.objectives import build_objective
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
    student, teacher = make_spec(layers=1), make_spec(layers=12)
    objective = build_objective({"hidden": 1.0}, student=student, teacher=teacher)
    taught = estimate_seconds(student, teacher, LENGTHS, settings, objective, cache_mib=cache_mib)
    assert taught > alone


def test_what_a_teacher_keeps_is_counted_as_it_is_kept():
    student, teacher, lengths = make_spec(layers=2), make_spec(layers=4), np.array([3, 5])
    for name, numbers in (
        ("hidden", 8 * 2 * 16),  # tokens, two layers, width
        ("cosine", 8 * 16),
        ("attention", (9 + 25) * 2 * 2),  # pairs of tokens, two layers, heads
        ("value_relation", 8 * 16),
    ):
        objective = build_objective({name: 1.0}, student=student, teacher=teacher)
        assert _kept_mib(teacher, lengths, objective.teacher_places) == numbers * 2 / 2**20
        assert not _live(objective, teacher, lengths, 1)
        assert _live(objective, teacher, lengths, 0)
    objective = build_objective({"hidden": 1.0}, student=student, teacher=teacher, count_pads=True)
    assert _live(objective, teacher, lengths, 1)


def test_a_cost_that_is_a_line_is_found_exactly(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("bertcompress.training.estimate.time.perf_counter", lambda: clock[0])
    sizes = list(np.random.default_rng(1).integers(10, 1000, 50))
    cost = [0.5 + 0.01 * size for size in sizes]

    def run(number):
        clock[0] += cost[number]

    assert _extrapolated(run, sizes) == pytest.approx(sum(cost))
    assert _extrapolated(lambda number: clock.__setitem__(0, clock[0] + 2.0), [7] * 9) == pytest.approx(18.0)
