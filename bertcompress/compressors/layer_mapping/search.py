"""The search itself: generations of genes, evaluated once each by any number of processes, then the best again."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bertcompress.compressors.layer_mapping.genes import Gene
from bertcompress.compressors.layer_mapping.sampler import GeneticSampler, gene_of, params_of, ranges
from bertcompress.search.board import Board, Lost, Outcome
from bertcompress.search.workers import Workers

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A gene that was evaluated.

    Attributes:
        gene: the mapping.
        fitness: higher is better.
        generation: in which it first appeared, from 0.
        facts: what the evaluation told beside it.
    """

    gene: Gene
    fitness: float
    generation: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        generations: the fitness of every gene of each generation.
        candidates: every gene that was evaluated, best first; of equal ones the lower gene.
    """

    generations: tuple[tuple[float, ...], ...]
    candidates: tuple[Candidate, ...]


class GeneticSearch:
    """A genetic search in a study; every process that runs it on the same study shares the work."""

    def __init__(self, study: Study, sampler: GeneticSampler, evaluate: Callable[[Gene], Outcome], label: str) -> None:
        """Take the study with its sampler, and what evaluates a gene; the same gene must always get the same value."""
        self.study, self.sampler, self.evaluate, self.label = study, sampler, evaluate, label
        self.workers = Workers(study)
        self.board = Board(study, self.workers, self._lost)
        sampler.watch(self.board.results)
        self._began, self._own = time.monotonic(), 0

    def run(self) -> Found:
        """Work until the search is over, and return what it has found; one that is over is only read."""
        with self.workers:
            while True:
                slot, trial = self.board.take()
                with self.board.holding(trial.number):
                    if self._ended_before(slot // self.sampler.population):
                        self.board.drop(trial.number)
                        return self.found()
                    gene = tuple(trial.suggest_int(name, each.low, each.high) for name, each in self._ranges().items())
                    self.board.keep(slot, trial.number, self._outcome(slot, gene))

    def found(self) -> Found:
        """Return what the complete generations have found."""
        population, done = self.sampler.population, self.board.results()
        candidates: dict[Gene, Candidate] = {}
        generations: list[tuple[float, ...]] = []
        while all(len(generations) * population + place in done for place in range(population)):
            number = len(generations)
            slots = range(number * population, (number + 1) * population)
            for slot in slots:
                gene = gene_of(done[slot].params)
                fitness, facts = _value(done[slot]), self.board.facts(slot)
                candidates.setdefault(gene, Candidate(gene, fitness, number, facts))
            generations.append(tuple(_value(done[slot]) for slot in slots))
            if self._ends_with(generations):
                break
        ranked = sorted(candidates.values(), key=lambda each: (-each.fitness, each.gene))
        return Found(tuple(generations), tuple(ranked))

    def _ranges(self) -> dict[str, Any]:
        return ranges(self.sampler.space)

    def _ended_before(self, generation: int) -> bool:
        """Wait for all generations before this one, and return whether the search ended with one of them."""
        population = self.sampler.population
        known: list[tuple[float, ...]] = []
        for number in range(min(generation, self.sampler.settings.generations)):
            done = self.board.settle(range(number * population, (number + 1) * population))
            known.append(tuple(_value(done[slot]) for slot in sorted(done)))
            if self._ends_with(known):
                return True
        return False

    def _ends_with(self, generations: Sequence[Sequence[float]]) -> bool:
        """Return whether the last of these generations is the last of all."""
        settings = self.sampler.settings
        if len(generations) >= settings.generations:
            return True
        best = [max(each) for each in generations]
        stale = len(best) - 1 - best.index(max(best))
        return settings.generation_patience is not None and stale >= settings.generation_patience

    def _genes(self, generation: int) -> list[list[Gene]]:
        """Return the genes of the generations up to this one; those before it must be complete."""
        values = {slot: _value(trial) for slot, trial in self.board.results().items()}
        return self.sampler.generations(generation, values)

    def _outcome(self, slot: int, gene: Gene) -> Outcome:
        """Evaluate a gene, or take over what came of the lowest slot that has the same gene."""
        generations = self._genes(slot // self.sampler.population)
        same = [gene for genes in generations for gene in genes].index(gene)
        if same < slot:
            trial = self.board.settle([same])[same]
            return Outcome(_value(trial), {"same_as": same})
        began = time.monotonic()
        outcome = self.evaluate(gene)
        facts = {**outcome.facts, "seconds": time.monotonic() - began, "worker": self.workers.me}
        self._tell(slot, gene, outcome.value)
        return Outcome(outcome.value, facts)

    def _lost(self, slot: int) -> Lost:
        gene = self._genes(slot // self.sampler.population)[-1][slot % self.sampler.population]
        return Lost(params_of(gene), self._ranges(), lambda: self._outcome(slot, gene))

    def _tell(self, slot: int, gene: Gene, fitness: float) -> None:
        """Log how far the search is."""
        settings, done = self.sampler.settings, self.board.results()
        values = {gene_of(trial.params): _value(trial) for trial in done.values()}
        values[gene] = fitness
        finite = [value for value in values.values() if math.isfinite(value)] or [math.nan]
        best = min(values, key=lambda each: (-values[each], each))
        self._own += 1
        slots = settings.generations * self.sampler.population - slot - 1
        left = (time.monotonic() - self._began) / self._own * slots * len(values) / (len(done) + 1)
        logger.info(
            "%s: generation %d of %d, %s has %.2f; best %s with %.2f, mean %.2f of %d mappings; about %d min left",
            *(self.label, slot // self.sampler.population + 1, settings.generations, list(gene), fitness),
            *(list(best), values[best], fmean(finite), len(values), math.ceil(left / 60)),
        )


class Repetition:
    """Evaluations of a few genes with a few seeds each, shared in the same way."""

    def __init__(
        self, study: Study, items: Sequence[tuple[Gene, int]], evaluate: Callable[[Gene, int], Outcome], label: str
    ) -> None:
        """Take the study and the (gene, seed) pairs, in an order that all processes give."""
        self.study, self.items, self.evaluate, self.label = study, tuple(items), evaluate, label
        self.workers = Workers(study)
        self.board = Board(study, self.workers, lambda slot: Lost({}, {}, lambda: self._outcome(slot)))

    def run(self) -> list[tuple[float, dict[str, Any]]]:
        """Work until all is done, and return the value and the facts of every item."""
        with self.workers:
            while len(self.board.results()) < len(self.items):
                slot, trial = self.board.take()
                with self.board.holding(trial.number):
                    if slot >= len(self.items):
                        self.board.drop(trial.number)
                        break
                    self.board.keep(slot, trial.number, self._outcome(slot))
            done = self.board.settle(range(len(self.items)))
        return [(_value(done[slot]), self.board.facts(slot)) for slot in range(len(self.items))]

    def _outcome(self, slot: int) -> Outcome:
        gene, seed = self.items[slot]
        outcome = self.evaluate(gene, seed)
        logger.info(
            "%s: %d of %d evaluations with fresh seeds, %s has %.2f with seed %d",
            *(self.label, slot + 1, len(self.items), list(gene), outcome.value, seed),
        )
        return outcome


def _value(trial: FrozenTrial) -> float:
    assert trial.values is not None
    return float(trial.values[0])
