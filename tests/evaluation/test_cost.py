from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcompress.errors import ConfigError
from bertcompress.evaluation.cost import KG_PER_POUND, CostAssumptions, estimate_cost


@pytest.mark.parametrize(
    ("watts", "hours", "gpus", "prices", "kwh", "pounds", "dollars"),
    [
        (1415.78, 12, 8, (0.43, 1.46), 27, 26, (41, 140)),  # Transformer base, P100 x8
        (517.66, 336, 3, (0.43, 1.46), 275, 262, (433, 1472)),  # ELMo, P100 x3
        (12041.51, 79.2, 64, (0.74, 2.48), 1507, 1438, (3751, 12571)),  # BERT base, V100 x64
    ],
)
def test_the_published_table_comes_out(
    watts: float, hours: float, gpus: int, prices: tuple[float, float], kwh: int, pounds: int, dollars: tuple[int, int]
) -> None:
    for price, money in zip(prices, dollars, strict=True):
        # The published watts are those of the whole machine, so its GPUs must not be counted again.
        given = CostAssumptions(
            cpu_watts=watts, dram_watts=0, gpu_watts=0, num_gpus=gpus, eur_per_hour=0, eur_per_gpu_hour=price
        )
        found = estimate_cost(3600 * hours, given)
        assert round(found.energy_kwh) == kwh
        assert round(found.co2e_g / 1000 / KG_PER_POUND) == pounds
        assert found.money_eur == pytest.approx(money, abs=1)


def test_gpus_add_to_the_machine() -> None:
    given = CostAssumptions(cpu_watts=100, dram_watts=20, gpu_watts=250, num_gpus=2, pue=1, eur_per_gpu_hour=1)
    assert given.watts == 620
    assert estimate_cost(3600, given).energy_kwh == pytest.approx(0.62)
    assert estimate_cost(3600, given).money_eur == pytest.approx(2.05)


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_costs_add_up(first: float, second: float) -> None:
    total, parts = estimate_cost(first + second), estimate_cost(first) + estimate_cost(second)
    assert total.energy_kwh == pytest.approx(parts.energy_kwh)
    assert total.co2e_g == pytest.approx(estimate_cost(first).co2e_g + estimate_cost(second).co2e_g)
    assert total.money_eur == pytest.approx(estimate_cost(first).money_eur + estimate_cost(second).money_eur)


def test_costs_under_different_assumptions_do_not_add() -> None:
    with pytest.raises(ConfigError, match="different assumptions"):
        estimate_cost(1) + estimate_cost(1, CostAssumptions(pue=1))


def test_everything_says_that_it_is_an_estimate() -> None:
    found = estimate_cost(81.2)
    assert str(found).startswith("estimate for 81.2 s")
    assert "declared, not measured: 56 W, PUE 1.58" in str(found)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["cost_is"] == "estimate"
    assert values["cost_assumptions"]["pue"] == 1.58
    assert {"energy_kwh", "co2e_g", "money_eur"} < set(values)


@pytest.mark.parametrize(
    "change", [{"pue": 0.9}, {"cpu_watts": -1}, {"carbon_kg_per_kwh": math.nan}, {"num_gpus": True}]
)
def test_impossible_assumptions_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        CostAssumptions(**change)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_impossible_times_are_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match="seconds"):
        estimate_cost(seconds)
