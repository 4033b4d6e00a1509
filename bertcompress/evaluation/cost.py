"""What seconds of computing cost: energy, emissions and money, as ESTIMATES from declared assumptions.

The formula is that of Strubell, Ganesh and McCallum (ACL 2019, https://arxiv.org/abs/1906.02243, equation 1):

    kWh = PUE * hours * (cpu + dram + gpus * gpu) / 1000        watts
    CO2e = carbon intensity * kWh                               0.954 lb/kWh there, the US average mix
    money = hours * (price of the machine + gpus * price of a GPU)

Nothing is read from a power meter here: the watts are constants that somebody declared, so every result says
"estimate" and carries its assumptions. The paper's own constants are the defaults where it has one (PUE, carbon
intensity); the others stand for a small rented CPU machine and should be replaced by one's own.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from bertcompress.errors import ConfigError

KG_PER_POUND = 0.45359237


@dataclass(frozen=True, kw_only=True)
class CostAssumptions:
    """What the machine draws, and what its energy and its time cost.

    Attributes:
        cpu_watts: average draw of the CPU packages, W.
        dram_watts: average draw of the memory, W.
        gpu_watts: average draw of one GPU, W.
        num_gpus: GPUs in use.
        pue: power usage effectiveness of the building, at least 1; 1.58 is the world average of 2018 (Strubell et
            al.), 1 a machine under a desk.
        carbon_kg_per_kwh: kg CO2e per kWh; 0.954 lb is the US average that Strubell et al. use.
        eur_per_hour: rent of the machine without its GPUs, or what an hour of one's own is worth.
        eur_per_gpu_hour: rent of one GPU.
    """

    cpu_watts: float = 50.0
    dram_watts: float = 6.0
    gpu_watts: float = 300.0
    num_gpus: int = 0
    pue: float = 1.58
    carbon_kg_per_kwh: float = 0.954 * KG_PER_POUND
    eur_per_hour: float = 0.05
    eur_per_gpu_hour: float = 2.0

    def __post_init__(self) -> None:
        """Refuse numbers that are no quantities."""
        for each in dataclasses.fields(self):
            value, least = getattr(self, each.name), 1 if each.name == "pue" else 0
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
                raise ConfigError(
                    f"CostAssumptions.{each.name}: got {value!r}, allowed is a finite number of at least {least}."
                )

    @property
    def watts(self) -> float:
        """Draw of the whole machine, W, before the building's share."""
        return self.cpu_watts + self.dram_watts + self.num_gpus * self.gpu_watts


@dataclass(frozen=True)
class CostEstimate:
    """Energy, emissions and money of some seconds of computing; an estimate, never a measurement."""

    seconds: float
    energy_kwh: float
    co2e_g: float
    money_eur: float
    assumptions: CostAssumptions = field(default_factory=CostAssumptions)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers under the names of results.json, with the assumptions beside them."""
        return {
            "energy_kwh": self.energy_kwh,
            "co2e_g": self.co2e_g,
            "money_eur": self.money_eur,
            "cost_is": "estimate",
            "cost_assumptions": dataclasses.asdict(self.assumptions),
        }

    def __str__(self) -> str:
        """Return one line that says it is an estimate, and from what."""
        given = self.assumptions
        return (
            f"estimate for {self.seconds:.4g} s: {self.energy_kwh:.3g} kWh, {self.co2e_g:.3g} g CO2e, "
            f"{self.money_eur:.3g} EUR (declared, not measured: {given.watts:.4g} W, PUE {given.pue:.3g}, "
            f"{given.carbon_kg_per_kwh:.3g} kg CO2e/kWh, "
            f"{given.eur_per_hour + given.num_gpus * given.eur_per_gpu_hour:.3g} EUR/h)"
        )

    def __add__(self, other: CostEstimate) -> CostEstimate:
        """Return the cost of both, for totals over steps under the same assumptions.

        Raises:
            ConfigError: the two rest on different assumptions.
        """
        if self.assumptions != other.assumptions:
            raise ConfigError("CostEstimate: the two rest on different assumptions; estimate both under the same ones.")
        return estimate_cost(self.seconds + other.seconds, self.assumptions)


def estimate_cost(seconds: float, assumptions: CostAssumptions | None = None) -> CostEstimate:
    """Estimate what `seconds` of computing cost.

    Args:
        seconds: wall-clock time of the machine, s.
        assumptions: of this machine; the defaults stand for a small rented CPU machine.

    Raises:
        ConfigError: the seconds are negative or not finite.
    """
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"estimate_cost: seconds is {seconds!r}, allowed is a finite number of at least 0.")
    given = assumptions or CostAssumptions()
    hours = seconds / 3600
    energy = given.pue * hours * given.watts / 1000
    money = hours * (given.eur_per_hour + given.num_gpus * given.eur_per_gpu_hour)
    return CostEstimate(seconds, energy, 1000 * given.carbon_kg_per_kwh * energy, money, given)
