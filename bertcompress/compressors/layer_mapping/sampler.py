"""The genetic algorithm as a sampler of optuna's, whose generations do not depend on who evaluates them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseGASampler

from bertcompress.compressors.layer_mapping.genes import Gene, Space
from bertcompress.compressors.layer_mapping.genetic import GeneticSettings, Scored, first_generation, next_generation
from bertcompress.search.board import SLOT

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


def ranges(space: Space) -> dict[str, BaseDistribution]:
    """Return the values of each parameter of a trial: `layer_1` is the gene of the student's first layer."""
    return {f"layer_{layer}": IntDistribution(0, space.num_teacher) for layer in range(1, space.num_student + 1)}


def params_of(gene: Gene) -> dict[str, int]:
    """Return a gene as a trial's parameters."""
    return {f"layer_{layer}": value for layer, value in enumerate(gene, start=1)}


def gene_of(params: Mapping[str, Any]) -> Gene:
    """Return a trial's parameters as a gene."""
    return tuple(int(params[f"layer_{layer}"]) for layer in range(1, len(params) + 1))


class GeneticSampler(BaseGASampler):
    """Gives the trial of slot `generation * population + place` the gene of that place in that generation.

    Optuna's own genetic samplers make a child of the parents that are there when it is asked for, so a search by two
    processes differs from one by a single process. Here a trial knows its slot (`bertcompress.search.board`), and all
    children of a generation follow from the seed and the whole generation before, which must be complete.
    """

    def __init__(self, space: Space, settings: GeneticSettings, seed: int, seeded: Sequence[Gene] = ()) -> None:
        """Take what genes there are and how generations follow each other; the seed is the search's.

        Args:
            space: what genes there are.
            settings: how generations follow each other; of a space with fewer genes than a population, all of them.
            seed: of the search.
            seeded: genes that the first generation begins with.
        """
        super().__init__(population_size=min(settings.population, space.size()))
        self.space, self.settings, self.seed, self.seeded = space, settings, seed, tuple(seeded)
        self._slots: Callable[[], Mapping[int, FrozenTrial]] | None = None

    def watch(self, slots: Callable[[], Mapping[int, FrozenTrial]]) -> None:
        """Take where the finished trial of each slot is found."""
        self._slots = slots

    @property
    def population(self) -> int:
        """Genes of a generation."""
        assert self.population_size is not None
        return self.population_size

    def generations(self, last: int, values: Mapping[int, float]) -> list[list[Gene]]:
        """Return the genes of the generations up to `last`, given the fitness of every slot before that."""
        found = [first_generation(self.space, self.settings, self.seed, self.seeded)[: self.population]]
        for number in range(1, last + 1):
            first = (number - 1) * self.population
            scored = [(gene, values[first + place]) for place, gene in enumerate(found[-1])]
            found.append(self._next(number, scored))
        return found

    def _next(self, number: int, last: Sequence[Scored]) -> list[Gene]:
        return next_generation(self.space, self.settings, self.seed, number, last)[: self.population]

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        """Return the generation that a trial's slot belongs to."""
        return int(trial.user_attrs[SLOT]) // self.population

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Return the trials of the generation before, in the order of their slots."""
        assert self._slots is not None
        done = self._slots()
        return [done[slot] for slot in range((generation - 1) * self.population, generation * self.population)]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the ranges of all genes."""
        return ranges(self.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the gene of the trial's place in its generation."""
        generation, place = divmod(int(trial.user_attrs[SLOT]), self.population)
        if generation == 0:
            return params_of(self.generations(0, {})[0][place])
        parents = self.get_parent_population(study, generation)
        return params_of(self._next(generation, [(gene_of(each.params), each.values[0]) for each in parents])[place])

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Refuse a parameter that is no gene."""
        raise NotImplementedError(f"{param_name}: this sampler gives genes only.")
