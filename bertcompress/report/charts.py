"""Charts: what a model gains against what it costs, and how training went."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bertcompress.report import compare, svg, text
from bertcompress.report.breakdown import Share, together
from bertcompress.report.runs import Entry

WIDTH, LEFT, RIGHT, TOP = 520.0, 62.0, 16.0, 30.0
PANEL = 200.0  # pixels of a panel's plotting area
MOST_POINTS = 160  # of a curve; longer ones are averaged over equal stretches


@dataclass(frozen=True)
class Point:
    """A model in a scatter plot: its number in the table, colour, cost and gain with their whiskers."""

    number: int
    name: str
    series: int
    teacher: bool
    cost: float
    cost_high: float | None
    gain: float
    gain_ends: tuple[float, float] | None


@dataclass(frozen=True)
class Measure:
    """What an axis of a scatter plot shows: a title and how to read value and whisker from a model."""

    title: str
    value: Callable[[Entry], float | None]
    ends: Callable[[Entry], tuple[float, float] | None]
    to_teacher: bool = False  # the teacher's own value is 1 by definition


def _mebibytes(entry: Entry) -> float | None:
    size = entry.number("file_bytes")
    return None if size is None else size / 2**20


def _p50(entry: Entry) -> float | None:
    return text.number(entry.latency.get("p50_ms"))


def _to_p95(entry: Entry) -> tuple[float, float] | None:
    return text.interval([entry.latency.get("p50_ms"), entry.latency.get("p95_ms")])


SIZE = Measure("File size, MiB", _mebibytes, lambda entry: None)
LATENCY = Measure("Latency p50, ms (whisker to p95)", _p50, _to_p95)


def loyalty_measure(kind: str) -> Measure:
    """Return the measure of label loyalty on a kind of task."""
    title = compare.loyalty_name(kind, "label")
    return Measure(title, lambda entry: entry.loyalty("label"), compare.loyalty_interval, to_teacher=True)


def score_measure(metric: str) -> Measure:
    """Return the measure of the task's primary metric."""
    return Measure(metric[:1].upper() + metric[1:], lambda entry: entry.score, lambda entry: entry.score_interval)


@dataclass(frozen=True)
class Numbered:
    """A model with its number in the table, the colour of its run, and whether it is the run's teacher."""

    number: int
    entry: Entry
    series: int
    teacher: bool


def points(models: Sequence[Numbered], cost: Measure, gain: Measure) -> list[Point]:
    """Return the models that have both a cost and a gain."""
    found = []
    for model in models:
        x, y = cost.value(model.entry), gain.value(model.entry)
        if x is None or y is None or x < 0:
            continue
        reach = cost.ends(model.entry)
        # The teacher agrees with itself by definition: that share has no uncertainty to draw.
        ends = None if model.teacher and gain.to_teacher else gain.ends(model.entry)
        found.append(
            Point(model.number, model.entry.name, model.series, model.teacher, x, reach[1] if reach else None, y, ends)
        )
    return found


def scatter(models: Sequence[Numbered], cost: Measure, gains: Sequence[Measure]) -> str:
    """Return one panel per gain over a shared cost axis, or an empty string where nothing has both."""
    panels = [(gain, found) for gain in gains if (found := points(models, cost, gain))]
    if not panels:
        return ""
    costs = [
        value for _, found in panels for each in found for value in (each.cost, each.cost_high) if value is not None
    ]
    across = svg.cost_axis(costs, LEFT, WIDTH - RIGHT)
    marks, top = [], TOP
    for gain, found in panels:
        marks.append(_panel(gain, found, across, top))
        top += PANEL + 44
    bottom = top - 44
    marks.append(_cost_labels(across, bottom, cost.title))
    label = f"{listed_titles(panels)} against {cost.title}: " + "; ".join(
        _spoken(gain, found) for gain, found in panels
    )
    return svg.drawing(WIDTH, bottom + 46, label, *marks, class_="chart")


def listed_titles(panels: Sequence[tuple[Measure, list[Point]]]) -> str:
    """Return the panels' titles as a phrase."""
    return text.listed([gain.title for gain, _ in panels])


def _spoken(gain: Measure, found: Sequence[Point]) -> str:
    return ", ".join(
        f"{each.name} {text.significant(each.cost)} and {gain.title} {text.score(each.gain)}" for each in found
    )


def _panel(gain: Measure, found: Sequence[Point], across: svg.Axis, top: float) -> str:
    values = [value for each in found for value in (each.gain, *(each.gain_ends or ()))]
    down = svg.gain_axis(values, top + PANEL, top)
    front = {found[place] for place in compare.pareto([(each.cost, each.gain) for each in found])}
    marks = [svg.words(gain.title, 0, top - 14, "axis strong"), *_gain_grid(down)]
    for tick in across.ticks():
        marks.append(svg.element("line", x1=across(tick), x2=across(tick), y1=top, y2=top + PANEL, class_="grid"))
    marks.append(_front(sorted(front, key=lambda each: each.cost), across, down))
    marks += [_whiskers(each, across, down) for each in found]
    spots = [(across(each.cost), down(each.gain)) for each in found]
    places = spread(spots, (LEFT - 20, top - 10, WIDTH + 6, top + PANEL + 10))
    marks += [_tie(spot, place, each.series) for each, spot, place in zip(found, spots, places, strict=True)]
    marks += [_marker(each, *place, each in front) for each, place in zip(found, places, strict=True)]
    return "".join(marks)


def _gain_grid(down: svg.Axis) -> list[str]:
    ticks, marks = down.ticks(), []
    for tick in ticks:
        marks.append(svg.element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=down(tick), y2=down(tick), class_="grid"))
        marks.append(svg.words(svg.tick_label(tick, ticks), LEFT - 8, down(tick) + 4, "tick", "end"))
    return marks


def _front(front: Sequence[Point], across: svg.Axis, down: svg.Axis) -> str:
    # A staircase: between two points of the front nothing better is known than the cheaper one.
    if not front:
        return ""
    path = f"M{across(front[0].cost):.1f} {down(front[0].gain):.1f}"
    for each in front[1:]:
        path += f"H{across(each.cost):.1f}V{down(each.gain):.1f}"
    return svg.element("path", d=path + f"H{across.end:.1f}", class_="front")


def _whiskers(each: Point, across: svg.Axis, down: svg.Axis) -> str:
    x, y, marks = across(each.cost), down(each.gain), []
    if each.gain_ends:
        low, high = down(each.gain_ends[0]), down(each.gain_ends[1])
        marks.append(f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8")
    if each.cost_high is not None:
        end = across(each.cost_high)
        marks.append(f"M{x:.1f} {y:.1f}H{end:.1f}M{end:.1f} {y - 4:.1f}v8")
    return svg.element("path", d="".join(marks), class_=f"whisker s{each.series}") if marks else ""


def _marker(each: Point, x: float, y: float, best: bool) -> str:
    told = f"{each.name}: {text.significant(each.cost)}, {text.score(each.gain)}"
    spread = f" ({text.score(each.gain_ends[0])} to {text.score(each.gain_ends[1])})" if each.gain_ends else ""
    kind = "hollow" if each.teacher else "full"
    ring = svg.element("circle", cx=x, cy=y, r=12, class_=f"ring s{each.series}") if best else ""
    return svg.element(
        "g",
        svg.tip(told + spread + (", on the Pareto front" if best else "")),
        ring,
        svg.element("circle", cx=x, cy=y, r=9, class_=f"dot {kind} s{each.series}"),
        svg.words(each.number, x, y + 3.8, f"dot-number {kind} s{each.series}", "middle"),
    )


Spot = tuple[float, float]


def spread(spots: Sequence[Spot], box: tuple[float, float, float, float]) -> list[Spot]:
    """Return a place for each marker: its own spot, or the nearest free one where it would cover another."""
    places: list[Spot] = []
    for x, y in spots:
        around = [(x, y)]
        for reach in (24, 44, 64):
            around += [(x + reach * dx, y + reach * dy) for dx, dy in _DIRECTIONS]
        inside = [place for place in around if _inside(place, box)]
        free = [place for place in inside if all(math.dist(place, other) >= 19 for other in places)]
        places.append(free[0] if free else (x, y))
    return places


# Slanting first: a level or upright tie would look like a whisker.
_DIRECTIONS = ((0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7), (1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (0.0, 1.0))


def _inside(place: Spot, box: tuple[float, float, float, float]) -> bool:
    return box[0] <= place[0] <= box[2] and box[1] <= place[1] <= box[3]


def _tie(spot: Spot, place: Spot, series: int) -> str:
    if spot == place:
        return ""
    line = svg.element("line", x1=spot[0], y1=spot[1], x2=place[0], y2=place[1], class_=f"tie s{series}")
    return line + svg.element("circle", cx=spot[0], cy=spot[1], r=2.5, class_=f"pin s{series}")


def _cost_labels(across: svg.Axis, bottom: float, title: str) -> str:
    ticks = across.ticks()
    marks = [
        svg.words(
            svg.tick_label(tick, ticks) if not across.logarithmic else text.significant(tick, 1),
            across(tick),
            bottom + 18,
            "tick",
            "middle",
        )
        for tick in ticks
    ]
    scale = ", logarithmic" if across.logarithmic else ""
    marks.append(svg.words(title + scale, across.end, bottom + 38, "axis", "end"))
    marks.append(svg.element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="base"))
    return "".join(marks)


def curve(values: object) -> list[tuple[float, float]]:
    """Return a curve's finite points in order of their steps."""
    found = []
    for each in text.sequence(values):
        pair = [text.number(value) for value in text.sequence(each)]
        if len(pair) == 2 and pair[0] is not None and pair[1] is not None:
            found.append((pair[0], pair[1]))
    return sorted(found)


def thinned(found: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Average a long curve over equal stretches, so that it has at most `most` points."""
    if len(found) <= most:
        return list(found)
    stretch = -(-len(found) // most)
    pieces = [found[start : start + stretch] for start in range(0, len(found), stretch)]
    return [(sum(x for x, _ in piece) / len(piece), sum(y for _, y in piece) / len(piece)) for piece in pieces]


def training(entry: Entry) -> list[str]:
    """Return the charts of a model's training: the loss, and the validation score; none where it has no curves."""
    curves = text.mapping(entry.values.get("curves"))
    metric = compare.metric_name(entry)
    charts = []
    held_out = "Minus the loss on held-out text" if entry.kind == "unlabelled" else f"Validation {metric}"
    for key, title in (("loss", "Training loss"), ("score", held_out)):
        found = curve(curves.get(key))
        if found:
            charts.append(_line(title, found, entry.name, key == "score"))
    return charts


def _line(title: str, found: Sequence[tuple[float, float]], name: str, is_score: bool) -> str:
    shown = list(found) if is_score and len(found) <= MOST_POINTS else thinned(found)
    top, bottom = TOP, TOP + 150.0
    across = svg.Axis(0.0, max(x for x, _ in shown) or 1.0, LEFT, WIDTH - RIGHT)
    values = [y for _, y in shown]
    # A loss is read against zero; a score is read for where it stops rising.
    down = (
        svg.gain_axis(values, bottom, top)
        if is_score or min(values) < 0
        else svg.Axis(0.0, max(values) * 1.08 or 1.0, bottom, top)
    )
    marks = [svg.words(title, 0, top - 14, "axis strong"), *_gain_grid(down)]
    path = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in shown)
    marks.append(svg.element("path", d=f"M{path}", class_="curve s0"))
    if is_score:
        best = max(shown, key=lambda pair: pair[1])
        marks += [svg.element("circle", cx=across(x), cy=down(y), r=3.2, class_="dot full s0") for x, y in shown]
        marks.append(
            svg.element(
                "circle",
                svg.tip(f"best: {text.score(best[1])} at step {best[0]:,.0f}"),
                cx=across(best[0]),
                cy=down(best[1]),
                r=7,
                class_="ring s0",
            )
        )
    marks.append(_cost_labels(across, bottom, "optimizer step"))
    ends = [f"{text.significant(y)} at step {x:,.0f}" for x, y in (shown[0], shown[-1])]
    label = f"{name}, {title.lower()}: from {ends[0]} to {ends[1]}"
    return svg.drawing(WIDTH, bottom + 46, label, *marks, class_="chart")


ROW, BAR_LEFT, BAR_RIGHT = 27.0, 150.0, 396.0
NAME = 18  # characters of a bar's name


def shares(title: str, found: Sequence[Share], unit: str, model: Numbered) -> str:
    """Return one bar per share, from 0 to 1, with its interval as a whisker and all units together dotted."""
    top = TOP + 16
    bottom = top + ROW * len(found)
    across = svg.Axis(0.0, 1.0, BAR_LEFT, BAR_RIGHT)
    marks = [
        svg.words(svg.shorten(title, 60), 0, TOP - 14, "axis strong"),
        svg.words(unit, WIDTH, TOP + 6, "tick", "end"),
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        marks.append(svg.element("line", x1=across(tick), x2=across(tick), y1=top, y2=bottom, class_="grid"))
    marks += [_bar(each, across, top + ROW * place, unit, model.series) for place, each in enumerate(found)]
    mean = together(model.entry, found)
    marks.append(svg.element("line", x1=across(mean), x2=across(mean), y1=top, y2=bottom, class_="front"))
    for tick in (0, 50, 100):
        marks.append(svg.words(f"{tick}{text.THIN_SPACE}%", across(tick / 100), bottom + 18, "tick", "middle"))
    spoken = "; ".join(f"{each.name} {text.percent(each.share)} of {each.units:,}" for each in found)
    return svg.drawing(WIDTH, bottom + 26, f"{model.entry.name}, {title}: {spoken}", *marks, class_="chart")


def _bar(each: Share, across: svg.Axis, top: float, unit: str, series: int) -> str:
    middle = top + ROW / 2
    ends = f", 95{text.THIN_SPACE}% interval {100 * each.ends[0]:.1f} to {100 * each.ends[1]:.1f}" if each.ends else ""
    width = across(each.share) - BAR_LEFT
    marks = [
        svg.tip(f"{each.name}: {text.percent(each.share)} of {each.units:,} {unit}{ends}"),
        svg.words(svg.shorten(each.name, NAME), BAR_LEFT - 8, middle + 4, "bar-name", "end"),
        svg.element("rect", x=BAR_LEFT, y=middle - 8, width=width, height=16.0, class_=f"share s{series}"),
        svg.words(text.percent(each.share), BAR_RIGHT + 8, middle + 4),
        svg.words(f"{each.units:,}", WIDTH, middle + 4, "tick", "end"),
    ]
    if each.ends:
        low, high = (across(end) for end in each.ends)
        path = f"M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8"
        marks.insert(3, svg.element("path", d=path, class_=f"whisker s{series}"))
    return svg.element("g", *marks)
