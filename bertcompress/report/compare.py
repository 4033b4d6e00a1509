"""Sentences and fronts that compare a model with its teacher, worded as the numbers allow and no better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bertcompress.evaluation.titles import is_share, loyalty_title
from bertcompress.report import text
from bertcompress.report.runs import Entry, Run

SAME = 1.05  # ratios below this, in either direction, are called the same where there is no interval
METRIC_NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "mcc": "Matthews correlation",
    "matthews_correlation": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "spearmanr": "Spearman correlation",
    "exact_match": "exact match",
    "entity_f1": "entity F1",
    "entity_f1_strict": "entity F1 (strict)",
    "token_accuracy": "word accuracy",
    "downstream": "mean score after fine-tuning",
}


@dataclass(frozen=True)
class Verdict:
    """What compressing brought: one sentence, and the numbers that stand behind it."""

    headline: str
    detail: str


@dataclass(frozen=True)
class Change:
    """One comparison with the teacher: whether it is good, bad or neither (1, -1, 0), and its wording."""

    direction: int
    wording: str


def metric_name(entry: Entry) -> str:
    """Return the primary metric's name as a sentence would have it."""
    return METRIC_NAMES.get(entry.metric, entry.metric.replace("_", " "))


def describe(entry: Entry, noun: str = "student") -> str:
    """Return a few words for a model: 3-layer int8 student."""
    spec = entry.spec
    if spec is None:
        return f"{noun} {entry.name}"
    return " ".join(part for part in (f"{spec.num_layers}-layer", spec.low_bits, noun) if part)


def size_change(entry: Entry, teacher: Entry) -> Change | None:
    """Compare the files' sizes; None where one of them is not known."""
    ours, theirs = entry.number("file_bytes"), teacher.number("file_bytes")
    if not ours or not theirs or ours < 0 or theirs < 0:
        return None
    ratio = theirs / ours
    if 1 / SAME < ratio < SAME:
        return Change(0, "file of about the same size")
    return (
        Change(1, f"{text.times(ratio)} smaller file")
        if ratio > 1
        else Change(-1, f"{text.times(1 / ratio)} larger file")
    )


def speed_ratio(entry: Entry) -> tuple[float, tuple[float, float] | None] | None:
    """Return the measured speed-up and its interval; None where there is none."""
    ratio = text.number(entry.latency.get("speedup"))
    return None if ratio is None or ratio <= 0 else (ratio, text.interval(entry.latency.get("speedup_interval")))


def speed_change(entry: Entry) -> Change | None:
    """Compare the speed; a difference counts only where the interval excludes 1."""
    measured = speed_ratio(entry)
    if measured is None:
        return None
    ratio, ends = measured
    low, high = ends or (ratio / SAME, ratio * SAME)
    if low <= 1 <= high:
        return Change(0, "no measurable change in speed" if ends else "about the same speed")
    doubt = "" if ends else "about "
    return (
        Change(1, f"{doubt}{text.times(ratio)} faster")
        if ratio > 1
        else Change(-1, f"{doubt}{text.times(1 / ratio)} slower")
    )


def overlap(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two intervals share a point."""
    return first[0] <= second[1] and second[0] <= first[1]


def score_change(entry: Entry, teacher: Entry) -> Change | None:
    """Compare the task scores, with intervals where both have one; None where a score is missing."""
    ours, theirs, name = entry.score, teacher.score, metric_name(entry)
    if ours is None or theirs is None:
        return None
    settled = _settled(entry, teacher)
    points = f"{100 * abs(ours - theirs):.1f} points"
    if ours >= theirs:
        if settled and ours > theirs:
            return Change(1, f"scores {points} higher in {name} than the teacher")
        return Change(0, f"matches the teacher's {name}")
    if theirs > 0 and ours / theirs >= 0.9:
        # A loss that is no chance must not sound like praise.
        keeps = "keeps only" if settled else "keeps"
        return Change(-1 if settled else 0, f"{keeps} {text.percent(ours / theirs)} of the teacher's {name}")
    return Change(-1, f"loses {points} of {name}")


def _settled(entry: Entry, teacher: Entry) -> bool | None:
    # Whether the scores differ by more than chance: told by the paired interval, else by two intervals apart.
    paired, ours, theirs = entry.score_difference, entry.score_interval, teacher.score_interval
    if paired:
        return not paired[0] <= 0 <= paired[1]
    return None if ours is None or theirs is None else not overlap(ours, theirs)


def verdict(run: Run) -> Verdict:
    """Say in a sentence what the run's last model gained and lost against its teacher, the first model."""
    if not run.entries:
        return Verdict("Nothing to compare yet.", "The run has no finished model.")
    teacher, student = run.entries[0], run.entries[-1]
    if student is teacher:
        return Verdict(
            f"A {describe(teacher, 'model')}; nothing was compressed in this run.", _sentence(_score_words(teacher))
        )
    changes = [size_change(student, teacher), speed_change(student), score_change(student, teacher)]
    told = [change for change in changes if change is not None]
    label = student.loyalty("label")
    agrees = [] if label is None else [agreement(student.kind, label)]
    if not told:
        return Verdict(
            f"{describe(student).capitalize()}: nothing was measured to compare it by.", _details(student, teacher)
        )
    return Verdict(f"{describe(student)}: {_weigh(told, agrees)}.", _details(student, teacher))


def _weigh(changes: Sequence[Change], agrees: Sequence[str]) -> str:
    # Good news first, bad news after a "but": neither may hide in the middle of a list.
    good = [change.wording for change in changes if change.direction >= 0]
    bad = [change.wording for change in changes if change.direction < 0]
    if good and bad:
        return f"{', '.join([*good, *agrees])}, but {text.listed(bad)}"
    return ", ".join([*good, *agrees]) if good else ", ".join([text.listed(bad), *agrees])


def _details(student: Entry, teacher: Entry) -> str:
    parts = [_score_detail(student, teacher), _speed_detail(student, teacher)]
    ours, theirs = student.number("file_bytes"), teacher.number("file_bytes")
    if ours is not None and theirs is not None:
        unit = f"{text.THIN_SPACE}MiB"
        parts.append(f"The file has {text.mebibytes(ours)}{unit}, the teacher's {text.mebibytes(theirs)}{unit}.")
    else:
        parts.append("The size of the files is not recorded, so no size is compared.")
    return " ".join(parts)


def _score_words(entry: Entry) -> str:
    if entry.score is None:
        return f"{metric_name(entry)} was not measured"
    ends = entry.score_interval
    spread = f" [{text.score(ends[0])}, {text.score(ends[1])}]" if ends else " (no interval recorded)"
    return f"{metric_name(entry)} {text.score(entry.score)}{spread}"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _score_detail(student: Entry, teacher: Entry) -> str:
    if student.score is None or teacher.score is None:
        whose = "the student" if student.score is None else "the teacher"
        return f"{_sentence(metric_name(student))[:-1]} of {whose} was not measured, so no score is compared."
    where = "" if student.examples is None else f" on {text.counted(student.examples, 'example')}"
    reference = _score_words(teacher).removeprefix(metric_name(teacher)).strip()
    base = f"{_score_words(student)} against the teacher's {reference}{where}"
    settled, paired = _settled(student, teacher), student.score_difference
    if settled is None:
        return _sentence(f"{base}; without two intervals, chance cannot be told from change")
    percent = f"95{text.THIN_SPACE}%"
    if paired:
        low, high = (text.points(each) for each in paired)
        evidence = f"the {percent} interval of the difference, {low} to {high} points,"
        evidence += " excludes 0" if settled else " includes 0"
    else:
        evidence = f"the {percent} intervals {'do not ' if settled else ''}overlap"
    meaning = "the difference is real on data like this" if settled else "the difference may be chance"
    return _sentence(f"{base}: {evidence}, so {meaning}")


def _speed_detail(student: Entry, teacher: Entry) -> str:
    ours, theirs = text.number(student.latency.get("p50_ms")), text.number(teacher.latency.get("p50_ms"))
    if ours is None:
        return "Latency was not measured, so no speed is compared."
    unit = f"{text.THIN_SPACE}ms"
    against = "" if theirs is None else f" against {text.milliseconds(theirs)}{unit}"
    measured = speed_ratio(student)
    if measured is None:
        return f"Median latency {text.milliseconds(ours)}{unit}{against}; no speed-up was measured side by side."
    ratio, ends = measured
    spread = (
        f"95{text.THIN_SPACE}% interval {text.times(ends[0])} to {text.times(ends[1])}"
        if ends
        else "no interval recorded"
    )
    return f"Median latency {text.milliseconds(ours)}{unit}{against}: a speed-up of {text.times(ratio)} ({spread})."


def pareto(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Return the places of the points that no other beats: cost (x) is to be low, gain (y) is to be high."""
    return tuple(
        place
        for place, (cost, gain) in enumerate(points)
        if not any(
            other != place and c <= cost and g >= gain and (c < cost or g > gain) for other, (c, g) in enumerate(points)
        )
    )


def loyalty_name(kind: str, name: str) -> str:
    """Return what a loyalty is called, as a heading has it."""
    title = loyalty_title(kind, name).removesuffix(" (base e)")
    return title[:1].upper() + title[1:]


def loyalty_value(kind: str, name: str, value: float) -> str:
    """Return a loyalty as text: a share in per cent, a correlation as a number."""
    return text.percent(value) if is_share(kind, name) else text.score(value)


def loyalty_ends(kind: str, name: str, ends: tuple[float, float]) -> str:
    """Return the interval of a loyalty as text, without a unit."""
    low, high = (f"{100 * end:.1f}" if is_share(kind, name) else text.score(end) for end in ends)
    return f"{low} to {high}".replace("-", text.MINUS)


def agreement(kind: str, label: float) -> str:
    """Return the clause of a headline that tells the label loyalty of a student on that kind of task."""
    value = loyalty_value(kind, "label", label)
    if kind == "regression":
        return f"predicts with a concordance of {value} to the teacher"
    if kind == "embedding":
        return f"shares {value} of the teacher's nearest neighbours"
    units = {"tagging": "words", "question_answering": "questions"}.get(kind, "examples")
    return f"agrees with the teacher on {value} of {units}"


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share that was counted on `count` examples."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def loyalty_interval(entry: Entry) -> tuple[float, float] | None:
    """Return the interval of label loyalty: recorded, or Wilson's where examples are what was counted."""
    recorded = entry.loyalty_interval("label")
    share, count = entry.loyalty("label"), entry.examples
    if recorded or share is None or not count or entry.kind != "classification" or not 0 <= share <= 1:
        return recorded
    return wilson(share, count)


def same_conditions(runs: Sequence[Run]) -> bool:
    """Whether the runs' times can be compared: same machine, runtime, batch, length and threads."""
    names = ("runtime", "batch", "length", "threads")
    keys = {
        (run.cpu, *(text.plain(entry.latency.get(name)) for name in names))
        for run in runs
        for entry in run.entries
        if entry.latency
    }
    return len(keys) <= 1


def same_task(runs: Sequence[Run]) -> bool:
    """Whether the runs' scores can be compared: same task, split, metric and number of examples."""
    keys = {
        (
            *(str(run.task.get(name)) for name in ("name", "split", "metric")),
            entry.examples,
            tuple(sorted(entry.downstream)) if entry.metric == "downstream" else (),
        )
        for run in runs
        for entry in run.entries[-1:]
    }
    return len(keys) <= 1
