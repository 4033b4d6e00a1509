"""How models do on other tasks once they are fine-tuned on them: one table, for the page and for Markdown alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bertcompress.report import compare, sections, text
from bertcompress.report.charts import Numbered
from bertcompress.report.runs import Entry
from bertcompress.report.text import escape

TITLE = "Fine-tuned on other tasks"
ABOUT = (
    "Each model was fine-tuned on each task with a new head. The figure is the task's main score, in percent: the mean "
    "over the seeds, and below it the lowest and the highest. The last column is the mean over tasks."
)
TRIED_HEADS = ("Model", "Task", "Chosen", "Tried as well")


def of_models(models: Sequence[Numbered]) -> str:
    """Return how models do on other tasks once fine-tuned on them; nothing where that was not done."""
    chosen = [model for model in models if model.entry.downstream]
    if not chosen:
        return ""
    entries = [model.entry for model in chosen]
    columns = heads(entries)
    head = "".join(
        f'<th scope="col">{escape(title)}<span class="sub">{escape(unit)}</span></th>' for title, unit in columns
    )
    rows = []
    for model in chosen:
        shown = "".join(
            f"<td>{escape(mean)}" + (f'<span class="sub">{escape(spread)}</span>' if spread else "") + "</td>"
            for mean, spread in cells(model.entry, columns)
        )
        rows.append(f'<tr><th scope="row">{sections.badge(model)}{escape(model.entry.name)}</th>{shown}</tr>')
    table = f'<table><thead><tr><th scope="col">Model</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    tried = chosen_rows(entries)
    body = "".join("<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in tried)
    titles = "".join(f'<th scope="col">{each}</th>' for each in TRIED_HEADS)
    grid = f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    parts = [f'<div class="scroll" role="region" aria-label="Scores on other tasks" tabindex="0">{table}</div>']
    parts += [f'<p class="about">{escape(each)}</p>' for each in notes(entries)]
    if tried:
        parts.append(f'<div class="scroll" role="region" aria-label="Settings tried" tabindex="0">{grid}</div>')
    return sections.section("downstream", TITLE, escape(ABOUT), *parts)


def notes(entries: Sequence[Entry]) -> list[str]:
    """Return what has to be known of the figures: seeds, training examples, and what was chosen on what is scored."""
    found = [(name, each) for entry in entries for name, each in entry.downstream.items()]
    seeds = {text.listed([str(seed) for seed in each["seeds"]]) for _, each in found}
    trained = dict.fromkeys(f"{name} {each['examples']['train']:,}" for name, each in found)
    told = [f"Seeds: {'; or '.join(sorted(seeds))}. Training examples: {', '.join(trained)}."]
    tried = sorted({each["choosing_seed"] for _, each in found if each["tried"]})
    if tried:
        told.append(
            f"Settings were chosen on validation, with seed {' or '.join(map(str, tried))}, which is not reported."
        )
    same = dict.fromkeys(name for name, each in found if each["split"] == "validation")
    if same:
        told.append(
            f"{text.listed(list(same))}: scored on the split that the epoch{' and the settings' if tried else ''} "
            "were chosen on, as is usual for GLUE, so a little too high, for all models alike."
        )
    return told


def found_in(entries: Sequence[Entry]) -> list[Entry]:
    """Return the models that were fine-tuned on other tasks."""
    return [entry for entry in entries if entry.downstream]


def heads(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Return title and unit of each column: the tasks with metric and split, in the order of the first model."""
    named = list(dict.fromkeys(_column(name, each) for entry in entries for name, each in entry.downstream.items()))
    return [*named, ("Mean", text.counted(len(named), "task"))]


def cells(entry: Entry, columns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return mean and range of each column for a model; a dash where it was not fine-tuned on a task."""
    own = {_column(name, each): main_scores(each) for name, each in entry.downstream.items()}
    found = [
        (_percent(fmean(own[column])), _range(own[column])) if column in own else (text.DASH, "")
        for column in columns[:-1]
    ]
    mean = entry.score_downstream if len(own) == len(columns) - 1 else None  # means over other tasks do not compare
    return [*found, (text.DASH if mean is None else _percent(mean), "")]


def chosen_rows(entries: Sequence[Entry]) -> list[tuple[str, str, str, str]]:
    """Return model, task, what was chosen, and what else was tried with its validation score."""
    rows = []
    for entry in entries:
        for name, each in entry.downstream.items():
            tried = [(_written(one["settings"]), one["score"]) for one in each["tried"]]
            if tried:
                told = [f"{words}: {'failed' if score is None else _percent(score)}" for words, score in tried]
                scores = [-math.inf if score is None else score for _, score in tried]
                best = scores.index(max(scores))
                rows.append((entry.name, name, told[best], "; ".join(told[:best] + told[best + 1 :])))
    return rows


def main_scores(each: Mapping[str, Any]) -> list[float]:
    """Return a task's main score for each seed."""
    return list(each["scores"][each["metric"]])


def _column(name: str, each: Mapping[str, Any]) -> tuple[str, str]:
    return name, f"{_metric(each)}, {each['split']}"


def _metric(each: Mapping[str, Any]) -> str:
    name = str(each["metric"])
    return compare.METRIC_NAMES.get(name, name.replace("_", " "))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".replace("-", text.MINUS)


def _range(values: Sequence[float]) -> str:
    return "one seed" if len(values) < 2 else f"{_percent(min(values))} to {_percent(max(values))}"


def _written(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {text.plain(value)}" for name, value in settings.items())
