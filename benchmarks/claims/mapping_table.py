"""Scores of mappings as a table, and how alike two such tables rank them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np

from benchmarks.claims.claim import Claim, main_scores
from benchmarks.claims.statistics import FAILS, HOLDS, UNDECIDED, agreements

SEEN = ("sst2", "conll2000", "ud-ewt-pos")  # tasks that mappings are judged by; the others are unseen
Results: TypeAlias = Sequence[Mapping[str, Any]]
Table: TypeAlias = Mapping[str, list[float]]  # mapping -> score for each seed


def score_of(result: Mapping[str, Any], tasks: Sequence[str] = SEEN) -> float:
    """Return the mean score over tasks, in percent."""
    scores = main_scores(result)
    return fmean(scores[task] for task in tasks)


def by_mapping(results: Results, group: str, tasks: Sequence[str] = SEEN) -> dict[str, list[float]]:
    """Return mapping -> mean score over tasks, in percent, for each seed that all mappings have."""
    found: dict[str, dict[int, float]] = {}
    for each in results:
        if each["group"] == group:
            found.setdefault(each["cell"]["mapping"], {})[each["seed"]] = score_of(each, tasks)
    common = sorted(set.intersection(*map(set, found.values()))) if found else []
    return {mapping: [seeds[seed] for seed in common] for mapping, seeds in found.items()} if common else {}


def ranking(name: str, proxy: Table, full: Table, source: str) -> Iterator[Claim]:
    """Yield whether the cheap ranking is the dear one, as far as another seed of the dear one is.

    Seeds are never the same on both sides: their common noise would look like agreement.

    Args:
        name: how it is judged cheaply.
        proxy: what came of that; nothing is yielded where it lacks a mapping.
        full: what came of distillation in full, with two seeds at least.
        source: who says so.
    """
    if not proxy or proxy.keys() != full.keys() or len(next(iter(full.values()))) < 2:
        return
    names = sorted(proxy)
    tau, ceiling, lacking = agreements(*(np.array([table[each] for each in names]) for table in (proxy, full)))
    yield Claim(
        f"{name} ranks mappings as distillation in full does, with another seed",
        source,
        f"{len(names)} mappings, {len(proxy[names[0]])} seeds of the proxy",
        f"Kendall's tau {tau}; between two seeds in full {ceiling.value:+.2f}, the ceiling; difference {lacking}",
        FAILS if tau.high < 0 or lacking.high < 0 else HOLDS if tau.low > 0 else UNDECIDED,
        "mappings are judged in a proxy setting, by three tasks",
    )
