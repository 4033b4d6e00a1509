"""The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from itertools import count
from string import Template

from bertcompress.report import compare, departures, downstream, mappings, sections, text
from bertcompress.report.charts import Numbered
from bertcompress.report.runs import Entry, Run
from bertcompress.report.text import escape

SERIES = 6  # colours that the page has for runs


def render_html(runs: Sequence[Run]) -> str:
    """Return the page that reports one run, or compares several.

    The same runs give the same page byte for byte.
    """
    models = number_models(runs)
    parts = [
        sections.chains(runs),
        sections.models(models, runs),
        downstream.of_models(models),
        sections.trade_offs(models),
        mappings.of_models(models),
        departures.of_models(models),
        sections.curves(models),
        sections.costs(runs),
        sections.settings(runs),
        sections.definitions(runs),
    ]
    names = text.listed([run.name for run in runs])
    template = Template(_resource("page.html"))
    return template.substitute(
        title=escape(f"{names}: bertcompress report"),
        style=_resource("page.css").strip(),
        kicker=_kicker(runs),
        headline=_headline(runs),
        sections="\n".join(part for part in parts if part),
        footer="Written by bertcompress from results.json, environment.json and config.yaml "
        f"of {text.counted(len(runs), 'run')}. This file loads nothing from the network.",
    )


def number_models(runs: Sequence[Run]) -> list[Numbered]:
    """Number the models of all runs through; one run's models share a colour, its first one is the teacher."""
    numbers = count(1)
    return [
        Numbered(next(numbers), entry, series % SERIES, place == 0)
        for series, run in enumerate(runs)
        for place, entry in enumerate(run.entries)
    ]


def _resource(name: str) -> str:
    return resources.files("bertcompress.report").joinpath(name).read_text(encoding="utf-8")


def task_words(run: Run) -> str:
    """Return the task with its kind and the split that was scored: movie-reviews (classification, test split)."""
    kind, split = run.task.get("kind"), run.task.get("split")
    known = [str(kind).replace("_", " ")] if kind else []
    known += [f"{split} split"] if split else []
    return f"{run.task.get('name') or 'task not recorded'}" + (f" ({', '.join(known)})" if known else "")


def _kicker(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return f"Run <strong>{escape(runs[0].name)}</strong> on {escape(task_words(runs[0]))}"
    tasks = list(dict.fromkeys(task_words(run) for run in runs))
    return f"{len(runs)} runs compared on {escape(text.listed(tasks))}"


def _headline(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        told = compare.verdict(runs[0])
        return (
            f'<h1>{escape(told.headline)}</h1>\n<p class="lead">{escape(told.detail)}</p>\n'
            + "".join(f'<p class="alert">{escape(each)}</p>' for each in warnings(runs))
            + _key_figures(runs[0])
        )
    items = []
    for run in runs:
        told = compare.verdict(run)
        items.append(
            f"<li><strong>{escape(run.name)}</strong>: {escape(told.headline)}<p>{escape(told.detail)}</p></li>"
        )
    alerts = "".join(f'<p class="alert">{escape(each)}</p>' for each in warnings(runs))
    return f'<h1>{escape(comparison(runs))}</h1>\n{alerts}<ul class="runs">{"".join(items)}</ul>'


def warnings(runs: Sequence[Run]) -> list[str]:
    """Return what a reader has to know before any number: interrupted runs, scores that do not compare."""
    told = [
        f"{run.name} is not finished: {text.listed(list(run.unfinished))} "
        f"{'has' if len(run.unfinished) == 1 else 'have'} no result yet. Run the same command again to resume."
        for run in runs
        if run.unfinished
    ]
    if not compare.same_task(runs):
        told.append("The runs differ in task, split, metric or number of examples: their scores do not compare.")
    if len(runs) > 1 and not compare.same_conditions(runs):
        told.append(
            "Latency was not measured under the same conditions in all runs: times do not compare between runs."
        )
    return told


def comparison(runs: Sequence[Run]) -> str:
    """Say in one sentence which run's last model is smallest, fastest and most accurate, where that is clear."""
    finals = [(run, run.entries[-1]) for run in runs if run.entries]
    sizes = [entry.number("file_bytes") for _, entry in finals]
    times = [text.number(entry.latency.get("p50_ms")) for _, entry in finals]
    claims: dict[str, list[str]] = {}
    for name, claim in (
        (_least(finals, sizes), "makes the smallest file"),
        (_least(finals, times) if compare.same_conditions(runs) else "", "answers fastest"),
        (_most_accurate(finals) if compare.same_task(runs) else "", "scores highest"),
    ):
        if name:
            claims.setdefault(name, []).append(claim)
    if not claims:
        return f"{len(runs)} runs compared; none is clearly ahead in size, speed or score."
    said = "; ".join(f"{name} {text.listed(claim)}" for name, claim in claims.items())
    scored = all(entry.score is not None for _, entry in finals)
    unclear = scored and compare.same_task(runs) and not _most_accurate(finals)
    return f"{said}; no score is clearly highest." if unclear else f"{said}."


Final = tuple[Run, Entry]


def _least(finals: Sequence[Final], values: Sequence[float | None]) -> str:
    # Named only where it is ahead of the second by more than what counts as the same.
    known = sorted(value for value in values if value is not None)
    if len(known) < max(2, len(values)) or known[0] * compare.SAME > known[1]:
        return ""
    return finals[values.index(known[0])][0].name


def _most_accurate(finals: Sequence[Final]) -> str:
    ranked = sorted(finals, key=lambda final: final[1].score_interval or (float("-inf"), 0.0), reverse=True)
    ends = [entry.score_interval for _, entry in ranked]
    if len(ends) < 2 or ends[0] is None or any(each is None or compare.overlap(ends[0], each) for each in ends[1:]):
        return ""
    return ranked[0][0].name


def _key_figures(run: Run) -> str:
    if not run.entries:
        return ""
    teacher, student = run.entries[0], run.entries[-1]
    unit = text.THIN_SPACE
    rows = [
        ("File", _mib(student), _mib(teacher)),
        (f"Latency, p50{unit}", _ms(student), _ms(teacher)),
        (
            compare.metric_name(student).capitalize()
            if compare.metric_name(student).islower()
            else compare.metric_name(student),
            _score(student),
            _score(teacher),
        ),
    ]
    figures = [
        _figure(name, now, f"teacher {was}" if student is not teacher and was else "") for name, now, was in rows if now
    ]
    label = student.loyalty("label")
    if label is not None and student is not teacher:
        value = compare.loyalty_value(student.kind, "label", label)
        figures.append(_figure(compare.loyalty_name(student.kind, "label"), value, _KEPT.get(student.kind, _ANSWERS)))
    seconds = [text.number(entry.measured.get("seconds")) for entry in run.entries]
    known = [value for value in seconds if value is not None]
    if known and len(known) == len(seconds):
        figures.append(_figure("Time to make", text.duration(sum(known)), "all steps, measured"))
    return f'<dl class="key">{"".join(figures)}</dl>' if figures else ""


_ANSWERS = "teacher's answers kept"
_KEPT = {"regression": "to the teacher's predictions", "embedding": "of the teacher's nearest"}


def _figure(name: str, now: str, was: str) -> str:
    below = f'<span class="was">{escape(was)}</span>' if was else ""
    return f'<div><dt>{escape(name)}</dt><dd><span class="big">{escape(now)}</span><br>{below}</dd></div>'


def _mib(entry: Entry) -> str:
    size = entry.number("file_bytes")
    return "" if size is None else f"{text.mebibytes(size)}{text.THIN_SPACE}MiB"


def _ms(entry: Entry) -> str:
    middle = text.number(entry.latency.get("p50_ms"))
    return "" if middle is None else f"{text.milliseconds(middle)}{text.THIN_SPACE}ms"


def _score(entry: Entry) -> str:
    return "" if entry.score is None else text.score(entry.score)
