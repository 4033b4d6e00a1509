"""`load_task`: a data set by name, from a folder, or from files of one's own."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bertcompress.data import corpora, glue, hub, vader
from bertcompress.data.base import KINDS, Task
from bertcompress.data.files import load_mapping, load_mapping_file
from bertcompress.data.sources import VADER, data_folder
from bertcompress.errors import ConfigError, DataError

__all__ = ["KINDS", "TASKS", "Task", "TaskInfo", "load_task"]


class TaskInfo(NamedTuple):
    """What `bertcompress tasks` shows of a task that is known by name."""

    name: str
    kind: str
    metric: str
    source: str


EMBEDDINGS = {"stsb-embedding": "stsb"}  # pairs with a rated similarity, scored by cosines without any fine-tuning


def _known() -> dict[str, TaskInfo]:
    infos = []
    for corpus in vader.CORPORA:
        for suffix, (kind, metric) in vader.VARIANTS.items():
            infos.append(TaskInfo(corpus + suffix, kind, metric, f"{VADER.requirement}, fetched with pip"))
    for name, task in glue.GLUE.items():
        infos.append(
            TaskInfo(
                name, task.kind, task.metric, f"$BERTCOMPRESS_DATA/glue/{task.folders[0]}, or hub {hub.REPOSITORY}"
            )
        )
    for name, layout in corpora.CORPORA.items():
        infos.append(TaskInfo(name, layout.kind, layout.metric, layout.source))
    sources = {info.name: info.source for info in infos}
    infos += [TaskInfo(name, "embedding", "spearmanr", sources[pairs]) for name, pairs in EMBEDDINGS.items()]
    return {info.name: info for info in infos}


TASKS: Mapping[str, TaskInfo] = _known()


def load_task(
    source: str | os.PathLike[str] | Mapping[str, Any], *, relative_to: str | os.PathLike[str] | None = None
) -> Task:
    """Return a task with its data.

    Args:
        source: a name of `TASKS`; the path of a folder in a GLUE layout or of a YAML file that describes files of
            one's own; or such a description as a mapping.
        relative_to: the folder that a mapping's relative paths start from; by default the working directory.

    Raises:
        ConfigError: for a name that is not known, or a mistake in a description.
        DataError: for data that are missing or malformed.
    """
    if isinstance(source, Mapping):
        return load_mapping(source, Path(relative_to or "."))
    text = os.fspath(source)
    path = Path(relative_to or ".") / Path(text).expanduser()
    if path.suffix.lower() in (".yaml", ".yml"):
        return load_mapping_file(path)
    name = text if text in TASKS else _glue_name(text)
    if path.is_dir() and (
        name not in TASKS or (name in glue.GLUE and glue.holds(name, path)) or corpora.task_of_folder(path) == name
    ):
        return _load_folder(path)  # a folder that only happens to be called like a task does not hide the task
    if path.is_file():
        raise ConfigError(f"task {text!r}: this is a data file; describe it in a YAML file (text: ..., label: ...).")
    if name in EMBEDDINGS:
        return dataclasses.replace(load_task(EMBEDDINGS[name]), name=name, kind="embedding")
    if name in glue.GLUE:
        root = data_folder()
        folder = glue.find_folder(name, root) if root else None
        return glue.load_folder(name, folder) if folder else hub.load_hub(name)
    if name in corpora.CORPORA:
        return corpora.load(name)
    if name in TASKS:
        return vader.load_vader(name)
    raise _unknown(text)


def _glue_name(text: str) -> str:
    """Return the task's name for a folder's: sst2 for SST-2."""
    return next((name for name, task in glue.GLUE.items() if text in task.folders), text)


def _load_folder(folder: Path) -> Task:
    name = glue.task_of_folder(folder)
    if name is None and (other := corpora.task_of_folder(folder)):
        return corpora.load(other, folder)
    if name is None:
        known = ", ".join((*(task.folders[0] for task in glue.GLUE.values()), *corpora.CORPORA))
        raise DataError(
            f"task folder {folder}: its name is not that of a known task ({known}), or it holds none of its files; "
            "for other files give a YAML file that describes them."
        )
    return glue.load_folder(name, folder)


def _unknown(text: str) -> ConfigError:
    near = difflib.get_close_matches(text, TASKS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ConfigError(
        f"task {text!r}: there is no such task, folder or file{hint}; "
        f"allowed are a folder, a YAML file, or one of {', '.join(TASKS)}."
    )
