"""One claim of a paper, beside what was measured of it here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class Claim:
    """A line of the table of claims.

    Attributes:
        says: the claim as it is tested here.
        source: of the paper's words.
        where: objective and size, or the space, that it was measured at.
        measured: the figures, with intervals.
        verdict: holds, does not hold, or undecided.
        paper: what the paper says, in our words.
    """

    says: str
    source: str
    where: str
    measured: str
    verdict: str
    paper: str

    def row(self) -> list[str]:
        """Return the cells of its line."""
        return [self.says, f"{self.paper} ({self.source})", self.where, self.measured, self.verdict]


HEAD = ["claim", "the paper", "measured at", "measured", "verdict"]


def main_scores(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the main score of each task in percent, the mean over its seeds."""
    return {task: 100 * fmean(each["scores"][each["metric"]]) for task, each in result["downstream"].items()}


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table, the head first."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
