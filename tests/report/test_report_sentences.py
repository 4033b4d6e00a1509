"""The headline: computed from the numbers, and honest when they are bad or uncertain."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcompress.report import Run, compare, text
from bertcompress.report.charts import spread, thinned

Fictional = Callable[[str], dict[str, Any]]


def headline(results: dict[str, Any]) -> str:
    return compare.verdict(Run(results)).headline.replace("\u202f", " ").replace("\u00d7", "x")


def detail(results: dict[str, Any]) -> str:
    return compare.verdict(Run(results)).detail.replace("\u202f", " ").replace("\u00d7", "x")


def test_good_run(fictional: Fictional) -> None:
    assert headline(fictional("quickstart")) == (
        "3-layer int8 student: 5.2x smaller file, 3.1x faster, keeps 98.2 % of the teacher's accuracy, "
        "agrees with the teacher on 93.1 % of examples."
    )
    assert "intervals overlap, so the difference may be chance" in detail(fictional("quickstart"))


def test_slower_comes_after_a_but(fictional: Fictional) -> None:
    assert headline(fictional("worse")).endswith(", but 1.4x slower.")


def test_clear_loss_is_called_a_loss(fictional: Fictional) -> None:
    assert "but keeps only 94.2 % of the teacher's accuracy" in headline(fictional("bert_base"))
    assert "but loses 11.1 points of Pearson correlation" in headline(fictional("regression"))
    assert "do not overlap" in detail(fictional("regression"))


def test_larger_file_and_slower(fictional: Fictional) -> None:
    results = fictional("worse")
    results["models"][1]["file_bytes"] = 2 * results["models"][0]["file_bytes"]
    assert "but 2.0x larger file and 1.4x slower." in headline(results)


def test_speed_interval_that_includes_one_is_no_speed_up(fictional: Fictional) -> None:
    results = fictional("quickstart")
    results["models"][2]["measured"]["latency"] |= {"speedup": 1.3, "speedup_interval": [0.9, 1.7]}
    assert "no measurable change in speed" in headline(results)
    assert "faster" not in headline(results)


def test_speed_without_interval_is_hedged(fictional: Fictional) -> None:
    results = fictional("quickstart")
    del results["models"][2]["measured"]["latency"]["speedup_interval"]
    assert "about 3.1x faster" in headline(results)


def test_better_score_counts_only_beyond_the_intervals(fictional: Fictional) -> None:
    results = fictional("quickstart")
    results["models"][2] |= {"scores": {"accuracy": 0.87}, "score_intervals": {"accuracy": [0.85, 0.89]}}
    assert "matches the teacher's accuracy" in headline(results)
    results["models"][2] |= {"scores": {"accuracy": 0.95}, "score_intervals": {"accuracy": [0.94, 0.96]}}
    assert "scores 8.7 points higher in accuracy" in headline(results)


@pytest.mark.parametrize(("ends", "settled"), [([-0.03, -0.004], True), ([-0.03, 0.002], False), ([-0.03, 0.0], False)])
def test_paired_interval_settles_what_overlap_cannot(fictional: Fictional, ends: list[float], settled: bool) -> None:
    results = fictional("quickstart")
    results["models"][2]["score_differences"] = {"accuracy": {"value": -0.0158, "interval": ends, "preserved": 0.98}}
    assert ("keeps only 98.2 %" in headline(results)) is settled
    assert ("excludes 0, so the difference is real" in detail(results)) is settled
    assert ("includes 0, so the difference may be chance" in detail(results)) is not settled


def test_teacher_with_a_score_below_zero_is_no_reference_for_a_share(fictional: Fictional) -> None:
    results = fictional("regression")
    results["models"][0]["scores"] = {"pearson": -0.1}
    results["models"][1]["scores"] = {"pearson": -0.3}
    assert "loses 20.0 points" in headline(results)


def test_teacher_alone(fictional: Fictional) -> None:
    results = fictional("quickstart")
    results["models"] = results["models"][:1]
    assert headline(results) == "A 6-layer model; nothing was compressed in this run."


def test_nothing_measured(fictional: Fictional) -> None:
    results = fictional("quickstart")
    results["models"] = [{"name": "0-teacher"}, {"name": "1-distill"}]
    assert "nothing was measured" in headline(results)
    assert detail(results).count("was not measured") == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_pareto_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = compare.pareto(points)
    for place, (cost, gain) in enumerate(points):
        beaten = any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
        assert (place in front) is not beaten


@pytest.mark.parametrize(
    ("share", "count", "low", "high"), [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)]
)
def test_wilson_equals_published_values(share: float, count: int, low: float, high: float) -> None:
    assert compare.wilson(share, count) == pytest.approx((low, high), abs=1e-4)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_are_finite_or_none(value: float) -> None:
    found = text.number(value)
    assert (found is None) is not math.isfinite(value)


@given(st.floats(min_value=1e-9, max_value=1e15))
def test_significant_keeps_three_digits(value: float) -> None:
    assert float(text.significant(value).replace(",", "")) == pytest.approx(value, rel=0.006)


def test_durations_and_shares_never_round_into_a_lie() -> None:
    assert text.duration(59.96).replace("\u202f", " ") == "1 min 00 s"
    assert text.duration(3599.9).replace("\u202f", " ") == "1 h 00 min"
    assert text.percent(0.9999).startswith("99.9")
    assert text.percent(1.0).startswith("100")
    assert text.number(True) is None


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0, 200)), max_size=8))
def test_markers_do_not_cover_each_other(spots: list[tuple[float, float]]) -> None:
    places = spread(spots, (-20.0, -20.0, 520.0, 220.0))
    moved = [place for place, spot in zip(places, spots, strict=True) if place != spot]
    for place in moved:
        assert sum(math.dist(place, other) < 19 for other in places) == 1


def test_thinned_curve_keeps_its_mean() -> None:
    found = thinned([(float(step), float(step % 7)) for step in range(1600)], 160)
    assert len(found) == 160
    assert sum(value for _, value in found) / 160 == pytest.approx(sum(step % 7 for step in range(1600)) / 1600)
