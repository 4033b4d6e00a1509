"""The claims of layer-mapping search (arXiv 2012.06153), from the results of `layer_mapping.yaml`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import fmean

import numpy as np

from benchmarks.claims.claim import Claim
from benchmarks.claims.experiment import written
from benchmarks.claims.mapping_controls import controls
from benchmarks.claims.mapping_table import SEEN, Results, by_mapping, ranking
from benchmarks.claims.statistics import FAILS, HOLDS, UNDECIDED, mean, spread
from bertcompress.compressors.layer_mapping.genes import Gene, Space
from bertcompress.compressors.layer_mapping.genetic import GeneticSettings, first_generation, next_generation

SOURCE = "arXiv 2012.06153, abstract"
SEARCHES, SHOWN = 50, 5  # seeds of the search; those whose evaluations are shown
TOP, SHARE = 0.05, 1 / 3
FINALISTS = 3
# Chosen on made-up landscapes (separable, with noise) of the same size, before any of the results here was looked at.
SETTINGS = GeneticSettings(population=10, generations=10, selection="tournament", generation_patience=None)


def claims(results: Results) -> Iterator[Claim]:
    """Yield each claim with what was measured of it."""
    proxy, full = by_mapping(results, "proxy"), by_mapping(results, "full")
    for name, found in (("the proxy setting", proxy), ("distillation in full", full)):
        if found and min(map(len, found.values())) > 1:
            yield matters(name, found)
    several = all(min(map(len, found.values()), default=0) > 1 for found in (proxy, full))
    if several and proxy.keys() == full.keys():
        yield from ranking("the proxy setting", proxy, full, SOURCE)
    yield from each_task(results)
    space = by_mapping(results, "space")
    if space:
        yield finds("the proxy setting", space)
    if full:
        yield finds("distillation in full", full)
    if proxy and full and proxy.keys() == full.keys():
        yield from winners(results, proxy)
    yield from controls(results, full)


def matters(name: str, found: Mapping[str, list[float]], looks: int = 1) -> Claim:
    """Return whether mappings differ by more than seeds do.

    Args:
        name: the setting that scores come from.
        found: mapping -> score for each seed.
        looks: how many such questions are asked together, at 5 % for all of them (Bonferroni).
    """
    true, noise, chance = spread(list(found.values()))
    means = [fmean(values) for values in found.values()]
    return Claim(
        "which layer teaches which makes a difference",
        SOURCE,
        f"{name}, {len(found)} mappings, {len(next(iter(found.values())))} seeds",
        f"standard deviation of mappings {true:.2f} points, of seeds {noise:.2f}; best less worst mean "
        f"{max(means) - min(means):.2f}; p of the F-test {chance:.2g}",
        HOLDS if chance < 0.05 / looks else UNDECIDED,
        "the mapping has a strong effect on quality",
    )


def each_task(results: Results) -> Iterator[Claim]:
    """Yield whether mappings differ on each task in full, and whether the proxy foresees the unseen ones.

    Added when the results were known: on SST-2 about a fifth of the students end at chance, which hides the rest.
    """
    full = [each for each in results if each["group"] == "full"]
    tasks = sorted({task for each in full for task in each["downstream"]})
    for task in tasks:
        found = by_mapping(full, "full", [task])
        if len(next(iter(found.values()), ())) > 1:
            yield matters(f"distillation in full, {task} alone", found, len(tasks))
    unseen = [task for task in tasks if task not in SEEN]
    if unseen:
        told = f"the proxy setting (foreseeing {', '.join(unseen)})"
        yield from ranking(told, by_mapping(results, "proxy"), by_mapping(full, "full", unseen), SOURCE)


def finds(setting: str, table: Mapping[str, list[float]]) -> Claim:
    """Return whether the genetic search finds one of the best mappings with a part of the evaluations."""
    truth = {mapping: fmean(values) for mapping, values in table.items()}
    best = sorted(truth, key=lambda mapping: -truth[mapping])[: max(1, math.floor(TOP * len(truth)))]
    allowed = math.floor(SHARE * len(truth))
    found, drawn, gains = [], [], []
    for seed in range(SEARCHES):
        order = [written(gene) for gene in searched(truth, seed)]
        found.append(next((place for place, name in enumerate(order, start=1) if name in best), len(truth)))
        shuffled = np.random.default_rng(seed).permutation(sorted(truth)).tolist()
        drawn.append(next(place for place, name in enumerate(shuffled, start=1) if name in best))
        gains.append(max(truth[name] for name in order[:allowed]) - max(truth[name] for name in shuffled[:allowed]))
    hits = [sum(place <= allowed for place in places) for places in (found, drawn)]
    first = sum(place <= allowed for place in found[:SHOWN])
    gain = mean(gains)
    return Claim(
        f"the genetic search finds one of the best {TOP:.0%} with a third of the evaluations in 4 of 5 seeds, and does "
        "better than as many random draws",
        "our aim",
        f"{len(truth)} mappings, exhaustive truth of {setting}, best {len(best)}, {allowed} evaluations",
        f"{first} of the first {SHOWN} seeds, {hits[0]} of {SEARCHES}; random draws {hits[1]} of {SEARCHES}; the best "
        f"found is better by {gain} points; evaluations of the first seeds {', '.join(map(str, found[:SHOWN]))}",
        FAILS if first < 4 or gain.high < 0 else gain.verdict(),
        "the genetic algorithm finds the best mapping",
    )


def searched(truth: Mapping[str, float], seed: int) -> list[Gene]:
    """Return the genes that a search evaluates on a table of fitness, in order; without the mappings chosen by hand.

    These are the generations that `GeneticSampler` proposes, without a study around them, which would only cost time.
    """
    genes = {tuple(map(int, name.split("-"))): value for name, value in truth.items()}
    space = Space(len(next(iter(genes))), max(max(gene) for gene in genes), ordered=True)
    order: dict[Gene, None] = {}
    generation = first_generation(space, SETTINGS, seed)
    for number in range(1, SETTINGS.generations + 1):
        order |= dict.fromkeys(generation)
        generation = next_generation(space, SETTINGS, seed, number, [(gene, genes[gene]) for gene in generation])
    return list(order)


def winners(results: Results, proxy: Mapping[str, list[float]]) -> Iterator[Claim]:
    """Yield how the search's winner does against each heuristic, in full, on tasks that the search did not see."""
    unseen = sorted({task for each in results if each["group"] == "full" for task in each["downstream"]} - set(SEEN))
    if not unseen:
        return
    full = by_mapping(results, "full", unseen)
    first = {name: values[0] for name, values in proxy.items()}
    genes = searched(first, 0)
    finalists = sorted(map(written, genes), key=lambda name: -first[name])[:FINALISTS]
    winner = max(
        finalists, key=lambda name: fmean(proxy[name][1:] or proxy[name])
    )  # by seeds that the search did not see
    space = Space(len(genes[0]), max(max(map(int, name.split("-"))) for name in proxy), ordered=True)
    others = [full[name] for name in full if name != winner]
    rivals = {f"'{name}' ({written(gene)})": full.get(written(gene)) for name, gene in space.named().items()}
    rivals["a mapping drawn at random (the mean of all others)"] = [fmean(each) for each in zip(*others, strict=True)]
    for name, scores in rivals.items():
        if scores is None or scores is full[winner]:
            continue
        difference = mean([ours - theirs for ours, theirs in zip(full[winner], scores, strict=True)])
        yield Claim(
            f"the search's mapping ({winner}) beats {name}",
            SOURCE,
            f"{', '.join(unseen)}, not seen by the search; distillation in full",
            f"{difference} points",
            difference.verdict(),
            "searched mappings beat those chosen by hand",
        )
