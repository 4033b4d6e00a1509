"""What the command line shows of a run: its plan, its results, and scores on other tasks, as rich's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.pipeline.planning import PlannedStep

MACS_LENGTH = 128  # tokens of the sequence that multiply-accumulates are counted for
BUSY = 0.5  # processes for each core; with more, what is timed is said to be slower than it could be


def plan_table(name: str, steps: Sequence[PlannedStep], notes: Sequence[str] = ()) -> Table:
    """Return the planned steps as a table; how weights are stored is a column where any are quantized.

    Args:
        name: the run's name.
        steps: with their specs and estimated costs.
        notes: lines below the table.
    """
    from rich.table import Table

    title = f"Plan of {name} (times, memory and energy are estimates)"
    table = Table(title=title, title_justify="left", caption="\n".join(notes) or None, caption_justify="left")
    stored = ("weights",) if any(step.spec.low_bits for step in steps) else ()
    sizes = ("layers", "hidden", "parameters", *stored, f"MACs@{MACS_LENGTH}", "bytes")
    table.add_column("step", overflow="fold")
    for column in (*sizes, "time", "memory MiB", "energy Wh"):
        table.add_column(column, justify="right", no_wrap=True)
    for step in steps:
        spec = step.spec
        shape = (
            str(spec.num_layers),
            _widths(spec),
            f"{spec.parameters():,}",
            *[spec.low_bits or "float32"][: len(stored)],
        )
        costs = (_seconds(step.seconds), f"{step.memory_mib:.0f}", f"{step.energy_kwh * 1000:.2f}")
        table.add_row(step.name, *shape, _giga(spec.macs(MACS_LENGTH)), f"{spec.bytes():,}", *costs)
    total = _seconds(sum(step.seconds for step in steps)), "", f"{sum(step.energy_kwh for step in steps) * 1000:.2f}"
    table.add_section()
    table.add_row("all steps", *[""] * len(sizes), *total)
    return table


def plan_notes(exports: Sequence[str], load: float | None, cores: int) -> list[str]:
    """Return what else there is to say of a plan.

    Args:
        exports: what the last model is exported to.
        load: how many processes wanted a core before the steps were timed; None where the platform does not tell.
        cores: that there are.
    """
    notes = [f"At the end the last model is exported to {' and '.join(exports)}."] if exports else []
    if load is not None and load > BUSY * cores:
        notes.append(
            f"Other processes are at work (load {load:.1f} on {cores} cores): times would be shorter without them."
        )
    return notes


def results_table(results: Mapping[str, Any]) -> Table:
    """Return what a run found of every model as a table; a dash where a thing was not measured."""
    from rich.table import Table

    from bertcompress.evaluation.titles import loyalty_title

    task = results["task"]
    metric, kind = task["metric"], task.get("kind", "")
    table = Table(title=f"{results['name']}: {task['name']}, {task['split']} split", title_justify="left")
    table.add_column("model", overflow="fold")
    answers = (metric, "95 % interval", loyalty_title(kind, "label"), "prob. loyalty") if kind != "unlabelled" else ()
    for column in (*answers, "file MiB", "p50 ms", "speed-up"):
        table.add_column(column, justify="right", no_wrap=True)
    for model in results["models"]:
        latency = model["measured"].get("latency", {})
        interval = " to ".join(f"{end:.3f}" for end in model["score_intervals"].get(metric, ()))
        told = (
            _number(model["scores"].get(metric), ".3f"),
            interval or "-",
            _number(model["loyalty"].get("label"), ".3f"),
            _number(model["loyalty"].get("probability"), ".3f"),
        )
        table.add_row(
            model["name"],
            *(told if answers else ()),
            _number(model["file_bytes"], ".1f", 2**20),
            _number(latency.get("p50_ms"), ".2f"),
            _number(latency.get("speedup"), ".2f") + ("x" if "speedup" in latency else ""),
        )
    return table


def downstream_table(results: Mapping[str, Any]) -> Table:
    """Return how a run's models do on other tasks once they are fine-tuned on them, with the report's own figures."""
    from rich.table import Table

    from bertcompress.report import downstream
    from bertcompress.report.runs import Entry

    models = [Entry(results["name"], model, results["task"], None) for model in results["models"]]
    tuned = downstream.found_in(models)
    columns = downstream.heads(tuned)
    table = Table(title=downstream.TITLE, title_justify="left", caption="\n".join(downstream.notes(tuned)))
    table.caption_justify = "left"
    table.add_column("model", overflow="fold")
    for title, unit in columns:
        table.add_column(f"{title}, {unit}", justify="right")
    for entry in tuned:
        found = downstream.cells(entry, columns)
        table.add_row(entry.name, *(f"{mean} ({spread})" if spread else mean for mean, spread in found))
    return table


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None else format(value / unit, form)


def _widths(spec: EncoderSpec) -> str:
    """Return the width of the stream, or its range where layers differ."""
    widths = [layer.hidden_size for layer in spec.layers]
    return str(widths[0]) if len(set(widths)) == 1 else f"{min(widths)}-{max(widths)}"


def _giga(number: int) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e7 else f"{number / 1e6:.2f} M"


def _seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
