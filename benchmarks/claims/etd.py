"""Extract-then-distill's claims (arXiv 2104.11928), from the results of `etd.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.claims.claim import Claim, main_scores
from benchmarks.claims.statistics import FAILS, HOLDS, UNDECIDED, mean

SOURCE = "arXiv 2104.11928, abstract"
STARTS = {"etd": "extraction (of layers alone)", "etd-rand": "ETD-Rand", "etd-impt": "ETD-Impt"}
BASELINE, CONTROL = "random", "embeddings"
ALIKE = {BASELINE: "random weights", CONTROL: "random layers behind the same embeddings"}
SMALL, WHOLE = "0.3", "1"
SOON = 0.5  # share of the steps
MARGIN = 0.5  # points of the mean score that count as no worse
Results = Sequence[Mapping[str, Any]]


def claims(results: Results) -> Iterator[Claim]:
    """Yield each claim with what was measured of it."""
    students = [each for each in results if each["group"] == "students"]
    for objective, size in sorted({(each["cell"]["objective"], each["cell"]["size"]) for each in students}):
        mine = [each for each in students if (each["cell"]["objective"], each["cell"]["size"]) == (objective, size)]
        for start in STARTS:
            for budget, rival in ((WHOLE, BASELINE), (SMALL, BASELINE), (WHOLE, CONTROL), (SMALL, CONTROL)):
                ours, theirs = _by_seed(mine, start, budget), _by_seed(mine, rival, WHOLE)
                seeds = sorted(ours.keys() & theirs.keys())
                if seeds:
                    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
                    yield _claim(STARTS[start], f"{objective}, {size}", pairs, budget, rival)
                    if (budget, rival) == (WHOLE, BASELINE):
                        yield _sooner(STARTS[start], f"{objective}, {size}", pairs)


def _claim(name: str, where: str, pairs: Sequence[tuple[Any, Any]], budget: str, rival: str) -> Claim:
    """Return one claim from pairs of a student and the rival with the same seed."""
    score = mean([_score(ours) - _score(theirs) for ours, theirs in pairs])
    loss = mean([held_out_loss(ours) - held_out_loss(theirs) for ours, theirs in pairs])
    cost = fmean(_cost(ours) / _cost(theirs) for ours, theirs in pairs)
    whole = budget == WHOLE
    says = f"{name} is better than {ALIKE[rival]} distilled alike"
    if not whole:
        says = f"{name} with {SMALL} of the steps comes within {MARGIN} points of {ALIKE[rival]} with all, or above"
    return Claim(
        says,
        SOURCE if rival == BASELINE else "our control",
        where,
        f"at {cost:.2f} of the compute: score {score} points; loss on held-out text {loss}",
        score.verdict(0.0 if whole else -MARGIN),
        "saves 70 % of the compute, and is better at equal compute" if rival == BASELINE else "does not say",
    )


def _sooner(name: str, where: str, pairs: Sequence[tuple[Any, Any]]) -> Claim:
    """Return how soon the student has the loss that its rival ends with, in one schedule that is as long for both."""
    shares = mean([share_to_reach(ours, held_out_loss(theirs)) for ours, theirs in pairs])
    return Claim(
        f"{name} has the final loss of {ALIKE[BASELINE]} after at most half of the steps",
        "our expectation",
        where,
        f"after {shares.value:.2f} of the steps ({shares.low:.2f} to {shares.high:.2f}, n={shares.count}; 1 where it "
        "never does); of one long schedule, which understates a short one",
        HOLDS if shares.high <= SOON else FAILS if shares.low > SOON else UNDECIDED,
        "saves 70 % of the compute",
    )


def share_to_reach(result: Mapping[str, Any], loss: float) -> float:
    """Return the share of all steps after which the loss on held-out text is no more than `loss`; 1 if it never is."""
    curve = result["history"][-1]["curves"]["score"]
    return next((step / curve[-1][0] for step, value in curve if -value <= loss), 1.0)


def _cost(result: Mapping[str, Any]) -> float:
    return float(sum(result["compute"].values()))


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
        whole = fmean(map(_cost, mine))
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
    teachers = [main_scores(each) for each in results if each["group"] == "teacher"]
    if teachers:
        own = [_ranged([each[task] for each in teachers], ".1f") for task in tasks]
        mean_score = _ranged([fmean(each.values()) for each in teachers], ".1f")
        rows.append(["the teacher itself", "", "", "", "", "", *own, mean_score, str(len(teachers))])
    return rows


def _ranged(values: Sequence[float], form: str) -> str:
    if len(values) < 2:
        return format(values[0], form)
    return f"{fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"
