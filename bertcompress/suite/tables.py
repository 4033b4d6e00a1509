"""A suite's table, for people: one row per task, in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertcompress.evaluation.titles import loyalty_title
from bertcompress.report import text

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("task", "score", "teacher", "student", "kept", "loyalty", "seeds", "train", "scored")


def rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of every task under `COLUMNS`, and of the average; medians over seeds with their range."""
    found = [_row(task) for task in results["tasks"]]
    average = results["average"]
    if average:
        student = text.DASH if average["student"] is None else text.score(average["student"])
        kept = text.DASH if average["kept"] is None else text.percent(average["kept"])
        counted = f"{len(average['tasks'])} of {len(average['tasks']) + len(average['missing'])} tasks"
        found.append(("GLUE average", counted, text.score(average["teacher"]), student, kept, *[text.DASH] * 4))
    return found


def _row(task: Mapping[str, Any]) -> tuple[str, ...]:
    finished = sum(run["state"] == "finished" for run in task["runs"])
    seeds = f"{finished} of {len(task['runs'])}"
    if not task["models"]:
        return (
            task["name"],
            task["runs"][0]["state"] if task["runs"] else "",
            *[text.DASH] * 4,
            seeds,
            *[text.DASH] * 2,
        )
    teacher, student = task["models"][0], task["models"][-1] if len(task["models"]) > 1 else None
    kept = student["kept"] if student else None
    counts, split = task["task"]["counts"], task["task"]["split"]
    return (
        task["name"],
        task["score"],
        _spread(teacher["score"]),
        _spread(student["score"] if student else None),
        text.DASH if kept is None else text.percent(kept),
        _loyalty(student["loyalty"] if student else {}, task["task"]["kind"]),
        seeds,
        text.whole(counts["train"]) if counts.get("train") else text.DASH,
        f"{text.whole(counts[split])} ({split})",
    )


def _loyalty(values: Mapping[str, Any], kind: str) -> str:
    """Return how far the student answers as its teacher does; on some kinds of task that is no share of labels."""
    title, spread = loyalty_title(kind, "label"), _spread(values.get("label"))
    return spread if title == "label loyalty" or spread == text.DASH else f"{title} {spread}"


def _spread(values: Mapping[str, float] | None) -> str:
    """Return a median and, where the seeds differ, their range."""
    if not values:
        return text.DASH
    median, low, high = (text.score(values[key]) for key in ("median", "min", "max"))
    return median if low == high else f"{median} ({low} to {high})"


def notes(results: Mapping[str, Any]) -> list[str]:
    """Return what a reader has to know beside the table, a sentence each."""
    found = [f"Medians over the seeds {', '.join(map(str, results['seeds']))}, with their range; "
             "kept: the student's median over the teacher's; loyalty: label loyalty, unless a cell says what else it "
             "is."]  # fmt: skip
    tasks = results["tasks"]
    validation = [task["name"] for task in tasks if task["task"] and task["task"]["split"] == "validation"]
    if validation:
        found.append(f"Validation scores: {', '.join(validation)}.")
    if results["average"]:
        found.append(f"{results['average']['name']}; a task with several metrics counts with their mean.")
    for task in tasks:
        found += _notes_of(task)
    return found


def _notes_of(task: Mapping[str, Any]) -> list[str]:
    name, found = task["name"], []
    if task["left_out"]:
        found.append(f"{name} is left out: {task['left_out']}.")
    if task["partial"]:
        found.append(f"{name} is run on partial data: {'; '.join(task['partial'])}.")
    if task["start_from"] and task["models"]:
        found.append(f"{name}: the teacher starts from the fine-tuned teacher of {task['start_from']}.")
    for split in task["models"][0]["further"] if task["models"] else ():
        scored = [f"{model['name']} {_all(model['further'][split])}" for model in task["models"]]
        found.append(f"{name} on {'the diagnostic set AX' if split == 'ax' else split}: {', '.join(scored)}.")
    found += [f"{run['folder']} failed: {run['error']}" for run in task["runs"] if run["state"] == "failed"]
    return found


def _all(scores: Mapping[str, Mapping[str, float]]) -> str:
    return " and ".join(f"{_spread(values)} ({metric})" for metric, values in scores.items())


def suite_table(results: Mapping[str, Any]) -> Table:
    """Return the table for the terminal; see `notes` for what belongs below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"Suite {results['name']}"), title_justify="left")
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if place < 2 else "right", overflow="fold")
    for row in rows(results):
        if row[0] == "GLUE average":
            table.add_section()
        table.add_row(*map(Text, row))
    return table


def render_markdown(results: Mapping[str, Any]) -> str:
    """Return suite.md: the table, the notes, links to the runs, and what everything ran on."""
    lines = [f"# Suite {text.markdown(results['name'])}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
    lines += [_line([text.markdown(cell) for cell in row]) for row in rows(results)]
    lines += ["", *(f"- {text.markdown(note)}" for note in notes(results)), ""]
    finished = [run for task in results["tasks"] for run in task["runs"] if run["state"] == "finished"]
    if finished:
        links = (f"[{text.markdown(run['folder'])}]({run['folder']}/report.md)" for run in finished)
        lines += ["## Runs", "", ", ".join(links), ""]
    lines += ["## Made with", "", *_environment(results), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _environment(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each environment that runs were made in."""
    lines = []
    for each in results["environments"] or [{"environment": results["environment"], "runs": []}]:
        where = each["environment"]
        packages = ", ".join(f"{name} {version}" for name, version in text.mapping(where.get("packages")).items())
        processor = text.mapping(where.get("hardware")).get("cpu", "an unknown processor")
        runs = f" ({len(each['runs'])} runs)" if len(results["environments"]) > 1 else ""
        about = f"commit {where.get('commit', 'unknown')}; Python {where.get('python', '')}; {packages}; {processor}"
        lines.append(f"- {text.markdown(about)}{runs}")
    return lines
