"""A suite's YAML file: the recipe and what each task changes in it, read by the rules of a run's file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertcompress.config.run_config import Methods, RunConfig, apply_overrides, read_run
from bertcompress.config.values import MISSING, choice, fields_of, read, unknown_keys
from bertcompress.config.yaml_positions import ConfigFileError, Place, Problem, Value, join, read_text, read_yaml
from bertcompress.suite.config import SuiteConfig, chain_of

RECIPE = ("teacher", "compress", "evaluate")  # keys of a run's file; every task may change them
MAX_SEED = 2**32 - 1
_FOLDER = re.compile(r"\w[\w.-]*")


def load_suite(path: str | Path, overrides: Sequence[str] = (), *, methods: Methods | None = None) -> SuiteConfig:
    """Read and check a suite's YAML file, as far as that is possible without torch and without fetching anything.

    Args:
        path: the file.
        overrides: `key.path=value` texts, as `--set` takes them; values are YAML.
        methods: method name -> compressor dataclass; bertcompress's own if left out.

    Raises:
        ConfigFileError: with all problems of the file, a line each: `FILE:LINE: key.path: got X, allowed Y.`
    """
    path = Path(path)
    return parse_suite(read_text(path), str(path), overrides, folder=path.parent, methods=methods)


def parse_suite(
    text: str,
    source: str = "suite",
    overrides: Sequence[str] = (),
    *,
    folder: Path | None = None,
    methods: Methods | None = None,
) -> SuiteConfig:
    """Read and check a suite's YAML text; see `load_suite`.

    Args:
        text: the YAML.
        source: what the messages call it; the suite's default name is its stem.
        overrides: `key.path=value` texts.
        folder: where relative paths start; the working directory if left out.
        methods: method name -> compressor dataclass; bertcompress's own if left out.

    Raises:
        ConfigFileError: something is wrong with the text or what it says.
    """
    top, problems = read_yaml(text, source)
    if not isinstance(top.content, dict):
        got = "an empty file" if top.content is None else str(top)
        message = f"got {got}, allowed is a mapping with at least tasks and teacher."
        raise ConfigFileError([Problem(top.place, "", message)])
    tasks = top.content.get("tasks")
    for changes in tasks.content.values() if tasks is not None and isinstance(tasks.content, dict) else ():
        if changes.content is None:
            changes.content = {}  # so that `--set tasks.rte.teacher.epochs=5` finds something to go into
    apply_overrides(top, overrides, problems)
    return _Reader(methods, folder or Path(), problems).suite(top, Path(source).stem)


class _Reader:
    """Turns the located values into a SuiteConfig and gathers what is wrong on the way."""

    def __init__(self, methods: Methods | None, folder: Path, problems: list[Problem]) -> None:
        self.methods, self.folder, self.problems = methods, folder, problems

    def suite(self, top: Value, stem: str) -> SuiteConfig:
        """Read the whole file."""
        values = top.content
        assert isinstance(values, dict)
        known = {name: hint for name, (hint, _) in fields_of(SuiteConfig).items()}
        unknown_keys(top, [*known, *RECIPE], self.problems)
        plain: dict[str, Any] = {"name": stem, "seeds": (0,)}
        plain |= {
            key: read(value, known[key], self.problems)
            for key, value in values.items()
            if key in known and key != "tasks"
        }
        if "seeds" in values and plain["seeds"] is not MISSING:
            self._check_seeds(values["seeds"])
        entries = self._entries(top)
        tasks = {name: self._run(name, task, changes, top) for name, (task, changes) in entries.items()}
        if isinstance(plain.get("start_from"), dict):
            self._check_sources(values["start_from"], entries)
        runs = {name: run for name, run in tasks.items() if run is not None}
        if self.problems or not runs:
            raise ConfigFileError(self.problems)
        return SuiteConfig(tasks=runs, **plain)

    def _refuse(self, value: Value, message: str) -> None:
        self.problems.append(Problem(value.place, value.path, message))

    def _check_seeds(self, value: Value) -> None:
        """Refuse seeds that torch cannot take, and the same one twice."""
        assert isinstance(value.content, list)
        if not value.content:
            self._refuse(value, "got [], allowed is a list of at least one seed, such as [0, 1, 2].")
        seen: set[object] = set()
        for item in value.content:
            seed = item.content
            if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
                self._refuse(item, f"got {item}, allowed is a whole number from 0 to {MAX_SEED}.")
            elif seed in seen:
                self._refuse(item, f"got the seed {seed} twice, allowed is once: both runs would be the same.")
            seen.add(seed)

    def _entries(self, top: Value) -> dict[str, tuple[Value, Value | None]]:
        """Return the tasks by the names of their folders: what to load, and what they change in the recipe."""
        assert isinstance(top.content, dict)
        value = top.content.get("tasks")
        if value is None:
            message = "got no 'tasks', which is needed; allowed is a list of tasks, or a mapping from tasks to changes."
            self.problems.append(Problem(top.place, "tasks", message))
            return {}
        if not isinstance(value.content, (list, dict)) or not value.content:
            message = "allowed is a list of tasks such as [cola, rte], or a mapping from tasks to what they change."
            self._refuse(value, f"got {value}, {message}")
            return {}
        entries: dict[str, tuple[Value, Value | None]] = {}
        for task, changes in _listed(value):
            name = self._folder_of(task)
            if name in entries:
                self._refuse(task, f"got {task}, whose folder would be {name!r}, twice; allowed is once.")
            elif name and self._are_changes(changes):
                content = changes.content if changes is not None else None
                named = content.get("task", task) if isinstance(content, dict) else task
                entries[name] = (named, changes)
        return entries

    def _folder_of(self, task: Value) -> str:
        """Return the name of a task's folder: its own, or its file's stem."""
        text = task.content
        if not isinstance(text, str):
            self._refuse(task, f"got {task}, allowed is a task's name, a folder or a task file; a task that is written "
                               "out stands in a mapping: `tasks: {name: {task: {kind: ...}}}`.")  # fmt: skip
            return ""
        path = Path(text)
        name = path.stem if path.suffix.lower() in (".yaml", ".yml") else path.name
        if not _FOLDER.fullmatch(name):
            self._refuse(task, f"got {task}, allowed are names of letters, digits, '.', '_' and '-'.")
            return ""
        return name

    def _are_changes(self, changes: Value | None) -> bool:
        """Return whether a task's entry is a mapping of changes, or empty; report it if not."""
        if changes is None:
            return True
        if not isinstance(changes.content, dict):
            message = f"got {changes}, allowed is a mapping of what to change, such as {{teacher: {{epochs: 5}}}}."
            self._refuse(changes, message)
            return False
        unknown_keys(changes, ["task", *RECIPE], self.problems)
        return True

    def _run(self, name: str, task: Value, changes: Value | None, top: Value) -> RunConfig | None:
        """Read the run of one task: the recipe with its changes."""
        content: dict[str, Value] = {"task": task}
        assert isinstance(top.content, dict)
        own = changes.content if changes is not None and isinstance(changes.content, dict) else {}
        for key in RECIPE:
            merged = self._changed(key, top.content.get(key), own.get(key))
            if merged is not None:
                content[key] = merged
        self._refuse_seeds(content)
        problems: list[Problem] = []
        try:
            return read_run(Value(content, top.place, ""), name, problems, folder=self.folder, methods=self.methods)
        except ConfigFileError as error:
            self.problems += error.problems
            return None

    def _changed(self, key: str, base: Value | None, change: Value | None) -> Value | None:
        """Return what a task makes of one key of the recipe: a mapping changes fields, all else takes its place."""
        if base is None or change is None or not isinstance(change.content, dict):
            return base if change is None else change
        if key != "compress" or not isinstance(base.content, list):
            return _with_fields(base, change)
        steps = list(base.content)
        for number, fields in change.content.items():
            if number.isdecimal() and int(number) < len(steps):
                steps[int(number)] = _with_fields(steps[int(number)], fields)
            else:
                message = f"got the step {number!r}, allowed are the recipe's, 0 to {len(steps) - 1}."
                self.problems.append(Problem(change.key_places[number], join(change.path, number), message))
        return Value(steps, base.place, base.path)

    def _refuse_seeds(self, content: Mapping[str, Value]) -> None:
        """Refuse a step's own seed, which would make the runs of all seeds the same."""
        steps = content["compress"].content if "compress" in content else []
        for value in [content.get("teacher"), *(steps if isinstance(steps, list) else [])]:
            inside = value.content if value is not None else None
            if isinstance(inside, dict) and "seed" in inside:
                seed = inside["seed"]
                self._refuse(seed, f"got {seed}, allowed is no seed here: the runs' seeds are the suite's `seeds`.")

    def _check_sources(self, value: Value, entries: Mapping[str, Any]) -> None:
        """Refuse to start from or with tasks that the suite has not, and from oneself round a circle."""
        assert isinstance(value.content, dict)
        plain = {task: str(source.content) for task, source in value.content.items()}
        for task, source in value.content.items():
            place: Place = value.key_places.get(task, value.place)
            key = Value(task, place, join(value.path, task))
            if choice(key, entries, self.problems) and choice(source, entries, self.problems):
                chain = chain_of(plain, task)
                if task in chain:
                    around = " from ".join([*chain[: chain.index(task) + 1]])
                    self._refuse(source, f"got {source}: {task} would start from {around}, allowed is no circle.")


def _with_fields(base: Value, change: Value) -> Value:
    """Return a mapping with the fields of another in the place of its own; anything else is replaced whole."""
    if not isinstance(base.content, dict) or not isinstance(change.content, dict):
        return change
    return Value(base.content | change.content, base.place, base.path, base.key_places | change.key_places)


def _listed(value: Value) -> list[tuple[Value, Value | None]]:
    """Return (task, changes) of the items of `tasks`."""
    if isinstance(value.content, list):
        return [(item, None) for item in value.content]
    assert isinstance(value.content, dict)
    return [
        (Value(key, value.key_places.get(key, changes.place), join(value.path, key)), changes)
        for key, changes in value.content.items()
    ]
