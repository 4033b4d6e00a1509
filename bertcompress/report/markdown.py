"""The report as Markdown: the same numbers, sentences and reasons as the page, without the pictures."""

from __future__ import annotations

from collections.abc import Sequence

from bertcompress.report import breakdown, compare, describe, downstream, mappings, notes, tables, text
from bertcompress.report.breakdown import Breakdown, Departure
from bertcompress.report.departures import TITLE
from bertcompress.report.page import comparison, task_words, warnings
from bertcompress.report.runs import Entry, Run
from bertcompress.report.sections import HIDDEN_FACTS, Footnotes, flattened
from bertcompress.report.text import code
from bertcompress.report.text import markdown as escape


def render_markdown(runs: Sequence[Run]) -> str:
    """Return the Markdown that reports one run, or compares several; equal runs give equal text."""
    parts = [*_headline(runs), *_chains(runs), *_models(runs), *_downstream(runs), *_mappings(runs)]
    parts += [*_departures(runs), *_costs(runs), *_settings(runs), *_definitions(runs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(runs: Sequence[Run]) -> list[str]:
    alerts = [f"> **Note:** {escape(each)}" for each in warnings(runs)]
    if len(runs) == 1:
        told = compare.verdict(runs[0])
        return [
            f"# {escape(told.headline)}",
            f"Run **{escape(runs[0].name)}** on {escape(task_words(runs[0]))}. {escape(told.detail)}",
            *alerts,
        ]
    items = []
    for run in runs:
        told = compare.verdict(run)
        items.append(
            f"- **{escape(run.name)}** on {escape(task_words(run))}: {escape(told.headline)} {escape(told.detail)}"
        )
    return [f"# {escape(comparison(runs))}", *alerts, "\n".join(items)]


def _chains(runs: Sequence[Run]) -> list[str]:
    lines = []
    for run in runs:
        for place, entry in enumerate(run.entries):
            name = f"{run.name} / {entry.name}" if len(runs) > 1 else entry.name
            lines.append(
                f"- **{escape(name)}**: {escape(chain_words(entry, run.entries[place - 1] if place else None))}"
            )
        lines += [f"- **{escape(name)}**: planned, not finished" for name in run.unfinished]
    return ["## The pipeline", "\n".join(lines) or "No model is finished yet."]


def _downstream(runs: Sequence[Run]) -> list[str]:
    entries = downstream.found_in([entry for run in runs for entry in run.entries])
    if not entries:
        return []
    columns = downstream.heads(entries)
    rows = [
        [escape(entry.name), *(f"{mean} ({spread})" if spread else mean for mean, spread in found)]
        for entry, found in ((entry, downstream.cells(entry, columns)) for entry in entries)
    ]
    parts = [grid(["Model", *(escape(f"{title}, {unit}") for title, unit in columns)], rows)]
    parts += [escape(each) for each in downstream.notes(entries)]
    tried = [[escape(each) for each in row] for row in downstream.chosen_rows(entries)]
    parts += [grid(downstream.TRIED_HEADS, tried)] if tried else []
    return [f"## {downstream.TITLE}", downstream.ABOUT, *parts]


def _mappings(runs: Sequence[Run]) -> list[str]:
    parts = []
    for run in runs:
        for entry in run.entries:
            found = mappings.search_of(entry)
            if found:
                heads = ("mapping", "teacher layer of each student layer", "fitness", "with fresh seeds")
                rows = [[escape(each) for each in row] for row in mappings.rows_of(found)]
                parts += [f"**{escape(entry.name)}**: {escape(mappings.counted(found))}.", grid(heads, rows)]
    return ["## Which layer teaches which", mappings.ABOUT, *parts] if parts else []


def chain_words(entry: Entry, previous: Entry | None) -> str:
    """Return a model's chain, what is quantized in it and where its layers came from, as one phrase."""
    if entry.spec is None:
        return "the architecture is not recorded"
    words = [
        " \u2192 ".join(describe.chain(entry.spec)),
        describe.quantized(entry.spec),
        describe.origin_words(entry, previous),
    ]
    return "; ".join(each for each in words if each)


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: the first column left-aligned, the others right-aligned; cells are markup already."""
    lines = [heads, [":--", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(each: tables.Cell, footnotes: Footnotes) -> str:
    """Return a table cell with its second line in brackets, or a dash with the letter of its reason."""
    if each.absent:
        return f"{each.text} ({footnotes.mark(each.absent)})"
    return escape(each.text) + (f" ({escape(each.detail)})" if each.detail else "")


def notes_below(footnotes: Footnotes) -> str:
    """Return the list of reasons that stands below a table."""
    return "\n".join(f"- ({letter}) {escape(reason)}" for letter, reason in footnotes.listed())


def heading(column: tables.Column) -> str:
    """Return a column's title with its unit."""
    return escape(column.title) + (f", {escape(column.unit)}" if column.unit else "")


def table_of_models(runs: Sequence[Run]) -> list[str]:
    """Return the table of all models and the notes below it."""
    entries = [entry for run in runs for entry in run.entries]
    columns, footnotes, rows = tables.columns(entries), Footnotes(), []
    for run in runs:
        for entry in run.entries:
            name = f"{run.name} / {tables.step_title(entry)}" if len(runs) > 1 else tables.step_title(entry)
            rows.append([escape(name), *(cell(column.cell(entry, run.entries[0]), footnotes) for column in columns)])
    about = escape(tables.about_models(entries))
    return [grid(["Model", *map(heading, columns)], rows), notes_below(footnotes), about]


def _models(runs: Sequence[Run]) -> list[str]:
    return [
        "## The models",
        *(table_of_models(runs) if any(run.entries for run in runs) else ["No model is finished yet."]),
    ]


def _departures(runs: Sequence[Run]) -> list[str]:
    parts = []
    for run in runs:
        for entry in run.entries:
            found = breakdown.read(entry)
            if found is not None:
                name = f"{run.name} / {entry.name}" if len(runs) > 1 else entry.name
                told = [escape(found.tested), *_shares(found), _examples(found)]
                parts += [f"### {escape(name)}", *told]
    return [f"## {TITLE}", *parts] if parts else []


def _shares(found: Breakdown) -> list[str]:
    parts = []
    for by, shares in ((found.group, found.groups), ("teacher's confidence", found.bins)):
        rows = [
            [
                _foreign(each.name),
                f"{each.units:,}",
                text.percent(each.share)
                + (f" ({100 * each.ends[0]:.1f} to {100 * each.ends[1]:.1f})" if each.ends else ""),
            ]
            for each in shares
        ]
        heads = [by[:1].upper() + by[1:], found.unit.capitalize(), f"{found.title}, 95{notes.PER_CENT} interval"]
        parts.append(grid([escape(head) for head in heads], rows) if rows else "")
    return [*parts, escape(found.left_out)]


EXCERPT, ANSWER = 200, 60  # characters of a text and of an answer


def _examples(found: Breakdown) -> str:
    if not found.departures:
        return "The student departs from its teacher nowhere: there is no example to show."
    heads = ["Text", "Gold", "Teacher", "Student", f"Distance ({escape(found.distance)})"]
    return grid(heads, [_example(found, each) for each in found.departures])


def _example(found: Breakdown, each: Departure) -> list[str]:
    before, inside, after = breakdown.window(each.content, each.at, EXCERPT)
    content = " ".join(filter(None, (_foreign(before), f"**{_foreign(inside)}**" if inside else "", _foreign(after))))
    if each.pair:
        content += f" / {_foreign(''.join(breakdown.window(each.pair, None, EXCERPT)))}"
    answers = [
        _foreign("".join(breakdown.window(breakdown.answer(value, found.unit), None, ANSWER)))
        for value in (each.gold, each.teacher, each.student)
    ]
    if each.probability is not None:
        answers[1] += f" ({text.percent(each.probability)} sure)"
    distance = text.DASH if each.distance is None else text.significant(each.distance, 2)
    return [content, *answers, distance]


def _foreign(content: str) -> str:
    # Between isolating characters, a text from right to left turns nothing around it.
    shown = escape(text.foreign(content))
    return f"\u2068{shown}\u2069" if shown and not shown.isascii() else shown


def table_of_costs(run: Run) -> list[str]:
    """Return a run's costs per step, the notes below them and the estimates' assumptions."""
    footnotes = Footnotes()
    rows = [
        [
            escape(tables.step_title(entry)),
            *(cell(column.cell(entry, run.entries[0]), footnotes) for column in tables.COSTS),
        ]
        for entry in run.entries
    ]
    rows.append(["**All steps**", *(cell(each, footnotes) for each in tables.totals(run))])
    known = tables.assumptions(run)
    assumed = "; ".join(f"{escape(name)} {escape(value)}" for name, value in known)
    told = f"The estimates assume: {assumed}." if known else "The run recorded no assumptions for its estimates."
    return [grid(["Step", *map(heading, tables.COSTS)], rows), notes_below(footnotes), told]


def _costs(runs: Sequence[Run]) -> list[str]:
    parts = ["## What it cost to make"]
    for run in runs:
        if run.entries:
            parts += [f"### {escape(run.name)}" if len(runs) > 1 else "", *table_of_costs(run)]
    return parts if len(parts) > 1 else [*parts, "No step is finished yet."]


def fenced(content: str, language: str = "") -> str:
    """Return a fenced block whose fence is longer than any run of backticks inside."""
    content, fence = text.clean(content).rstrip(), "```"
    while fence in content:
        fence += "`"
    return f"{fence}{language}\n{content}\n{fence}"


def _settings(runs: Sequence[Run]) -> list[str]:
    parts = ["## How to make it again"]
    for run in runs:
        parts += [f"### {escape(run.name)}" if len(runs) > 1 else "", fenced(run.command, "sh")]
        parts.append(
            ""
            if run.environment.get("command")
            else "The run did not record its command; this one is put together from its name."
        )
        facts = flattened({name: value for name, value in run.environment.items() if name not in HIDDEN_FACTS})
        parts.append(
            "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in facts) or "No environment is recorded."
        )
        parts.append(
            "\n".join(f"- {escape(tables.step_title(entry))}: {settings_words(entry)}" for entry in run.entries)
        )
        parts.append(fenced(run.config, "yaml") if run.config.strip() else "No config.yaml is in the run's folder.")
    return parts


def settings_words(entry: Entry) -> str:
    """Return a step's settings as one code span."""
    known = " ".join(f"{name}={value}" for name, value in flattened(dict(entry.settings)))
    return code(known) if known else "no settings recorded"


def _definitions(runs: Sequence[Run]) -> list[str]:
    told = notes.definitions([entry for run in runs for entry in run.entries])
    lines = [f"- **{escape(name)}**: {escape(words)}" for name, words in told]
    links = [f"[{escape(name)}]({address})" for name, address in notes.REFERENCES]
    return ["## What the figures mean", "\n".join(lines), "; ".join(links) + "."]
