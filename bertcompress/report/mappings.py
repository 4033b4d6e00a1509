"""A layer-mapping search in the report: which layer teaches which, fitness over generations, and the baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bertcompress.report import sections, svg, text
from bertcompress.report.charts import LEFT, RIGHT, TOP, WIDTH, Numbered
from bertcompress.report.runs import Entry
from bertcompress.report.text import escape

PITCH, BOX, HEIGHT = 30.0, 116.0, 20.0  # of the drawn layers, in pixels
ABOUT = (
    "Left the teacher's layers, right the student's; a line leads from a layer to the one that learns from it. Fitness "
    "is the mean score, in percent, of students distilled on a part of the texts. The best of many noisy scores is "
    "better than its mapping, so finalists were evaluated again with fresh seeds, and the mean of those decided."
)


def of_models(models: Sequence[Numbered]) -> str:
    """Return the section on every search among the models; nothing where there is none."""
    parts = []
    for model in models:
        found = search_of(model.entry)
        if found:
            heading = f"<h3>{sections.badge(model)}{escape(model.entry.name)}</h3>"
            drawn = [_picture(model.entry, found), _fitness(model.entry, found)]
            figures = "".join(f"<figure>{each}</figure>" for each in drawn if each)
            parts.append(f'{heading}<div class="charts">{figures}</div>{_table(found)}')
    return sections.section("mapping", "Which layer teaches which", escape(ABOUT), *parts) if parts else ""


def search_of(entry: Entry) -> Mapping[str, Any]:
    """Return what a step's facts say of its search, with the mapping that was chosen; empty where there was none."""
    facts = text.mapping(entry.values.get("facts"))
    found = text.mapping(facts.get("search"))
    return {**found, "mapping": facts.get("mapping")} if found and facts.get("mapping") else {}


def rows_of(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return name, mapping, fitness in the search and with fresh seeds: finalists first, then baselines by fitness."""
    rows, shown = [], set()
    for place, final in enumerate(found["finalists"]):
        shown.add(tuple(final["mapping"]))
        names = [name for name, each in found["baselines"].items() if each["mapping"] == final["mapping"]]
        label = ", ".join([*(["chosen"] if place == 0 else []), *names]) or f"finalist {place + 1}"
        fresh = f"{_figure(final['fitness'])} ({', '.join(map(_figure, final['values']))})"
        rows.append((label, _written(final["mapping"]), _figure(final["searched"]), fresh))
    baselines = sorted(found["baselines"].items(), key=lambda pair: -_number(pair[1]["fitness"]))
    for name, each in baselines:
        if tuple(each["mapping"]) not in shown:
            told = "not evaluated" if each["rank"] is None else _figure(each["fitness"])
            rows.append((name, _written(each["mapping"]), told, ""))
    return rows


def counted(found: Mapping[str, Any]) -> str:
    """Return how much of the space was evaluated."""
    share = 100 * found["evaluated"] / found["mappings"]
    return (
        f"{found['evaluated']:,} of {found['mappings']:,} mappings evaluated ({share:.2g}{text.THIN_SPACE}%), in "
        f"{text.counted(len(found['generations']), 'generation')} of {found['population']}"
    )


def _number(value: object) -> float:
    return -math.inf if not isinstance(value, (int, float)) else float(value)


def _figure(value: object) -> str:
    return "failed" if value is None else f"{_number(value):.2f}"


def _written(mapping: Sequence[int]) -> str:
    return ", ".join("none" if layer == 0 else str(layer) for layer in mapping)


def _picture(entry: Entry, found: Mapping[str, Any]) -> str:
    """Draw the teacher's layers, the student's, and who teaches whom; layer 1 is at the top, as in the pipeline."""
    teachers, students, mapping = found["teacher_layers"], found["student_layers"], found["mapping"]
    top, height = TOP + 14, PITCH * max(teachers, students)
    left, right = LEFT + BOX, WIDTH - RIGHT - BOX - 40

    def middle(layer: int, count: int) -> float:
        return float(top + (layer - 0.5) * height / count)

    marks = [
        svg.words("teacher", left - BOX, TOP - 4, "axis strong"),
        svg.words("student", right, TOP - 4, "axis strong"),
    ]
    for student, teacher in enumerate(mapping, start=1):
        if teacher:
            y0, y1, bend = middle(teacher, teachers), middle(student, students), (left + right) / 2
            path = f"M{left:.1f} {y0:.1f}C{bend:.1f} {y0:.1f} {bend:.1f} {y1:.1f} {right:.1f} {y1:.1f}"
            told = svg.tip(f"teacher layer {teacher} teaches student layer {student}")
            marks.append(svg.element("path", told, d=path, class_="curve s0"))
    for count, x in ((teachers, left - BOX), (students, right)):
        for layer in range(1, count + 1):
            used = layer in mapping if x < left else bool(mapping[layer - 1])
            marks.append(_box(x, middle(layer, count), f"layer {layer}", used))
    lines = [
        f"student layer {layer} from teacher layer {each}" if each else f"student layer {layer} from none"
        for layer, each in enumerate(mapping, start=1)
    ]
    return svg.drawing(WIDTH, top + height + 8, f"{entry.name}, mapping: {'; '.join(lines)}", *marks, class_="chart")


def _box(x: float, y: float, name: str, used: bool) -> str:
    box = {"x": x, "y": y - HEIGHT / 2, "width": BOX, "height": HEIGHT, "rx": 3.0}
    shape = svg.element("rect", **box, class_="share s0" if used else "leader")
    return svg.element("g", shape, svg.words(name, x + BOX / 2, y + 4, "" if used else "small", "middle"))


def _fitness(entry: Entry, found: Mapping[str, Any]) -> str:
    """Plot the best mapping's fitness so far, each generation's mean, and every mapping of it."""
    generations = [[value for value in each if value is not None] for each in found["generations"]]
    if not all(generations) or not generations:
        return ""
    top, bottom = TOP, TOP + 190.0
    across = svg.Axis(0.5, len(generations) + 0.5, LEFT, WIDTH - RIGHT)
    down = svg.gain_axis([value for each in generations for value in each], bottom, top, least=0.5)
    marks = [svg.words("Fitness by generation: best so far, mean (dotted)", 0, top - 14, "axis strong")]
    ticks = down.ticks()
    for tick in ticks:
        marks.append(svg.element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=down(tick), y2=down(tick), class_="grid"))
        marks.append(svg.words(svg.tick_label(tick, ticks), LEFT - 8, down(tick) + 4, "tick", "end"))
    best = [max(max(each) for each in generations[: place + 1]) for place in range(len(generations))]
    for values, class_ in ((best, "curve s0"), ([fmean(each) for each in generations], "front")):
        path = "L".join(f"{across(place):.1f} {down(value):.1f}" for place, value in enumerate(values, start=1))
        marks.append(svg.element("path", d=f"M{path}", class_=class_))
    for place, each in enumerate(generations, start=1):
        marks += [
            svg.element("circle", cx=across(place), cy=down(value), r=2.4, class_="dot hollow s0")
            for value in sorted(set(each))
        ]
        if len(generations) <= 20 or place % 5 == 0:
            marks.append(svg.words(place, across(place), bottom + 18, "tick", "middle"))
    marks.append(svg.words("generation", (LEFT + WIDTH - RIGHT) / 2, bottom + 38, "axis", "middle"))
    label = f"{entry.name}, fitness: best {best[0]:.2f} in the first generation, {best[-1]:.2f} in the last"
    return svg.drawing(WIDTH, bottom + 46, label, *marks, class_="chart")


def _table(found: Mapping[str, Any]) -> str:
    heads = ("Mapping", "Teacher layer of each student layer", "Fitness", "With fresh seeds")
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(each)}</td>" for each in row[1:]) + "</tr>"
        for row in rows_of(found)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f'<p class="about">{escape(counted(found))}.</p>'
        f'<div class="scroll" role="region" aria-label="Table of mappings" tabindex="0">{table}</div>'
    )
