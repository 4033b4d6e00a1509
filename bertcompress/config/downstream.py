"""The `downstream:` part of a run's file: its own fields, and beside them those of the fine-tuning."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bertcompress.config import checks
from bertcompress.config.values import build, fields_of, unknown_keys
from bertcompress.data.yaml_positions import Problem, Value
from bertcompress.downstream.settings import SEEDED, Downstream


def read_downstream(
    value: Value | None, fine_tune: type[Any], folder: Path, problems: list[Problem]
) -> Downstream | None:
    """Return what models are fine-tuned on; None where nothing is, or after reporting what is wrong.

    Args:
        value: the mapping.
        fine_tune: the class of the fine-tuning.
        folder: where relative paths start.
        problems: receives what is wrong.
    """
    if value is None:
        return None
    content = value.content
    if not isinstance(content, dict):
        message = f"got {value}, allowed is a mapping such as {{tasks: [sst2, mrpc], seeds: [0, 1, 2]}}."
        problems.append(Problem(value.place, value.path, message))
        return None
    own = [name for name in fields_of(Downstream) if name != "fine_tune"]
    tuning = [name for name in fields_of(fine_tune) if name not in SEEDED]
    unknown_keys(value, [*own, *tuning], problems)

    def part(names: list[str]) -> Value:
        inner = {key: each for key, each in content.items() if key in names}
        return Value(inner, value.place, value.path, value.key_places)

    tuned = build(fine_tune, part(tuning), problems)
    found = build(Downstream, part(own), problems, defaults={"fine_tune": tuned} if tuned else {})
    return None if found is None else dataclasses.replace(found, tasks=_tasks(content["tasks"], folder, problems))


def _tasks(value: Value, folder: Path, problems: list[Problem]) -> tuple[Any, ...]:
    """Return the tasks with absolute paths."""
    assert isinstance(value.content, list)
    found = []
    for each in value.content:
        task = checks.check_task(each, folder, problems)
        checks.check_fine_tuned(each, task, problems)
        found.append(each.plain() if task is None else task.source)
    return tuple(found)


def downstream_dict(settings: Downstream) -> dict[str, Any]:
    """Return the settings as they are written in a run's file."""
    own = {name: getattr(settings, name) for name in fields_of(Downstream) if name != "fine_tune"}
    tuning = dataclasses.asdict(settings.fine_tune)
    return {**own, **{name: value for name, value in tuning.items() if name not in SEEDED}}
