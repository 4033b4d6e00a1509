"""The section on where students depart from their teachers: shares kept as bars, examples as a table."""

from __future__ import annotations

from collections.abc import Sequence

from bertcompress.report import breakdown, charts, text
from bertcompress.report.breakdown import Breakdown, Departure
from bertcompress.report.charts import Numbered
from bertcompress.report.sections import badge, missing, section
from bertcompress.report.text import escape

TITLE = "Where the student departs from its teacher"
EXCERPT, WHOLE, ANSWER = 180, 1200, 60  # characters of a text at first, opened, and of an answer
ROWS = 6  # of the table before the rest is folded away


def of_models(models: Sequence[Numbered]) -> str:
    """Return the section of all models that have a breakdown; empty where none has."""
    several = len({model.entry.run for model in models}) > 1
    parts, explained = [], ""
    for model in models:
        found = breakdown.read(model.entry)
        if found is None:
            continue
        name = f"{model.entry.run} / {model.entry.name}" if several else model.entry.name
        parts += [f"<h3>{badge(model)}{escape(name)}</h3>", *_model(found, model, explained != found.about)]
        explained = found.about
    about = "Loyalty in parts: which answers of the teacher the student keeps, and some that it does not."
    return section("departures", TITLE, about, *parts) if parts else ""


def _model(found: Breakdown, model: Numbered, explain: bool) -> list[str]:
    drawn = [
        charts.shares(f"{found.title} by {by}", bars, found.unit, model)
        for by, bars in ((found.group, found.groups), ("teacher's confidence", found.bins))
        if bars
    ]
    figures = "".join(f"<figure>{each}</figure>" for each in drawn)
    parts = [f"<p>{escape(found.tested)}</p>"] if found.tested else []
    if drawn:
        about = f'<p class="about">{escape(found.about)}</p>' if explain else ""
        parts.append(f'{about}<div class="charts">{figures}</div>')
    parts += [missing(found.left_out)] if found.left_out else []
    return [*parts, *_tables(found)]


def _tables(found: Breakdown) -> list[str]:
    rows = found.departures
    if not rows:
        return [missing("The student departs from its teacher nowhere: there is no example to show.")]
    parts = [_table(found, rows[:ROWS])]
    if rest := rows[ROWS:]:
        parts.append(
            f'<details class="rest"><summary>{text.counted(len(rest), "more departure")}</summary>'
            f"{_table(found, rest)}</details>"
        )
    return parts


def _table(found: Breakdown, rows: Sequence[Departure]) -> str:
    heads: tuple[str, ...] = ("Text", "Gold", "Teacher", "Student", "Distance")
    if all(each.gold is None for each in found.departures):
        heads = tuple(head for head in heads if head != "Gold")
    lines = "".join(_row(found, each, heads) for each in rows)
    answers = (value for each in found.departures for value in (each.gold, each.teacher, each.student))
    wide = " wide" if any(len(value or "") > ANSWER / 2 for value in answers) else ""
    named = "".join(
        f'<th scope="col" class="{head.lower()}"'
        + (f' title="{escape(found.distance)}"' if head == "Distance" else "")
        + f">{head}</th>"
        for head in heads
    )
    return f'<table class="examples{wide}"><thead><tr>{named}</tr></thead><tbody>{lines}</tbody></table>'


def _row(found: Breakdown, each: Departure, heads: Sequence[str]) -> str:
    sure = "" if each.probability is None else f'<span class="sub">{text.percent(each.probability)} sure</span>'
    pair = f'<div class="pair">{_foreign(each.pair, None, EXCERPT)}</div>' if each.pair else ""
    cells = {
        "Text": _foreign(each.content, each.at, EXCERPT) + pair,
        "Gold": _answer(each.gold, found.unit),
        "Teacher": _answer(each.teacher, found.unit) + sure,
        "Student": _answer(each.student, found.unit),
        "Distance": text.DASH if each.distance is None else text.significant(each.distance, 2),
    }
    return "<tr>" + "".join(f'<td data-label="{head}">{cells[head]}</td>' for head in heads) + "</tr>"


def _answer(value: str | None, unit: str) -> str:
    shown = breakdown.answer(value, unit)
    return _foreign(shown, None, ANSWER) if shown == value else f'<span class="absent">{escape(shown)}</span>'


def _foreign(content: str, at: tuple[int, int] | None, most: int) -> str:
    """Return text of a data set in its own direction, a long one as an excerpt that opens."""
    if len(content) <= 1.25 * most:
        return f'<div class="foreign" dir="auto">{_marked(breakdown.window(content, at, len(content)))}</div>'
    excerpt, whole = (_marked(breakdown.window(content, at, size)) for size in (most, WHOLE))
    cut = len(content) - WHOLE
    note = f'<span class="sub">{text.counted(cut, "character")} of it left out here</span>' if cut > 0 else ""
    return (
        f'<details class="foreign"><summary><span class="excerpt" dir="auto">{excerpt}</span> </summary>'
        f'<div dir="auto">{whole}</div>{note}</details>'
    )


def _marked(parts: breakdown.Window) -> str:
    before, inside, after = map(escape, parts)
    return before + (f"<mark>{inside}</mark>" if inside else "") + after
