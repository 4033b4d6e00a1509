"""Extract-then-distill's claims (arXiv 2104.11928), from the results of `etd.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.claims.claim import Claim, main_scores
from benchmarks.claims.statistics import Estimate, mean

SOURCE = "arXiv 2104.11928, abstract"
STARTS = {"etd-rand": "ETD-Rand", "etd-impt": "ETD-Impt"}
BASELINE = "random"
SMALL, WHOLE = "0.3", "1"
Results = Sequence[Mapping[str, Any]]


def claims(results: Results) -> Iterator[Claim]:
    """Yield each claim with what was measured of it."""
    students = [each for each in results if each["group"] == "students"]
    for objective, size in sorted({(each["cell"]["objective"], each["cell"]["size"]) for each in students}):
        mine = [each for each in students if (each["cell"]["objective"], each["cell"]["size"]) == (objective, size)]
        for start, name in STARTS.items():
            for budget, says in ((WHOLE, "at equal compute"), (SMALL, "with 0.3 of the compute")):
                ours, theirs = _by_seed(mine, start, budget), _by_seed(mine, BASELINE, WHOLE)
                seeds = sorted(ours.keys() & theirs.keys())
                if not seeds:
                    continue
                score = mean([_score(ours[seed]) - _score(theirs[seed]) for seed in seeds])
                loss = mean([held_out_loss(ours[seed]) - held_out_loss(theirs[seed]) for seed in seeds])
                yield _claim(name, says, objective, size, score, loss, budget)


def _claim(name: str, says: str, objective: str, size: str, score: Estimate, loss: Estimate, budget: str) -> Claim:
    better = "is better than" if budget == WHOLE else "is no worse than"
    return Claim(
        f"{name} {better} random weights distilled in full, {says}",
        SOURCE,
        f"{objective}, {size}",
        f"score {score} points; loss on held-out text {loss}",
        score.verdict(),
        "saves 70 % of the compute, and is better at equal compute",
    )


def _by_seed(results: Results, start: str, budget: str) -> dict[int, Mapping[str, Any]]:
    return {
        each["seed"]: each for each in results if (each["cell"]["start"], each["cell"]["budget"]) == (start, budget)
    }


def _score(result: Mapping[str, Any]) -> float:
    return fmean(main_scores(result).values())


def held_out_loss(result: Mapping[str, Any]) -> float:
    """Return the smallest distillation loss on held-out text, whose weights were kept."""
    return -max(value for _, value in result["history"][-1]["curves"]["score"])


def table(results: Results) -> list[list[str]]:
    """Return the rows of the table of loss and scores against compute, the head first."""
    students = [each for each in results if each["group"] == "students"]
    tasks = sorted({task for each in students for task in each["downstream"]})
    rows = [["objective", "size", "start", "budget", "compute", "held-out loss", *tasks, "mean", "seeds"]]
    keys = sorted({tuple(each["cell"][axis] for axis in ("objective", "size", "start", "budget")) for each in students})
    for key in keys:
        mine = [
            each
            for each in students
            if tuple(each["cell"][axis] for axis in ("objective", "size", "start", "budget")) == key
        ]
        whole = fmean(sum(each["compute"].values()) for each in mine)
        losses = [held_out_loss(each) for each in mine]
        scores = [main_scores(each) for each in mine]
        rows.append(
            [
                *key,
                f"{whole / 1e12:.2f} T",
                _ranged(losses, ".3f"),
                *(_ranged([each[task] for each in scores], ".1f") for task in tasks),
                _ranged([fmean(each.values()) for each in scores], ".1f"),
                str(len(mine)),
            ]
        )
    return rows


def _ranged(values: Sequence[float], form: str) -> str:
    if len(values) < 2:
        return format(values[0], form)
    return f"{fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"
