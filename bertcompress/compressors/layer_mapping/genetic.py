"""The genetic algorithm: which genes a generation is made of, as a pure function of the one before.

All that is random in a generation follows from (seed, generation), so a search gives the same genes whoever evaluates
them, in whatever order. The paper names a genetic algorithm; its operators and constants could not be verified. The
defaults are ours: roulette on fitness above the generation's lowest, as in the same laboratory's AutoTinyBERT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bertcompress.compressors.layer_mapping.genes import Gene, Space
from bertcompress.errors import ConfigError, allowed

if TYPE_CHECKING:
    import numpy as np

Scored: TypeAlias = tuple[Gene, float]
SELECTIONS, CROSSOVERS = ("roulette", "tournament"), ("uniform", "one_point")
TOURNAMENT = 3  # rivals of a tournament


@dataclass(frozen=True, kw_only=True)
class GeneticSettings:
    """How generations follow each other.

    Attributes:
        population: genes of a generation.
        generations: how many there are at most.
        selection: how parents are chosen: "roulette" (with a chance as their fitness is above the lowest) or
            "tournament" (the best of three that are drawn).
        elites: best genes that a generation takes over unchanged.
        crossover: "uniform" (each layer from either parent) or "one_point" (the lower layers from one, the upper from
            the other).
        crossover_rate: chance that a child has two parents.
        mutation_rate: chance that a layer of a child is drawn anew.
        generation_patience: generations in a row without a better gene that end the search; None never ends it early.
    """

    population: int = 20
    generations: int = 10
    selection: str = "roulette"
    elites: int = 2
    crossover: str = "uniform"
    crossover_rate: float = 0.8
    mutation_rate: float = 0.15
    generation_patience: int | None = 4

    def __post_init__(self) -> None:
        """Refuse values that no search can work with.

        Raises:
            ConfigError: names the field, what was got and what is allowed.
        """
        for name, minimum in (("population", 2), ("generations", 1), ("elites", 0)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < minimum:
                raise self._refuse(name, f"is a whole number of at least {minimum}")
        if self.elites >= self.population:
            raise self._refuse("elites", f"is a number below the population, {self.population}")
        for name in ("crossover_rate", "mutation_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise self._refuse(name, "is a number from 0 to 1")
        for name, choices in (("selection", SELECTIONS), ("crossover", CROSSOVERS)):
            if getattr(self, name) not in choices:
                raise self._refuse(name, f"are {allowed(choices)}")
        if self.generation_patience is not None and self.generation_patience < 1:
            raise self._refuse("generation_patience", "is a whole number of at least 1, or null")

    def _refuse(self, name: str, allowed_values: str) -> ConfigError:
        return ConfigError(f"{type(self).__name__}.{name}: got {getattr(self, name)!r}, allowed {allowed_values}.")


def first_generation(space: Space, settings: GeneticSettings, seed: int, seeded: Iterable[Gene] = ()) -> list[Gene]:
    """Return the genes to begin with: those given, then random ones, each once as far as there are so many.

    Args:
        space: what genes there are.
        settings: how many a generation has.
        seed: of the search.
        seeded: genes to begin with, such as `space.named()`.
    """
    random, genes = _generator(seed, 0), dict.fromkeys(seeded)
    while len(genes) < min(settings.population, space.size()):
        genes.setdefault(space.draw(random))
    return list(genes)[: settings.population]


def next_generation(
    space: Space, settings: GeneticSettings, seed: int, generation: int, last: Sequence[Scored]
) -> list[Gene]:
    """Return the genes of a generation, given those of the last one with their fitness.

    Args:
        space: what genes there are.
        settings: how generations follow each other.
        seed: of the search.
        generation: its number, from 1.
        last: genes with their fitness, higher is better; in any order.
    """
    random = _generator(seed, generation)
    lowest = min((fitness for _, fitness in last if math.isfinite(fitness)), default=0.0)
    sound = [(gene, fitness if math.isfinite(fitness) else lowest) for gene, fitness in last]  # none is better than bad
    ranked = sorted(sound, key=lambda scored: (-scored[1], scored[0]))  # of equal ones the lower gene
    elites = list(dict.fromkeys(gene for gene, _ in ranked))[: settings.elites]
    pick = _picker(settings, ranked, random)
    children = [_child(space, settings, pick, random) for _ in range(settings.population - len(elites))]
    return [*elites, *children]


def _generator(seed: int, generation: int) -> np.random.Generator:
    import numpy as np

    return np.random.default_rng([seed, generation])


def _picker(settings: GeneticSettings, ranked: Sequence[Scored], random: np.random.Generator) -> Callable[[], Gene]:
    if settings.selection == "tournament":
        return lambda: ranked[int(random.integers(len(ranked), size=TOURNAMENT).min())][0]
    lowest = ranked[-1][1]
    above = [fitness - lowest for _, fitness in ranked]
    total = sum(above)
    chances = [each / total for each in above] if total else None  # all alike: each as likely
    return lambda: ranked[int(random.choice(len(ranked), p=chances))][0]


def _child(space: Space, settings: GeneticSettings, pick: Callable[[], Gene], random: np.random.Generator) -> Gene:
    child = pick()
    if random.random() < settings.crossover_rate:
        child = _crossed(settings, child, pick(), random)
    changes = random.random(len(child)) < settings.mutation_rate
    drawn = random.integers(space.num_teacher + 1, size=len(child)).tolist()
    mutated = tuple(new if change else old for old, new, change in zip(child, drawn, changes, strict=True))
    return space.repaired(mutated, random)


def _crossed(settings: GeneticSettings, one: Gene, other: Gene, random: np.random.Generator) -> Gene:
    if settings.crossover == "one_point":
        point = int(random.integers(1, len(one))) if len(one) > 1 else 1
        return one[:point] + other[point:]
    first = random.random(len(one)) < 0.5
    return tuple(a if chosen else b for a, b, chosen in zip(one, other, first, strict=True))
