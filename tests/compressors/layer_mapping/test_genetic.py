"""The search space and the genetic algorithm, on landscapes whose best gene is known; nothing is trained."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcompress.compressors.layer_mapping.genes import Space, contribution_gene
from bertcompress.compressors.layer_mapping.genetic import GeneticSettings, first_generation, next_generation
from bertcompress.errors import ConfigError


@st.composite
def spaces(draw):
    return Space(draw(st.integers(1, 6)), draw(st.integers(1, 12)), draw(st.booleans()))


@st.composite
def searches(draw):
    population = draw(st.integers(2, 12))
    return GeneticSettings(
        population=population,
        elites=draw(st.integers(0, population - 1)),
        selection=draw(st.sampled_from(["roulette", "tournament"])),
        crossover=draw(st.sampled_from(["uniform", "one_point"])),
        crossover_rate=draw(st.floats(0, 1)),
        mutation_rate=draw(st.floats(0, 1)),
    )


def scored(genes, fitness):
    return [(gene, fitness(gene)) for gene in genes]


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (Space(4, 12), 28_560),  # 13^4, but for the gene that teaches nothing
        (Space(6, 12), 4_826_808),
        (Space(4, 12, ordered=True), math.comb(16, 4) - 1),
        (Space(6, 12, ordered=True), math.comb(18, 6) - 1),
        (Space(3, 6), 342),
        (Space(3, 6, ordered=True), 83),
        (Space(2, 4), 24),
        (Space(2, 4, ordered=True), 14),
    ],
)
def test_spaces_are_as_large_as_counted(space, size):
    assert space.size() == size
    if size < 1000:
        genes = list(space.all())
        assert len(genes) == len(set(genes)) == size
        assert all(map(space.holds, genes))


def test_mappings_by_hand_are_those_of_the_papers():
    assert Space(4, 12).named() == {
        "uniform": (3, 6, 9, 12),
        "last": (0, 0, 0, 12),
        "top": (9, 10, 11, 12),
        "bottom": (1, 2, 3, 4),
        "reversed": (12, 9, 6, 3),
    }
    assert "reversed" not in Space(4, 12, ordered=True).named()
    assert contribution_gene([0.9, 0.2, 0.95, 0.5], 2) == (2, 4)


@given(spaces(), st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 9))
def test_a_repaired_gene_is_one_of_the_space_and_a_good_one_stays(space, raw, seed):
    gene = tuple(min(layer, space.num_teacher) for layer in (raw * 6)[: space.num_student])
    repaired = space.repaired(gene, np.random.default_rng(seed))
    assert space.holds(repaired)
    if space.holds(gene):
        assert repaired == gene


@settings(max_examples=60, deadline=None)
@given(spaces(), searches(), st.integers(0, 99), st.randoms())
def test_generations_stay_in_the_space_and_follow_from_the_seed_alone(space, search, seed, shuffle):
    genes = first_generation(space, search, seed)
    assert len(genes) == len(set(genes)) == min(search.population, space.size())
    assert genes == first_generation(space, search, seed)
    last = scored(genes, lambda gene: -float(sum(gene) % 5))
    for generation in (1, 2, 3):
        found = next_generation(space, search, seed, generation, last)
        mixed = list(last)
        shuffle.shuffle(mixed)
        assert found == next_generation(space, search, seed, generation, mixed)  # whoever was evaluated first
        assert len(found) == search.population
        assert all(map(space.holds, found))
        last = scored(found, lambda gene: -float(sum(gene) % 5))


@settings(max_examples=30, deadline=None)
@given(spaces(), st.integers(0, 99))
def test_without_crossover_and_mutation_nothing_new_appears(space, seed):
    search = GeneticSettings(population=6, crossover_rate=0, mutation_rate=0)
    genes = first_generation(space, search, seed)
    found = next_generation(space, search, seed, 1, scored(genes, lambda gene: float(gene[0])))
    assert set(found) <= set(genes)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.sampled_from(["roulette", "tournament"]))
def test_the_best_never_gets_worse_with_elites(seed, selection):
    space, search = Space(4, 12), GeneticSettings(population=8, elites=1, selection=selection)
    fitness = planted(space, seed)
    last = scored(first_generation(space, search, seed), fitness)
    for generation in range(1, 6):
        found = scored(next_generation(space, search, seed, generation, last), fitness)
        assert max(each for _, each in found) >= max(each for _, each in last)
        last = found


def test_heuristics_can_begin_the_search():
    space = Space(4, 12)
    genes = first_generation(space, GeneticSettings(population=8), 0, space.named().values())
    assert genes[:5] == list(space.named().values())
    assert len(first_generation(space, GeneticSettings(population=3), 0, space.named().values())) == 3


def test_roulette_prefers_the_fit_and_never_takes_the_unfit():
    space = Space(1, 12)
    search = GeneticSettings(population=1000, elites=0, crossover_rate=0, mutation_rate=0)
    found = next_generation(space, search, 0, 1, [((1,), 0.0), ((2,), 1.0), ((3,), 3.0)])
    counts = {gene: found.count(gene) for gene in ((1,), (2,), (3,))}
    assert counts[1,] == 0
    assert counts[3,] / counts[2,] == pytest.approx(3, rel=0.3)


def planted(space, seed):
    """A separable landscape: each layer has a value for each gene, the best regret is 0."""
    table = np.random.default_rng([7, seed]).random((space.num_student, space.num_teacher + 1))

    def fitness(gene):
        return float(sum(table[layer, value] for layer, value in enumerate(gene)) - table.max(1).sum())

    return fitness


def evolved(space, search, seed, fitness):
    """Return the best fitness and the genes that were evaluated."""
    known, genes = {}, first_generation(space, search, seed)
    for generation in range(search.generations):
        known |= {gene: fitness(gene) for gene in genes if gene not in known}
        genes = next_generation(space, search, seed, generation + 1, [(gene, known[gene]) for gene in genes])
    return max(known.values()), known


@pytest.mark.parametrize("layers", [4, 6])
def test_the_search_beats_random_draws_at_equal_evaluations(layers):
    space, search = Space(layers, 12), GeneticSettings(population=20, generations=15, generation_patience=None)
    searched, drawn = [], []
    for seed in range(60):
        fitness = planted(space, seed)
        best, known = evolved(space, search, seed, fitness)
        random = np.random.default_rng([3, seed])
        genes = set()
        while len(genes) < len(known):
            genes.add(space.draw(random))
        searched.append(-best)
        drawn.append(-max(map(fitness, genes)))
    assert np.mean(searched) < 0.5 * np.mean(drawn)


@pytest.mark.parametrize("space", [Space(3, 6), Space(3, 6, ordered=True)])
def test_in_small_spaces_a_third_of_the_evaluations_finds_the_top(space):
    search = GeneticSettings(population=8, generations=30, generation_patience=None)
    hits = 0
    for seed in range(20):
        fitness = planted(space, seed)
        budget, known, genes = max(8, space.size() // 3), {}, first_generation(space, search, seed)
        for generation in range(search.generations):
            for gene in genes:
                if gene not in known and len(known) < budget:
                    known[gene] = fitness(gene)
            last = [(gene, known[gene]) for gene in genes if gene in known]
            if not last or len(known) >= budget:
                break
            genes = next_generation(space, search, seed, generation + 1, last)
        truth = sorted(map(fitness, space.all()), reverse=True)
        hits += max(known.values()) >= truth[max(0, math.ceil(0.05 * len(truth)) - 1)]
    assert hits >= 16  # four of five


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"population": 1}, "population: got 1"),
        ({"elites": 20}, "elites: got 20, allowed is a number below the population, 20"),
        ({"mutation_rate": 1.5}, "mutation_rate: got 1.5"),
        ({"selection": "fate"}, "selection: got 'fate', allowed are 'roulette', 'tournament'"),
        ({"generation_patience": 0}, "generation_patience: got 0"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        GeneticSettings(**values)


def test_repairs_keep_as_many_layers_as_can_rise():
    space, random = Space(4, 12, ordered=True), np.random.default_rng(0)
    assert space.repaired((12, 1, 2, 3), random) == (0, 1, 2, 3)
    assert space.repaired((3, 3, 0, 9), random) == (3, 0, 0, 9)
    assert Space(4, 12).repaired((12, 1, 2, 3), random) == (12, 1, 2, 3)


def test_ordered_genes_are_drawn_evenly_and_at_once():
    space, random = Space(2, 4, ordered=True), np.random.default_rng(0)
    genes = [space.draw(random) for _ in range(14 * 200)]
    counts = [genes.count(gene) for gene in space.all()]
    assert len(counts) == 14
    assert 140 < min(counts)
    assert max(counts) < 270
    assert Space(12, 24, ordered=True).holds(Space(12, 24, ordered=True).draw(random))  # one in millions by rejection


def test_a_fitness_that_is_no_number_counts_as_the_lowest():
    space, search = Space(2, 4), GeneticSettings(population=4, elites=1)
    last = [((1, 2), math.nan), ((3, 4), 1.0), ((0, 1), -math.inf), ((2, 2), 0.5)]
    assert next_generation(space, search, 0, 1, last)[0] == (3, 4)
