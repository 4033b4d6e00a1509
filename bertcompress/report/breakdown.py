"""What results.json records of where a student departs from its teacher, read for the page and the Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bertcompress.evaluation.titles import is_share
from bertcompress.report import compare, text
from bertcompress.report.runs import Entry

MOST_GROUPS = 20
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Share:
    """A bar: a group or a stretch of confidence, its units, the share of them that is kept, and its interval."""

    name: str
    units: int
    share: float
    ends: tuple[float, float] | None


@dataclass(frozen=True)
class Departure:
    """A unit on which the student does not give the teacher's answer; texts are as the data has them."""

    content: str
    at: tuple[int, int] | None
    pair: str
    gold: str | None
    teacher: str
    student: str
    probability: float | None
    distance: float | None


@dataclass(frozen=True)
class Breakdown:
    """Everything that is shown of one student."""

    unit: str
    title: str
    group: str
    groups: tuple[Share, ...]
    left_out: str
    bins: tuple[Share, ...]
    tested: str
    departures: tuple[Departure, ...]
    distance: str
    about: str


def read(entry: Entry) -> Breakdown | None:
    """Return a student's breakdown; None where nothing of it was recorded or can be read."""
    values = entry.breakdown
    groups = _groups(entry)
    bins = _shares(values.get("by_confidence"), _stretch)
    departures = tuple(
        found for each in text.sequence(values.get("departures")) if (found := _departure(text.mapping(each)))
    )
    unit = text.foreign(values.get("unit") or "examples")
    tested = _mcnemar(text.mapping(values.get("mcnemar")), unit)
    if not (groups or bins or departures or tested):
        return None
    shown = sorted(sorted(groups, key=lambda each: -each.units)[:MOST_GROUPS], key=groups.index)
    title = compare.loyalty_name(entry.kind, "label") if is_share(entry.kind, "label") else "Agreement"
    return Breakdown(
        unit,
        title,
        text.foreign(values.get("group") or "group"),
        tuple(shown),
        _left_out(groups, shown, unit),
        tuple(bins),
        tested,
        departures,
        text.foreign(values.get("distance") or "distance"),
        _about(values, unit),
    )


def together(entry: Entry, shown: Sequence[Share]) -> float:
    """Return the share of all units that is kept: a mean over all groups, of which bars may show the largest only.

    Args:
        entry: the student.
        shown: bars with at least one unit, which are taken where no groups were recorded.
    """
    every = _groups(entry) or shown
    return sum(each.units * each.share for each in every) / sum(each.units for each in every)


def _groups(entry: Entry) -> list[Share]:
    return _shares(entry.breakdown.get("by_group"), lambda each: text.foreign(each.get("name")))


def _about(values: Mapping[str, object], unit: str) -> str:
    kept = f"Bars: share of {unit} with {text.foreign(values.get('agreement') or 'the same answer')}"
    distance = text.foreign(values.get("distance") or "distance of the two answers")
    return (
        f"{kept}; whiskers: 95{text.THIN_SPACE}% intervals; dotted: all {unit} together. Examples are listed by "
        f"{distance}."
    )


def _left_out(groups: Sequence[Share], shown: Sequence[Share], unit: str) -> str:
    rest = [each for each in groups if each not in shown]
    if not rest:
        return ""
    total = sum(each.units for each in rest)
    kept = text.percent(sum(each.units * each.share for each in rest) / total)
    return f"Not shown: {text.counted(len(rest), 'smaller group')} of {total:,} {unit} in all, {kept} kept."


def _shares(values: object, name: Callable[[Mapping[str, object]], str]) -> list[Share]:
    found = []
    for each in map(text.mapping, text.sequence(values)):
        units, share = text.number(each.get("units")), text.number(each.get("label"))
        if units is None or units < 1 or share is None or not 0 <= share <= 1:
            continue
        found.append(Share(name(each), int(units), share, text.interval(each.get("interval"))))
    return found


def _stretch(each: Mapping[str, object]) -> str:
    low, high = (text.number(each.get(end)) for end in ("from", "to"))
    if low is None or high is None:
        return "not recorded"
    unit = f"{text.THIN_SPACE}%"
    if low <= 0:
        return f"under {100 * high:.6g}{unit}"
    return f"over {100 * low:.6g}{unit}" if high >= 1 else f"{100 * low:.6g} to {100 * high:.6g}{unit}"


def _departure(each: Mapping[str, object]) -> Departure | None:
    content, gold, at = str(each.get("text") or ""), each.get("gold"), text.interval(each.get("at"))
    if not each:
        return None
    inside = at is not None and 0 <= at[0] < at[1] <= len(content)
    return Departure(
        content,
        (int(at[0]), int(at[1])) if at is not None and inside else None,
        str(each.get("text_pair") or ""),
        None if gold is None else str(gold),
        str(each.get("teacher") or ""),
        str(each.get("student") or ""),
        text.number(each.get("teacher_probability")),
        text.number(each.get("distance")),
    )


def _mcnemar(values: Mapping[str, object], unit: str) -> str:
    """Return the test in plain words; empty where it was not made."""
    counts = [text.number(values.get(name)) for name in ("both", "neither", "student_only", "teacher_only")]
    p_value = text.number(values.get("p_value"))
    known = [int(count) for count in counts if count is not None and count >= 0]
    if len(known) < 4 or p_value is None or not 0 <= p_value <= 1:
        return ""
    both, neither, student, teacher = known
    over = " over whole sentences" if unit == "words" else ""
    return (
        f"Of {sum(known):,} {unit}, both models have {both:,} right and {neither:,} wrong; the student alone is right "
        f"on {student:,}, the teacher alone on {teacher:,}; {_p_words(p_value)} (McNemar's exact test{over}): "
        f"{_meaning(p_value, student, teacher)}."
    )


def _meaning(p_value: float, student: int, teacher: int) -> str:
    if p_value >= SIGNIFICANT:
        return "no difference shown"
    better = "student" if student > teacher else "teacher"
    return f"the {better} is right more often, and hardly by chance"


def _p_words(p_value: float) -> str:
    # As many digits as keep the rounded number on its side of the level that it is judged by.
    if p_value < 0.001:
        return "p < 0.001"
    shown = next(
        number
        for digits in (2, 3, 4, 17)
        if (float(number := text.significant(p_value, digits)) < SIGNIFICANT) == (p_value < SIGNIFICANT)
    )
    return f"p = {'1' if p_value == 1 else shown}"


Window = tuple[str, str, str]


def window(content: str, at: tuple[int, int] | None, most: int) -> Window:
    """Return what stands before, in and after the part `at` of a text, `most` characters of it with ellipses.

    A text without such a part is kept from its beginning, up to the end of a word; the middle is empty then.
    """
    if len(content) <= most:
        start, end = at or (len(content), len(content))
        return text.foreign(content[:start]), text.foreign(content[start:end]), text.foreign(content[end:])
    if at is None:
        cut = content.rfind(" ", most // 2, most)
        return text.foreign(content[: cut if cut > 0 else most]) + "\u2026", "", ""
    start, end = at[0], min(at[1], at[0] + most)
    first = max(0, start - (most - (end - start)) // 2)
    last = min(len(content), first + most)
    before = ("\u2026" if first else "") + text.foreign(content[first:start])
    return before, text.foreign(content[start:end]), text.foreign(content[end:last]) + "\u2026" * (last < len(content))


def answer(value: str | None, unit: str) -> str:
    """Return an answer as it is shown; what is empty is named."""
    if value is None:
        return "not known"
    return value if value.strip() else "(no answer)" if unit == "questions" else "(empty)"
