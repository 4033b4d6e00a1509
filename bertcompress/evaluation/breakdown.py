"""Where a student departs from its teacher: loyalty by class and by the teacher's confidence, examples, McNemar's test.

It works on units (examples, words or questions) and knows nothing of the kind of task. Units of one example, such as
the words of a sentence, depend on each other; so intervals come from a bootstrap that resamples whole examples, and
the test flips whole examples:

    McNemar (Psychometrika 12, 1947), exact: under the null hypothesis each unit that one model alone has right is as
    likely the student's as the teacher's, so of b + c such units Binomial(b + c, 1/2) are the student's; two-sided,
    without the mid-p correction, so that the p-value is never too small.

    With several units to an example, what is equally likely is the sign of an example's difference d_e = (units that
    the student alone has right) - (units that the teacher alone has right). That is approximate randomization (Noreen
    1989; Yeh 2000, https://aclanthology.org/C00-2137), except that the distribution of sum_e +-|d_e| is computed
    exactly instead of sampled. Where every example has one unit, the two tests are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from bertcompress.errors import ConfigError, allowed
from bertcompress.evaluation.intervals import CONFIDENCE, RESAMPLES, Interval, percentile_interval

Int64: TypeAlias = npt.NDArray[np.int64]
Float64: TypeAlias = npt.NDArray[np.float64]
Bool: TypeAlias = npt.NDArray[np.bool_]

UNITS = {"examples": "accuracy", "words": "token_accuracy", "questions": "exact_match"}  # and the share that is right
CONFIDENCE_EDGES = (0.0, 0.5, 0.7, 0.9, 0.99, 0.999, 1.0)  # the same for all models, so that two students compare
DEPARTURES = 20
PER_EXAMPLE = 2


@dataclass(frozen=True, eq=False, kw_only=True)
class Units:
    """What a student and its teacher were compared on, one after the other: examples, words or questions.

    Attributes:
        name: of the units, one of `UNITS`.
        group: what the groups are, such as "teacher's class" or "first word of the question".
        groups: their names.
        group_of: group of each unit, int64 (n,).
        example: example that each unit belongs to, int64 (n,); words of one sentence share one.
        agrees: whether the student gives the teacher's answer, (n,); or how much of it, in [0, 1].
        confidence: probability that the teacher gives its own answer, (n,); NaN where there is none.
        distance: between the two answers, at least 0, (n,); 0 where they are equal.
        teacher_right: whether the teacher gives the gold answer, (n,), or None where nothing is right or wrong.
        student_right: the same of the student.
        agreement: when an answer counts as the teacher's, as the end of a sentence "share of ... with".
        distance_name: what the distance is.
    """

    name: str
    group: str
    groups: tuple[str, ...]
    group_of: Int64
    example: Int64
    agrees: npt.NDArray[Any]
    confidence: Float64
    distance: Float64
    teacher_right: Bool | None = None
    student_right: Bool | None = None
    agreement: str = "the teacher's answer"
    distance_name: str = "Jensen-Shannon distance"

    def __post_init__(self) -> None:
        """Refuse columns that do not fit together.

        Raises:
            ConfigError: an unknown name, no units, columns of different lengths, or values outside their range.
        """
        if self.name not in UNITS:
            raise ConfigError(f"Units: name is {self.name!r}, allowed are {allowed(UNITS)}.")
        if (self.teacher_right is None) != (self.student_right is None):
            raise ConfigError("Units: teacher_right and student_right must both be given, or neither.")
        names = ("group_of", "example", "agrees", "confidence", "distance", "teacher_right", "student_right")
        shapes = {name: np.shape(getattr(self, name)) for name in names if getattr(self, name) is not None}
        if set(shapes.values()) != {(len(self.group_of),)} or not len(self.group_of):
            raise ConfigError(f"Units: the columns have the shapes {shapes}, allowed is one (n,) for all, not empty.")
        self._check_range("group_of", self.group_of, 0, len(self.groups) - 1)
        self._check_range("agrees", self.agrees, 0, 1)
        self._check_range("distance", self.distance, 0, math.inf)
        self._check_range("confidence", self.confidence[~np.isnan(self.confidence)], 0, 1)

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.group_of)

    def _check_range(self, name: str, values: npt.NDArray[Any], low: float, high: float) -> None:
        wrong = np.flatnonzero(~((values >= low) & (values <= high)))
        if len(wrong):
            raise ConfigError(
                f"Units: {name} holds {values[wrong[0]]} at place {wrong[0]}, allowed is {low} to {high}."
            )


@dataclass(frozen=True)
class McNemar:
    """How often each model alone was right, and how likely a difference so large is if neither is better.

    Attributes:
        student_only: units that only the student has right.
        teacher_only: units that only the teacher has right.
        both: units that both have right.
        neither: units that neither has right.
        p_value: exact and two-sided, in [0, 1].
    """

    student_only: int
    teacher_only: int
    both: int
    neither: int
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "student_only": self.student_only,
            "teacher_only": self.teacher_only,
            "both": self.both,
            "neither": self.neither,
            "p_value": self.p_value,
        }


def mcnemar(
    student_right: npt.ArrayLike, teacher_right: npt.ArrayLike, example: npt.ArrayLike | None = None
) -> McNemar:
    """Test whether student and teacher are right equally often, on the same units.

    Args:
        student_right: whether the student is right, (n,).
        teacher_right: the same of the teacher, (n,).
        example: example that each unit belongs to, (n,); left out, every unit is one of its own. Words of a sentence
            depend on each other: without their sentences the p-value would be too small.

    Raises:
        ConfigError: the columns differ in length.
    """
    student, teacher = np.asarray(student_right, dtype=bool), np.asarray(teacher_right, dtype=bool)
    places = np.arange(student.size) if example is None else np.asarray(example)
    if student.ndim != 1 or not student.shape == teacher.shape == places.shape:
        raise ConfigError(
            f"mcnemar: the columns have the shapes {student.shape}, {teacher.shape} and {places.shape}, allowed is "
            "one (n,) for all."
        )
    _, rows = np.unique(places, return_inverse=True)
    differences = np.bincount(rows, student.astype(np.int64) - teacher.astype(np.int64)).astype(np.int64)
    return McNemar(
        int((student & ~teacher).sum()),
        int((teacher & ~student).sum()),
        int((student & teacher).sum()),
        int((~student & ~teacher).sum()),
        _sign_flip_p_value(differences),
    )


def _sign_flip_p_value(differences: Int64) -> float:
    """Return P(|sum +-|d|| >= |sum d|) over equally likely signs, exactly.

    The sum is 2 Y - T with T the sum of |d| and Y the sum of those with a plus. Y's distribution is the convolution of
    one binomial for each size of |d|, and by symmetry its lower tail is all that is needed.
    """
    sizes, times = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    total, observed = int(sizes @ times), abs(int(differences.sum()))
    if observed == 0:
        return 1.0
    least = (total - observed) // 2
    distribution = np.ones(1)
    for size, count in zip(sizes.tolist(), times.tolist(), strict=True):
        spaced = np.zeros(size * count + 1)
        spaced[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, spaced[: least + 1])[: least + 1]
    return min(1.0, 2 * float(distribution.sum()))


def share_interval(
    agrees: npt.ArrayLike, example: npt.ArrayLike, *, examples: int | None = None, seed: int | tuple[int, ...] = 0
) -> Interval:
    """Return the 95% interval of the mean of `agrees` when whole examples are resampled.

    A bootstrap of units that all agree (or none) draws only such resamples, and its interval has no width, which a
    handful of units does not justify: then the exact binomial interval over the examples (Clopper and Pearson) stands.

    Args:
        agrees: of each unit, in [0, 1], (n,), not empty.
        example: example that each unit belongs to, (n,).
        examples: number of all examples, where some have no unit here; the units' own by default.
        seed: of the resampling.
    """
    kept = np.asarray(agrees, dtype=np.float64)
    own, rows = np.unique(np.asarray(example), return_inverse=True)
    if (kept == 1).all() or (kept == 0).all():
        bound = ((1 - CONFIDENCE) / 2) ** (1 / len(own))
        return (bound, 1.0) if kept[0] else (0.0, 1 - bound)
    if len(own) == 1:
        return 0.0, 1.0  # one example says nothing about others
    # Examples with equal sums are interchangeable, so a resample is a multinomial draw over the distinct ones.
    per_example = np.stack([np.bincount(rows, kept), np.bincount(rows)], axis=1)
    distinct, times = np.unique(per_example, axis=0, return_counts=True)
    every = max(len(own), examples or 0)
    distinct, times = np.vstack([distinct, np.zeros((1, 2))]), np.append(times, every - len(own))
    weights = np.random.default_rng(seed).multinomial(every, times / every, size=RESAMPLES)
    totals = weights @ distinct  # (resamples, 2)
    drawn = totals[:, 1] > 0  # a resample without a unit here has no share
    return percentile_interval(totals[drawn, 0] / totals[drawn, 1])


def loyalty_by_group(units: Units, seed: int = 0) -> list[dict[str, Any]]:
    """Return `name`, `units`, `label` (share of units that agree) and `interval` of each group that has a unit.

    The mean of the shares, weighted by units, is the share of all units; where `agrees` is what the label loyalty
    counts, as in all kinds of task but regression, it is the label loyalty.
    """
    parts = [(name, units.group_of == place) for place, name in enumerate(units.groups)]
    return [
        {"name": name, **_share(units, members, (seed, place))}
        for place, (name, members) in enumerate(parts)
        if members.any()
    ]


def loyalty_by_confidence(units: Units, seed: int = 0) -> list[dict[str, Any]]:
    """Return `from`, `to`, `units`, `label` and `interval` of each stretch of the teacher's confidence with a unit.

    The stretches lie between `CONFIDENCE_EDGES`, the lower edge included, the upper one only in the last. Units
    without a confidence are left out.
    """
    inner = np.digitize(units.confidence, CONFIDENCE_EDGES[1:-1])
    known = ~np.isnan(units.confidence)
    found = []
    for place, (low, high) in enumerate(pairwise(CONFIDENCE_EDGES)):
        members = known & (inner == place)
        if members.any():
            found.append({"from": low, "to": high, **_share(units, members, (seed, place))})
    return found


def _share(units: Units, members: Bool, seed: tuple[int, ...]) -> dict[str, Any]:
    agrees = units.agrees[members].astype(np.float64)
    examples = len(np.unique(units.example))
    interval = share_interval(agrees, units.example[members], examples=examples, seed=seed)
    return {"units": int(members.sum()), "label": float(agrees.mean()), "interval": list(interval)}


def departing(units: Units, limit: int = DEPARTURES, per_example: int = PER_EXAMPLE) -> Int64:
    """Return the units to look at where the student departs from its teacher, (at most `limit`,), the farthest first.

    Every group gets an equal part of the places; what a group with few departures leaves goes to the farthest of the
    others. An example has `per_example` units at most, so that one long sentence does not fill the list. Units at the
    same distance come in their own order.
    """
    order = np.argsort(-units.distance, kind="stable")
    order = order[units.agrees[order] < 1]
    order = order[_ranks(units.example[order]) < per_example]
    groups = units.group_of[order]
    part = math.ceil(limit / max(1, len(np.unique(groups))))
    first = _ranks(groups) < part  # in the order of distance within each group
    chosen = np.concatenate([np.flatnonzero(first)[:limit], np.flatnonzero(~first)])[:limit]
    result: Int64 = order[np.sort(chosen)]
    return result


def _ranks(keys: Int64) -> Int64:
    """Return how many equal keys stand before each one, (n,)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(keys) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, len(keys)))
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[order] = np.arange(len(keys)) - np.repeat(starts, lengths)
    return ranks


def breakdown(
    units: Units, show: Callable[[int], Mapping[str, Any]], seed: int = 0, *, limit: int = DEPARTURES
) -> dict[str, Any]:
    """Return what results.json holds under `breakdown`, in plain JSON types.

    Args:
        units: what the two models were compared on.
        show: for the place of a unit, what a reader should see of it: `text`, `gold` (or None), `teacher` and
            `student` as text, where there is one `text_pair`, and `at`, the two ends of the part of `text` that is
            meant, in characters.
        seed: of the bootstrap.
        limit: departures to list.
    """
    found: dict[str, Any] = {
        "unit": units.name,
        "group": units.group,
        "agreement": units.agreement,
        "distance": units.distance_name,
        "by_group": loyalty_by_group(units, seed),
        "by_confidence": loyalty_by_confidence(units, seed),
        "departures": [_departure(units, place, show) for place in departing(units, limit).tolist()],
    }
    if units.teacher_right is not None and units.student_right is not None:
        tested = mcnemar(units.student_right, units.teacher_right, units.example)
        found["mcnemar"] = {"metric": UNITS[units.name], **tested.to_dict()}
    return found


def _departure(units: Units, place: int, show: Callable[[int], Mapping[str, Any]]) -> dict[str, Any]:
    confidence = float(units.confidence[place])
    return {
        "example": int(units.example[place]),
        **show(place),
        "teacher_probability": None if math.isnan(confidence) else confidence,
        "distance": float(units.distance[place]),
    }
