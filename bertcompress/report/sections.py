"""The sections of the HTML page, each a heading, a sentence on how to read it, and what there is to show."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from bertcompress.report import chain, charts, compare, describe, notes, tables, text
from bertcompress.report.charts import Numbered
from bertcompress.report.runs import Entry, Run
from bertcompress.report.text import escape


def section(key: str, title: str, about: str, *parts: str) -> str:
    """Return a section of the page; `about` and the parts are markup already."""
    about = f'<p class="about">{about}</p>' if about else ""
    return (
        f'<section id="{key}" class="{key}">\n<h2>{escape(title)}</h2>\n{about}\n' + "\n".join(parts) + "\n</section>"
    )


def missing(reason: str) -> str:
    """Return the paragraph that stands where something is absent."""
    return f'<p class="missing">{escape(reason)}</p>'


class Footnotes:
    """Collects the reasons for absent cells and gives each its letter."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def mark(self, reason: str) -> str:
        """Return the letter of a reason: a, b, ... z, aa."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.letter(self.reasons.index(reason))

    @staticmethod
    def letter(place: int) -> str:
        """Return the letter of the reason at that place."""
        return ("" if place < 26 else chr(96 + place // 26)) + chr(97 + place % 26)

    def listed(self) -> list[tuple[str, str]]:
        """Return letters and reasons in order."""
        return [(self.letter(place), reason) for place, reason in enumerate(self.reasons)]

    def html(self) -> str:
        """Return the list that stands below a table."""
        items = "".join(f"<li><sup>{letter}</sup> {escape(reason)}</li>" for letter, reason in self.listed())
        return f'<ul class="footnotes">{items}</ul>' if items else ""


def _cell(cell: tables.Cell, footnotes: Footnotes, class_: str = "") -> str:
    named = f' class="{class_}"' if class_ else ""
    if cell.absent:
        mark = f"<sup>{footnotes.mark(cell.absent)}</sup>"
        return f'<td{named}><span class="absent" title="{escape(cell.absent)}">{escape(cell.text)}{mark}</span></td>'
    shown = escape(cell.text)
    if cell.value is not None:
        shown = f'<data value="{_exact(cell.value)}">{shown}</data>'
    detail = f'<span class="sub">{escape(cell.detail)}</span>' if cell.detail else ""
    return f"<td{named}>{shown}{detail}</td>"


def _exact(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


def chains(runs: Sequence[Run]) -> str:
    """Draw every run's pipeline, all on one scale."""
    specs = [entry.spec for run in runs for entry in run.entries if entry.spec is not None]
    about = (
        "Each column is a model; read it downwards, from the embeddings through the layers to the head. "
        "A block's width is the hidden size, its area the number of its weights, on one scale for the whole page. "
        "Heads and width links are not to scale."
    )
    if not specs:
        return section(
            "chains", "The pipeline", "", missing("No architecture is recorded, so there is no chain to draw.")
        )
    scale = chain.scale_of(specs)
    parts = []
    for run in runs:
        title = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
        wide, narrow = chain.pictures(run, scale)
        parts.append(
            f'{title}<figure><div class="wide">{"".join(wide)}</div>'
            f'<div class="narrow">{"".join(narrow)}</div></figure>'
        )
        unknown = [entry.name for entry in run.entries if entry.spec is None]
        if unknown:
            parts.append(missing(f"Not drawn, because the architecture is not recorded: {text.listed(unknown)}."))
        parts += (
            [missing(f"Planned but not finished, so not drawn: {text.listed(list(run.unfinished))}.")]
            if run.unfinished
            else []
        )
    linked = any(
        describe.origins(entry, before)
        for run in runs
        for before, entry in zip(run.entries, run.entries[1:], strict=False)
    )
    return section(
        "chains", "The pipeline", about, *parts, _legend([entry for run in runs for entry in run.entries], linked)
    )


def _legend(entries: Sequence[Entry], linked: bool) -> str:
    specs = [entry.spec for entry in entries if entry.spec is not None]
    used = {type(operation).__name__ for spec in specs for layer in spec.layers for operation in layer.operations}
    items = [("op embeddings", "embeddings")]
    items += [(f"op {chain.CLASSES[name]}", label) for name, label in _LABELS if name in used]
    if any(spec.widths[place] != width for spec in specs for place, width in enumerate(spec.widths[1:])):
        items.append(("link", "linear map between widths"))
    if linked:
        items.append(("band", "where a layer's weights came from"))
    swatches = "".join(f"<li>{_swatch(class_)}{escape(label)}</li>" for class_, label in items)
    if any(describe.quantized(spec) for spec in specs):
        hatched = _swatch("op attention", hatched=True)
        swatches += f"<li>{hatched}hatched: stored in few bits; int8 is one byte a weight instead of four</li>"
    return f'<ul class="legend">{swatches}</ul>'


_LABELS = (
    ("Attention", "attention"),
    ("FeedForward", "feed-forward"),
    ("SeparableConvolution", "separable convolution"),
)


def _swatch(class_: str, hatched: bool = False) -> str:
    hatch = '<rect width="18" height="13" fill="url(#int8)"/>' if hatched else ""
    block = f'<rect class="{class_}" width="18" height="13"/>'
    return f'<svg class="swatch" viewBox="0 0 18 13" aria-hidden="true">{block}{hatch}</svg>'


def models(numbered: Sequence[Numbered], runs: Sequence[Run]) -> str:
    """Return the table of all models with everything that was measured."""
    if not numbered:
        return section("models", "The models", "", missing("No model is finished yet."))
    entries = [model.entry for model in numbered]
    columns, footnotes = tables.columns(entries), Footnotes()
    rows = []
    for run, group in groupby(numbered, key=lambda model: model.entry.run if len(runs) > 1 else ""):
        members = list(group)
        if len(runs) > 1:
            rows.append(f'<tr class="group"><th colspan="{len(columns) + 1}" scope="rowgroup">{escape(run)}</th></tr>')
        teacher = members[0].entry
        for model in members:
            teacher = model.entry if model.teacher else teacher
            cells = "".join(_cell(column.cell(model.entry, teacher), footnotes) for column in columns)
            rows.append(f"<tr>{_row_heading(model)}{cells}</tr>")
    heads = "".join(f'<th scope="col">{_heading(column)}</th>' for column in columns)
    table = f'<table><thead><tr><th scope="col">Model</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    box = f'<div class="scroll" role="region" aria-label="Table of models" tabindex="0">{table}</div>'
    return section("models", "The models", escape(tables.about_models(entries)), box, footnotes.html())


def _row_heading(model: Numbered) -> str:
    return f'<th scope="row">{badge(model)}{_step(model.entry)}</th>'


def badge(model: Numbered) -> str:
    """Return a model's number in the colour of its run."""
    kind = " teacher" if model.teacher else ""
    return f'<span class="badge{kind} b{model.series}">{model.number}</span>'


def _step(entry: Entry) -> str:
    method = "" if entry.method and entry.method in entry.name else describe.method_name(entry)
    return _breakable(entry.name) + (f'<span class="sub">{escape(method)}</span>' if method else "")


def _breakable(name: str) -> str:
    # Names in snake case may break after an underscore, and nowhere else.
    return escape(name).replace("_", "_<wbr>")


def _heading(column: tables.Column) -> str:
    return escape(column.title) + (f'<span class="sub">{escape(column.unit)}</span>' if column.unit else "")


def trade_offs(numbered: Sequence[Numbered]) -> str:
    """Plot score and loyalty against file size and latency; models of different tasks in plots of their own."""
    parts = []
    keys = list(dict.fromkeys(_task_key(model) for model in numbered))
    for key in keys:
        members = [model for model in numbered if _task_key(model) == key]
        metric = compare.metric_name(members[0].entry)
        loyalty = charts.loyalty_measure(members[0].entry.kind)
        gains = (charts.score_measure(metric), loyalty)
        figures = []
        for cost, absent in ((charts.SIZE, "file size"), (charts.LATENCY, "latency")):
            drawn = charts.scatter(members, cost, gains)
            figures.append(
                f"<figure>{drawn}</figure>"
                if drawn
                else missing(f"No plot against {absent}: no model has both {absent} and a score.")
            )
        title = f"<h3>{escape(' / '.join(key))}</h3>" if len(keys) > 1 else ""
        parts.append(f'{title}<div class="charts">{"".join(figures)}</div>')
        if not any(charts.points(members, charts.SIZE, loyalty)):
            parts.append(missing(f"{loyalty.title} is not plotted: it was not measured."))
    about = (
        "Up and to the left is better. Numbers are those of the table; hollow is the teacher. "
        f"Whiskers show 95{notes.PER_CENT} intervals over examples. A ringed model is on the Pareto front (dotted): "
        "no other is both cheaper and at least as good. "
        "A marker that would cover another stands aside, tied to its point by a line."
    )
    return section("trade-offs", "What is gained for what", about, *(parts or [missing("No model is finished yet.")]))


def _task_key(model: Numbered) -> tuple[str, ...]:
    task = model.entry.task
    return tuple(str(task[name]) for name in ("name", "split", "metric") if task.get(name))


def curves(numbered: Sequence[Numbered]) -> str:
    """Return every model's training curves."""
    several = len({model.entry.run for model in numbered}) > 1
    parts = []
    for model in numbered:
        name = f"{model.entry.run} / {model.entry.name}" if several else model.entry.name
        heading = f"<h3>{badge(model)}{escape(name)}</h3>"
        drawn = charts.training(model.entry)
        if drawn:
            figures = "".join(f"<figure>{each}</figure>" for each in drawn)
            parts.append(f'{heading}<div class="charts">{figures}</div>')
        else:
            parts.append(heading + missing(no_curves(model.entry)))
    return (
        section("training", "Training", "Ringed: the best validation score, whose weights are kept.", *parts)
        if parts
        else ""
    )


def no_curves(entry: Entry) -> str:
    """Say why a model has no training curves."""
    if entry.method == "post_training_quantization":
        return "No curves: post-training quantization trains nothing."
    if entry.exported:
        return f"No curves: a file of the model before it{_checked(entry)}."
    return "No curves: this step recorded none."


def _checked(entry: Entry) -> str:
    """Say what was found of an exported file when it was written."""
    facts = text.mapping(entry.values.get("facts"))
    names = ("integer_products", "largest_difference", "spread")
    products, off, spread = (text.number(facts.get(name)) for name in names)
    if products is None or off is None or spread is None:
        return ""
    return (
        f" for {facts.get('runtime') or 'another runtime'}: {products:.0f} products are executed in integers; on "
        f"random examples its logits differ by at most {off:.2g} from the model's, which spread by {spread:.2g}"
    )


def costs(runs: Sequence[Run]) -> str:
    """Return what each step cost: time as measured, the rest as estimated."""
    parts = []
    for run in runs:
        if not run.entries:
            continue
        footnotes = Footnotes()
        most = max((text.number(entry.measured.get("seconds")) or 0.0 for entry in run.entries), default=0.0)
        rows = []
        for entry in run.entries:
            cells = [column.cell(entry, run.entries[0]) for column in tables.COSTS]
            drawn = [_cell(cells[0], footnotes).replace("</td>", _bar(cells[0].value, most) + "</td>")]
            drawn += [_cell(cell, footnotes, "estimated") for cell in cells[1:]]
            rows.append(f'<tr><th scope="row">{_step(entry)}</th>{"".join(drawn)}</tr>')
        sums = "".join(
            _cell(cell, footnotes, "estimated" if place else "") for place, cell in enumerate(tables.totals(run))
        )
        heads = "".join(
            f'<th scope="col"{"" if place == 0 else _ESTIMATED}>{_heading(column)}</th>'
            for place, column in enumerate(tables.COSTS)
        )
        table = (
            f'<table><thead><tr><th scope="col">Step</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody>'
            f'<tfoot><tr><th scope="row">All steps</th>{sums}</tr></tfoot></table>'
        )
        title = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
        parts += [
            title,
            f'<div class="scroll" role="region" aria-label="Table of costs" tabindex="0">{table}</div>',
            footnotes.html(),
            _assumed(run),
        ]
    about = "Time is measured. Everything in <em>italics with \u2248</em> is an estimate made from it."
    return section("costs", "What it cost to make", about, *(parts or [missing("No step is finished yet.")]))


_ESTIMATED = ' class="estimated"'


def _bar(value: float | None, most: float) -> str:
    return "" if not value or not most else f'<span class="bar" style="width:{100 * value / most:.1f}%"></span>'


def _assumed(run: Run) -> str:
    known = tables.assumptions(run)
    if not known:
        return missing("The run recorded no assumptions for its estimates; take them as an order of magnitude.")
    return f"<h3>Assumptions of the estimates</h3>{_pairs(known)}"


def _pairs(pairs: Sequence[tuple[str, str]], class_: str = "") -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f'<dl class="pairs {class_}">{items}</dl>'


def flattened(values: object, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as dotted names with their values."""
    pairs = []
    for name, value in text.mapping(values).items():
        if isinstance(value, dict) and value:
            pairs += flattened(value, f"{prefix}{name}.")
        else:
            pairs.append(
                (f"{prefix}{name}", ", ".join(map(text.plain, value)) if isinstance(value, list) else text.plain(value))
            )
    return pairs


HIDDEN_FACTS = ("command", "cost_assumptions", "assumptions")


def settings(runs: Sequence[Run]) -> str:
    """Return how to make the runs again: command, configuration, every step's settings, the machine."""
    parts = []
    for run in runs:
        if len(runs) > 1:
            parts.append(f"<h3>{escape(run.name)}</h3>")
        derived = (
            ""
            if run.environment.get("command")
            else missing("The run did not record its command; this one is put together from its name.")
        )
        parts.append(f"<pre>{escape(run.command)}</pre>{derived}")
        facts = flattened({name: value for name, value in run.environment.items() if name not in HIDDEN_FACTS})
        parts.append(
            "<h3>Machine and versions</h3>" + (_pairs(facts) if facts else missing("No environment is recorded."))
        )
        steps = [
            (
                tables.step_title(entry),
                "  ".join(f"{name}={value}" for name, value in flattened(dict(entry.settings))) or "none recorded",
            )
            for entry in run.entries
        ]
        parts.append(
            "<h3>Settings of each step</h3>"
            + (_pairs(steps, "settings") if steps else missing("No step is finished yet."))
        )
        configuration = (
            f"<pre>{escape(run.config.rstrip())}</pre>"
            if run.config.strip()
            else missing("No config.yaml is in the run's folder.")
        )
        parts.append(f"<h3>config.yaml</h3>{configuration}")
    return section("settings", "How to make it again", "", *parts)


def definitions(runs: Sequence[Run]) -> str:
    """Return how each figure is defined."""
    told = notes.definitions([entry for run in runs for entry in run.entries])
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(words)}</dd></div>" for name, words in told)
    links = "; ".join(f'<a href="{escape(address)}">{escape(name)}</a>' for name, address in notes.REFERENCES)
    return section(
        "definitions", "What the figures mean", "", f'<dl class="notes">{items}</dl>', f'<p class="about">{links}.</p>'
    )
