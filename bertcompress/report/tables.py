"""The columns of the tables: each says what it shows and, where it has nothing to show, why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bertcompress.report import compare, text
from bertcompress.report.describe import method_name, widths
from bertcompress.report.runs import Entry, Run

NBSP = text.THIN_SPACE


@dataclass(frozen=True)
class Cell:
    """What stands in a table: the figure, a second line, the exact number, or the reason for its absence."""

    text: str
    detail: str = ""
    value: float | None = None
    absent: str = ""


@dataclass(frozen=True)
class Column:
    """One column: its key, its heading with a unit, and the cell of a model; the teacher is the run's first."""

    key: str
    title: str
    unit: str
    cell: Callable[[Entry, Entry], Cell]


def absent(reason: str) -> Cell:
    """Return the cell of something that was not measured or does not apply."""
    return Cell(text.DASH, absent=reason)


def _ratio(ours: float | None, theirs: float | None, same: bool) -> str:
    if same or not ours or not theirs or ours < 0 or theirs < 0:
        return ""
    ratio = theirs / ours
    if 1 / 1.005 < ratio < 1.005:
        return "as teacher"
    return f"{text.times(ratio)} less" if ratio > 1 else f"{text.times(1 / ratio)} more"


def _layers(entry: Entry, teacher: Entry) -> Cell:
    if entry.spec is None:
        return absent("the architecture is not recorded")
    return Cell(f"{entry.spec.num_layers} {text.TIMES} {widths(entry.spec)}", entry.spec.low_bits)


def _parameters(entry: Entry, teacher: Entry) -> Cell:
    total, inner = entry.number("parameters"), entry.number("parameters_without_embeddings")
    if total is None:
        return absent("parameters are not recorded")
    return Cell(text.magnitude(total), "" if inner is None else text.magnitude(inner), total)


def _macs(entry: Entry, teacher: Entry) -> Cell:
    macs = entry.number("macs")
    if macs is None:
        return absent("multiply-accumulates are not recorded")
    return Cell(text.magnitude(macs), _ratio(macs, teacher.number("macs"), entry is teacher), macs)


def _file(entry: Entry, teacher: Entry) -> Cell:
    size = entry.number("file_bytes")
    if size is None:
        return absent("the size of the file is not recorded")
    return Cell(text.mebibytes(size), _ratio(size, teacher.number("file_bytes"), entry is teacher), size)


def _score(entry: Entry, teacher: Entry) -> Cell:
    if entry.score is None:
        return absent(f"{compare.metric_name(entry)} was not measured")
    ends = entry.score_interval
    spread = f"{text.score(ends[0])} to {text.score(ends[1])}" if ends else "no interval"
    return Cell(text.score(entry.score), spread, entry.score)


def _examples(entry: Entry, teacher: Entry) -> Cell:
    if entry.examples is None:
        elsewhere = entry.metric == "downstream"
        return absent("scored on other tasks, see below" if elsewhere else "the number of examples is not recorded")
    seeds = [text.plain(each) for each in text.sequence(entry.values.get("seeds"))]
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if seeds else "seeds not recorded"
    return Cell(f"{entry.examples:,}", named, entry.examples)


def scored_alike(entries: Sequence[Entry]) -> str:
    """Return a sentence with examples and seeds where all models share them, so that no column has to repeat it."""
    kinds = {(entry.examples, tuple(map(text.plain, text.sequence(entry.values.get("seeds"))))) for entry in entries}
    if len(kinds) != 1:
        return ""
    examples, seeds = kinds.pop()
    if examples is None or not seeds:
        return ""
    trained = f"seed {seeds[0]} alone" if len(seeds) == 1 else f"seeds {text.listed(seeds)}"
    return f"Every model was scored on {text.counted(examples, 'example')} and made with {trained}."


SHOWN_LOYALTIES = {
    "tagging": ("label", "entity", "probability"),
    "regression": ("label",),
    "embedding": ("label", "similarity"),
}


def _loyalties(entries: Sequence[Entry]) -> list[Column]:
    kinds = list(dict.fromkeys(entry.kind for entry in entries))
    names = list(dict.fromkeys(name for kind in kinds for name in SHOWN_LOYALTIES.get(kind, ("label", "probability"))))
    found = []
    for name in names:
        # Spans are compared only where tags mark spans; other figures say themselves why they are absent.
        if name == "entity" and not any(entry.loyalty(name) is not None for entry in entries):
            continue
        having = [kind for kind in kinds if name in SHOWN_LOYALTIES.get(kind, ("label", "probability"))]
        title = " / ".join(dict.fromkeys(compare.loyalty_name(kind, name) for kind in having))
        title = title.replace("Probability", "Prob.")
        found.append(Column(f"{name}_loyalty", title, f"95{NBSP}% interval", _loyalty(name)))
    return found


def _loyalty(name: str) -> Callable[[Entry, Entry], Cell]:
    def cell(entry: Entry, teacher: Entry) -> Cell:
        value, kind = entry.loyalty(name), entry.kind
        if value is None:
            return absent(f"{compare.loyalty_name(kind, name).lower()} was not measured")
        shown = compare.loyalty_value(kind, name, value)
        if entry is teacher:
            return Cell(shown, "itself", value)
        ends = compare.loyalty_interval(entry) if name == "label" else entry.loyalty_interval(name)
        return Cell(shown, compare.loyalty_ends(kind, name, ends) if ends else "", value)

    return cell


def _latency(entry: Entry, teacher: Entry) -> Cell:
    middle, slow = (text.number(entry.latency.get(name)) for name in ("p50_ms", "p95_ms"))
    if middle is None:
        return absent("latency was not measured")
    return Cell(text.milliseconds(middle), "" if slow is None else f"p95 {text.milliseconds(slow)}", middle)


def _throughput(entry: Entry, teacher: Entry) -> Cell:
    rate = text.number(entry.latency.get("throughput_examples_per_second"))
    if rate is None:
        return absent("throughput was not measured")
    return Cell(text.significant(rate), value=rate)


def _speedup(entry: Entry, teacher: Entry) -> Cell:
    measured = compare.speed_ratio(entry)
    if measured is None:
        return absent("no speed-up was measured side by side with the teacher")
    ratio, ends = measured
    if entry is teacher:
        return Cell(f"{ratio:.2f}{text.TIMES}", "the baseline", ratio)
    return Cell(f"{ratio:.2f}{text.TIMES}", f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "no interval", ratio)


def _peak(entry: Entry, teacher: Entry) -> Cell:
    # Of answering where that was measured, else of making the model; the two are not the same thing.
    answering = text.number(entry.latency.get("peak_memory_mib"))
    if answering is not None:
        libraries = text.number(entry.latency.get("libraries_memory_mib"))
        return Cell(f"{answering:,.0f}", "" if libraries is None else f"{libraries:,.0f} libraries", answering)
    making = text.number(entry.measured.get("peak_memory_mib"))
    if making is None:
        return absent("peak memory was not measured")
    return Cell(f"{making:,.0f}", "making", making)


def columns(entries: Sequence[Entry]) -> tuple[Column, ...]:
    """Return the columns of the table of models; headings name the metric and the length where all agree."""
    metrics = {compare.metric_name(entry) for entry in entries}
    lengths = {entry.macs_length for entry in entries}
    length = lengths.pop() if len(lengths) == 1 else None
    metric = metrics.pop() if len(metrics) == 1 else "score"
    return (
        Column("layers", "Layers", f"{text.TIMES} hidden size", _layers),
        Column("parameters", "Parameters", "without emb.", _parameters),
        Column("macs", "MACs", f"at {length:,.0f} tokens" if length else "", _macs),
        Column("file", "File", "MiB", _file),
        Column("score", metric[:1].upper() + metric[1:], f"95{NBSP}% interval", _score),
        *(() if scored_alike(entries) else (Column("examples", "Scored", "examples", _examples),)),
        *_loyalties(entries),
        Column("latency", "Latency", "p50, ms", _latency),
        Column("throughput", "Throughput", "examples/s", _throughput),
        Column("speedup", "Speed\u2011up", f"95{NBSP}% interval", _speedup),
        Column("peak", "Peak memory", "MiB", _peak),
    )


def _seconds(entry: Entry, teacher: Entry) -> Cell:
    seconds = text.number(entry.measured.get("seconds"))
    return absent("the time was not recorded") if seconds is None else Cell(text.duration(seconds), value=seconds)


def _estimate(field: str, factor: float, what: str) -> Callable[[Entry, Entry], Cell]:
    def cell(entry: Entry, teacher: Entry) -> Cell:
        value = text.number(entry.measured.get(field))
        return absent(f"{what} was not estimated") if value is None else Cell(amount(value * factor), value=value)

    return cell


def amount(value: float) -> str:
    """Return an estimate with two significant digits, which is more than it is good for."""
    if 0 < value < 0.001:
        return f"<{NBSP}0.001"
    return f"\u2248{NBSP}{text.significant(value, 2)}"


COSTS = (
    Column("seconds", "Time", "measured", _seconds),
    Column("energy_kwh", "Energy", "Wh, estimated", _estimate("energy_kwh", 1000, "energy")),
    Column("co2e_g", "CO\u2082e", "g, estimated", _estimate("co2e_g", 1, "CO\u2082e")),
    Column("money_eur", "Money", "EUR, estimated", _estimate("money_eur", 1, "money")),
)


def totals(run: Run) -> list[Cell]:
    """Return the sums of the costs' columns; a sum is absent where one of its parts is."""
    result = []
    for column in COSTS:
        values = [text.number(entry.measured.get(column.key)) for entry in run.entries]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            result.append(absent("not every step has this figure, so there is no sum"))
        elif column.key == "seconds":
            result.append(Cell(text.duration(sum(known)), value=sum(known)))
        else:
            factor = 1000 if column.key == "energy_kwh" else 1
            result.append(Cell(amount(sum(known) * factor), value=sum(known)))
    return result


def assumptions(run: Run) -> list[tuple[str, str]]:
    """Return what the estimates of costs assume, as the run recorded it."""
    found: dict[str, str] = {}
    sources = [run.environment, run.results, *(entry.measured for entry in run.entries)]
    for source in sources:
        for key in ("cost_assumptions", "assumptions"):
            found.update({str(name): text.plain(value) for name, value in text.mapping(source.get(key)).items()})
    return sorted(found.items())


def conditions(entries: Sequence[Entry]) -> list[str]:
    """Return the distinct conditions under which latency was measured, as phrases."""
    names = ("runtime", "device", "threads", "batch", "length", "throughput_batch", "timed")
    phrases: list[str] = []
    for entry in entries:
        known = [
            f"{name.replace('_', ' ')} {text.plain(entry.latency[name])}"
            for name in names
            if entry.latency.get(name) is not None
        ]
        if known and (phrase := ", ".join(known)) not in phrases:
            phrases.append(phrase)
    return phrases


def about_models(entries: Sequence[Entry]) -> str:
    """Return what a reader has to know about all rows of the table of models."""
    known = conditions(entries)
    latency = f"Latency was measured with {'; '.join(known)}." if known else "No latency was measured."
    return " ".join(each for each in (scored_alike(entries), latency) if each)


def step_title(entry: Entry) -> str:
    """Return the step's name and, where the name does not say it, its method."""
    return entry.name if entry.method and entry.method in entry.name else f"{entry.name} ({method_name(entry)})"
