"""KDLSQ's claims (arXiv 2101.05938), from the results of `kdlsq.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.claims.claim import Claim
from benchmarks.claims.statistics import mean

SOURCE = "arXiv 2101.05938, abstract"
OURS = "our aim"
Results = Sequence[Mapping[str, Any]]
Key = tuple[str, str, str]  # method, task, bits

# Points of score that a student may be below its teacher, and the least label loyalty, by bits.
AIMS = {"8-8-8": (1.0, 97.0), "4-4-8": (1.0, 95.0), "2-2-8": (3.0, None)}

# At 2 bits, better method first.
ORDER = (("kdlsq", "lsq"), ("kdlsq-and-labels", "lsq"), ("lsq", "post-training"), ("kdlsq", "aware"))


def claims(results: Results) -> Iterator[Claim]:
    """Yield each claim with what was measured of it."""
    found = by_key(results)
    for task in sorted({task for _, task, _ in found}):
        for bits, (points, loyalty) in AIMS.items():
            mine = found.get(("kdlsq", task, bits))
            if not mine:
                continue
            below = mean([_score(each) - _score(each, "teacher_scores") for each in mine.values()])
            says = f"{bits} bits are within {points:g} points of float"
            where = f"{task}, seeds {sorted(mine)}"
            yield Claim(
                says, SOURCE, where, f"{below} points", below.verdict(-points), "near the float model at 2 to 8 bits"
            )
            if task == "sst2" and loyalty is not None:
                agreed = mean([100 * each["loyalty"]["label"] for each in mine.values()])
                says = f"{bits} bits give the teacher's answer to at least {loyalty:g} % of examples"
                yield Claim(says, OURS, where, f"{agreed} %", agreed.verdict(loyalty), "does not say")
        for better, worse in ORDER:
            yield from _ordered(found, task, better, worse)


def _ordered(found: Mapping[Key, Mapping[int, Any]], task: str, better: str, worse: str) -> Iterator[Claim]:
    """Yield whether one method is above another at 2 bits, seed by seed."""
    ours, theirs = (found.get((group, task, "2-2-8"), {}) for group in (better, worse))
    seeds = sorted(ours.keys() & theirs.keys())
    if seeds:
        gain = mean([_score(ours[seed]) - _score(theirs[seed]) for seed in seeds])
        says = f"at 2-2-8 bits {better} scores above {worse}"
        yield Claim(
            says, SOURCE, f"{task}, seeds {seeds}", f"{gain} points", gain.verdict(), "outperforms other methods"
        )


def by_key(results: Results) -> dict[Key, dict[int, Mapping[str, Any]]]:
    """Return method, task and bits -> seed -> result; the ablation of initializations is not among them."""
    found: dict[Key, dict[int, Mapping[str, Any]]] = {}
    for each in results:
        cell = each["cell"]
        if "begins" not in cell:
            key = (cell.get("method", each["group"]), _trained_on(cell), cell["bits"])
            found.setdefault(key, {})[each["seed"]] = each["found"]
    return found


def _trained_on(cell: Mapping[str, str]) -> str:
    """Return a cell's task, and how it or its teacher was trained where that is not as most were."""
    told = [cell["training"]] if "training" in cell else []
    told += [f"teacher of {cell['teacher']}"] if "teacher" in cell else []
    return f"{cell['task']} ({', '.join(told).replace('-', ' ')})" if told else cell["task"]


def _score(found: Mapping[str, Any], whose: str = "scores") -> float:
    return 100 * float(found[whose][found["metric"]])


def table(results: Results) -> list[list[str]]:
    """Return the rows of the table of scores, the head first."""
    rows = [["task", "bits", "method", "steps begin by", "score", "of the teacher", "label loyalty", "MiB", "seeds"]]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for each in results:
        cell = each["cell"]
        method = cell.get("method", "kdlsq" if "begins" in cell else each["group"])
        begins = cell.get("begins", "kl" if method in ("kdlsq", "kdlsq-and-labels", "lsq") else "")
        groups.setdefault((_trained_on(cell), cell["bits"], method, begins), []).append(each["found"])
    for key in sorted(groups):
        mine = groups[key]
        loyalties = [100 * next(iter(each["loyalty"].values())) for each in mine]
        scores = ([_score(each) for each in mine], [_score(each, "teacher_scores") for each in mine], loyalties)
        size = fmean(each["bytes"] for each in mine) / 2**20
        rows.append([*key, *map(_ranged, scores), f"{size:.1f}", str(len(mine))])
    return rows


def _ranged(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
