"""Beside the claims of layer-mapping search: terms, order, shares of the texts, single tasks, a reversed mapping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

from benchmarks.claims.claim import Claim
from benchmarks.claims.mapping_table import SEEN, Results, Table, by_mapping, ranking, score_of
from benchmarks.claims.statistics import FAILS, HOLDS, mean

UNIFORM = "3-6"
OURS, SILENT = "our control", "does not say"
ALL = "all"
PARTS = {
    "attention": "attention scores",
    "hidden": "hidden states",
    "hidden-embeddings": "hidden states and embeddings",
}


def controls(results: Results, full: Table) -> Iterator[Claim]:
    """Yield what was measured of each.

    Args:
        results: all of the experiment.
        full: scores of distillation in full.
    """
    uniform = _by_seed(each for each in results if each["group"] == "full" and each["cell"]["mapping"] == UNIFORM)
    yield from terms(results, uniform)
    backwards = _by_seed(each for each in results if each["group"] == "reversed")
    yield from _paired("the uniform mapping teaches better than the same reversed", uniform, backwards)
    yield from order(results)
    for share in sorted({each["cell"]["share"] for each in results if each["group"] == "shares"}):
        mine = [each for each in results if each["group"] == "shares" and each["cell"]["share"] == share]
        yield from ranking(f"a proxy of {float(share):.0%} of the texts", by_mapping(mine, "shares"), full, OURS)
    for task in SEEN:
        yield from ranking(f"the proxy setting with {task} alone", by_mapping(results, "proxy", [task]), full, OURS)


def terms(results: Results, uniform: Mapping[int, float]) -> Iterator[Claim]:
    """Yield whether attention and hidden states together are better than one of them, and what the embeddings add."""
    of_terms = [each for each in results if each["group"] == "terms"]
    found = {name: _by_seed(each for each in of_terms if each["cell"]["terms"] == name) for name in (*PARTS, ALL)}
    for name, about in PARTS.items():
        says = f"attention scores and hidden states together teach better than {about} alone"
        yield from _paired(says, uniform, found[name])
    yield from _paired("comparing the output of the embeddings as well teaches better", found[ALL], uniform)


def order(results: Results) -> Iterator[Claim]:
    """Yield whether a search loses something where only rising mappings are allowed; of the first seed alone."""
    first = [each for each in results if each["seed"] == 0]
    free, rising = ([score_of(each) for each in first if each["group"] == name] for name in ("unordered", "full"))
    if not free or not rising:
        return
    yield Claim(
        "no mapping that does not rise is better than the best that does",
        OURS,
        f"{len(free)} and {len(rising)} mappings, distillation in full, one seed",
        f"best {max(free):.2f} and {max(rising):.2f}; mean {fmean(free):.2f} and {fmean(rising):.2f}",
        HOLDS if max(free) <= max(rising) else FAILS,
        SILENT,
    )


def _paired(says: str, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Iterator[Claim]:
    seeds = sorted(ours.keys() & theirs.keys())
    if seeds:
        difference = mean([ours[seed] - theirs[seed] for seed in seeds])
        yield Claim(says, OURS, "uniform mapping, in full", f"{difference} points", difference.verdict(), SILENT)


def _by_seed(results: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    return {each["seed"]: score_of(each) for each in results}
