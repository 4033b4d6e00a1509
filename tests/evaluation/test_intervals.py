from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bertcompress.evaluation.intervals import bootstrap_interval, percentile_interval, resample_scores


def test_percentiles_hold_the_middle_95_percent() -> None:
    assert percentile_interval(np.arange(1001)) == pytest.approx((25.0, 975.0))


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(size=400)
    half = 1.96 * values.std() / 20
    low, high = bootstrap_interval(np.mean, values, seed=1)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_intervals_cover_the_truth_about_95_percent_of_the_time() -> None:
    random, truth, hits = np.random.default_rng(0), 0.8, 0
    for trial in range(200):
        right = (random.random(300) < truth).astype(int)
        low, high = percentile_interval(resample_scores("accuracy", np.ones(300, int), [right], seed=trial)[:, 0])
        hits += low <= truth <= high
    assert 0.9 * 200 <= hits <= 199  # 95% of 200 is 190, with a standard deviation of 3


def test_counting_pairs_draws_from_the_same_distribution_as_drawing_examples() -> None:
    random = np.random.default_rng(0)
    gold = random.integers(2, size=150)
    predictions = np.where(random.random(150) < 0.8, gold, 1 - gold)
    fast = resample_scores("accuracy", gold, [predictions], seed=1, resamples=2000)[:, 0]
    right = gold == predictions
    slow = [right[random.integers(150, size=150)].mean() for _ in range(2000)]
    assert stats.ks_2samp(fast, slow).pvalue > 0.001


def test_resamples_are_shared_between_models_so_differences_are_paired() -> None:
    random = np.random.default_rng(0)
    gold = random.integers(3, size=500)
    teacher = np.where(random.random(500) < 0.9, gold, 0)
    student = teacher.copy()
    student[:5] = (student[:5] + 1) % 3
    for metric in ("accuracy", "matthews_correlation"):
        draws = resample_scores(metric, gold, [teacher, student, teacher], seed=0)
        assert (draws[:, 0] == draws[:, 2]).all()
        paired = np.std(draws[:, 0] - draws[:, 1])
        assert paired < np.std(draws[:, 0]) / 2


@pytest.mark.parametrize("metric", ["pearson", "spearmanr"])
def test_correlations_are_resampled_by_example(metric: str) -> None:
    random = np.random.default_rng(0)
    gold = random.normal(size=200)
    draws = resample_scores(metric, gold, [gold + random.normal(size=200), gold], resamples=200)
    low, high = percentile_interval(draws[:, 0])
    assert 0.5 < low < 0.7 < high < 0.85
    np.testing.assert_allclose(draws[:, 1], 1.0)


def test_seeds_decide() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_interval(np.mean, values, seed=3) == bootstrap_interval(np.mean, values, seed=3)
    assert bootstrap_interval(np.mean, values, seed=3) != bootstrap_interval(np.mean, values, seed=4)
    gold, answers = np.random.default_rng(0).integers(2, size=(2, 50))
    first, again, other = (resample_scores("f1", gold, [answers], seed=seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()
