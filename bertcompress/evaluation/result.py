"""What `evaluate` found, as numbers for a results file and as a table for people."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bertcompress.evaluation.intervals import Interval
from bertcompress.evaluation.titles import loyalty_title

Row: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class ModelResult:
    """The numbers of one model, under the names that results.json gives them.

    Attributes:
        parameters: weights, with the embedding tables.
        parameters_without_embeddings: weights, without them.
        macs: multiply-accumulates of one sequence of the evaluation's `macs_length`.
        bytes: of all tensors.
        file_bytes: of the saved weight files, or None where efficiency was not asked for.
        examples: that were scored.
        scores: by metric, the task's primary one first.
        score_intervals: 95% bootstrap intervals over the examples.
        loyalty: by the names of `titles.LOYALTIES` for the kind of task, 1 at most; empty without a teacher.
        loyalty_intervals: as for the scores.
        breakdown: where the model departs from its teacher, see `bertcompress.evaluation.breakdown`; empty for a
            teacher and without loyalty.
        null_threshold: of the scores of "no answer", see `bertcompress.model.Model`; None where it is never given.
        measured: what varies from run to run: times and memory.
    """

    parameters: int
    parameters_without_embeddings: int
    macs: int
    bytes: int
    file_bytes: int | None
    examples: int
    scores: Mapping[str, float] = field(default_factory=dict)
    score_intervals: Mapping[str, Interval] = field(default_factory=dict)
    loyalty: Mapping[str, float] = field(default_factory=dict)
    loyalty_intervals: Mapping[str, Interval] = field(default_factory=dict)
    breakdown: Mapping[str, Any] = field(default_factory=dict)
    null_threshold: float | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latency(self) -> Mapping[str, Any]:
        """Times, throughput and memory, with their conditions; empty where they were not measured."""
        found: Mapping[str, Any] = self.measured.get("latency", {})
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "parameters": self.parameters,
            "parameters_without_embeddings": self.parameters_without_embeddings,
            "macs": self.macs,
            "bytes": self.bytes,
            "file_bytes": self.file_bytes,
            "examples": self.examples,
            "scores": dict(self.scores),
            "score_intervals": {name: list(ends) for name, ends in self.score_intervals.items()},
            "loyalty": dict(self.loyalty),
            "loyalty_intervals": {name: list(ends) for name, ends in self.loyalty_intervals.items()},
            **({"breakdown": dict(self.breakdown)} if self.breakdown else {}),
            **({"null_threshold": self.null_threshold} if self.null_threshold is not None else {}),
            "measured": dict(self.measured),
        }


@dataclass(frozen=True)
class Difference:
    """A score of the model minus the teacher's, on the same examples.

    Attributes:
        value: the difference.
        interval: its 95% bootstrap interval, paired: both models are scored on the same resamples.
        preserved: the model's score over the teacher's, or None where the teacher's is not positive.
    """

    value: float
    interval: Interval
    preserved: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"value": self.value, "interval": list(self.interval), "preserved": self.preserved}


@dataclass(frozen=True)
class Evaluation:
    """A model's results on a task, beside its teacher's; `print` it for a table.

    Attributes:
        task: name, kind, metric, split and labels.
        model: of the model that was asked about.
        teacher: of its teacher, or None.
        differences: of the scores, by metric; empty without a teacher.
        macs_length: tokens of the sequence that `macs` is of.
        seed: of the resamples and of the order of timing.
        notes: what a reader should know.
    """

    task: Mapping[str, Any]
    model: ModelResult
    teacher: ModelResult | None
    differences: Mapping[str, Difference]
    macs_length: int
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def scores(self) -> Mapping[str, float]:
        """The model's scores by metric, the primary one first."""
        return self.model.scores

    @property
    def loyalty(self) -> Mapping[str, float]:
        """The model's loyalty to its teacher; empty without one."""
        return self.model.loyalty

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: the model's numbers, and under `teacher` its teacher's.

        What varies from run to run lies under keys named `measured` and nowhere else.
        """
        return {
            **self.model.to_dict(),
            "score_differences": {name: each.to_dict() for name, each in self.differences.items()},
            "teacher": None if self.teacher is None else self.teacher.to_dict(),
            "task": dict(self.task),
            "macs_length": self.macs_length,
            "seed": self.seed,
            "notes": list(self.notes),
        }

    def rows(self) -> list[Row]:
        """Return the table's cells, the heading first."""
        heading: Row = ("", "model") if self.teacher is None else ("", "model", "teacher", "difference")
        names = list(self.model.scores)
        body = [_score_row(self, name) for name in names] + [_loyalty_row(self, name) for name in self.model.loyalty]
        body += _size_rows(self) + _speed_rows(self)
        return [heading, *((*row, *("",) * (len(heading) - len(row)))[: len(heading)] for row in body)]

    def _title(self) -> str:
        task = self.task
        return f"{task['name']} ({task['kind']}), split {task['split']}, {self.model.examples:,} examples"

    def _footer(self) -> list[str]:
        lines = []
        if self.model.score_intervals or self.model.loyalty_intervals:
            lines.append(
                f"[ ]: 95% bootstrap interval over the examples, seed {self.seed}; scores and loyalty times 100."
            )
        if self.model.latency:
            lines.append(_conditions(self.model.latency, self.teacher.latency if self.teacher is not None else {}))
        return [*lines, *self.notes]

    def __str__(self) -> str:
        """Return the table as plain text."""
        rows = self.rows()
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([self._title(), "", lines[0], rule, *lines[1:], "", *self._footer()]).rstrip()

    def _repr_html_(self) -> str:
        heading, *body = self.rows()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
        lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
        notes = "<br>".join(html.escape(line) for line in self._footer())
        return (
            f"<table><caption>{html.escape(self._title())}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{lines}</tbody></table><p>{notes}</p>"
        )


def _columns(found: Evaluation) -> list[ModelResult]:
    return [found.model] if found.teacher is None else [found.model, found.teacher]


def _share(value: float) -> str:
    """Return a share times 100; never rounded up to a full 100."""
    shown = f"{100 * value:.1f}"
    return "99.9" if shown == "100.0" and value < 1 else shown


def _with_interval(value: float, ends: Interval | None) -> str:
    return _share(value) + (f" [{_share(ends[0])}, {_share(ends[1])}]" if ends else "")


def _score_row(found: Evaluation, name: str) -> Row:
    cells = [_with_interval(each.scores[name], each.score_intervals.get(name)) for each in _columns(found)]
    if name in found.differences:
        gap = found.differences[name]
        low, high = gap.interval
        kept = "" if gap.preserved is None else f", {100 * gap.preserved:.1f}% kept"
        cells.append(f"{100 * gap.value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{kept}")
    return (name, *cells)


def _loyalty_row(found: Evaluation, name: str) -> Row:
    cells = (_with_interval(each.loyalty[name], each.loyalty_intervals.get(name)) for each in _columns(found))
    return (loyalty_title(found.task["kind"], name), *cells)


def _ratio(values: list[float | None]) -> list[str]:
    if len(values) < 2 or not values[0] or not values[1]:
        return []
    return [f"{values[0] / values[1]:.2f} of the teacher's"]


def _size_rows(found: Evaluation) -> list[Row]:
    shown = (
        ("parameters", "parameters", 1e6, " M"),
        ("  without embeddings", "parameters_without_embeddings", 1e6, " M"),
        (f"MACs at {found.macs_length} tokens", "macs", 1e6, " M"),
        ("tensors", "bytes", 2**20, " MiB"),
        ("weight files", "file_bytes", 2**20, " MiB"),
    )
    rows: list[Row] = []
    for label, name, unit, suffix in shown:
        values = [getattr(each, name) for each in _columns(found)]
        if values[0] is not None:
            rows.append((label, *(f"{value / unit:,.2f}{suffix}" for value in values), *_ratio(values)))
    return rows


def _speed_rows(found: Evaluation) -> list[Row]:
    latencies = [each.latency for each in _columns(found)]
    if not all(latencies):
        return []
    shown = (
        ("latency p50", "p50_ms", "{:.2f} ms"),
        ("latency p95", "p95_ms", "{:.2f} ms"),
        ("throughput", "throughput_examples_per_second", "{:,.1f} examples/s"),
        ("peak memory", "peak_memory_mib", "{:,.0f} MiB"),
    )
    rows: list[Row] = []
    for label, name, form in shown:
        values = [each.get(name) for each in latencies]
        rows.append((label, *("not measured" if value is None else form.format(value) for value in values)))
    if "speedup" in latencies[0]:
        for label, name in (("speed-up", "speedup"), ("throughput speed-up", "throughput_speedup")):
            rows.append((label, *(_times(each, name) for each in latencies)))
    return rows


def _times(latency: Mapping[str, Any], name: str) -> str:
    low, high = latency[f"{name}_interval"]
    return f"{latency[name]:.2f}x [{low:.2f}, {high:.2f}]"


def _conditions(latency: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    load, cores = latency["load_before"], latency["cores"]
    busy = ""
    if load is not None and load > 1.5 * cores:
        busy = (
            f" The machine was busy (load {load:.1f} on {cores} cores): trust the speed-ups, which are ratios within "
            "rounds, more than the times."
        )
    return (
        f"Timed in turn: {latency['timed']}; {latency['runtime']} on {latency['device']}, "
        f"{latency['threads']} threads, {latency['torch_cpu_capability']}; latency at batch 1, "
        f"{latency['rounds']} examples of {latency['length']} tokens (median; 95% have at most "
        f"{latency['length_p95']}); throughput at batches of {latency['throughput_batch']}."
        f"{_read_otherwise(latency, teacher)}{busy}"
    )


def _read_otherwise(latency: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    """Say how a teacher with another tokenizer or length reads the same examples; nothing if it reads them alike."""
    read = [(each.get("length"), each.get("length_p95"), each.get("rows_per_example")) for each in (latency, teacher)]
    if not teacher or read[0] == read[1]:
        return ""
    length, most, rows = read[1]
    shared = f" in {rows:.2f} rows (on average)" if rows else ""
    return f" The teacher reads them as {length} tokens (median; 95% have at most {most}){shared}."
