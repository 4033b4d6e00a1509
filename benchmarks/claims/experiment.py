"""An experiment file: one run's settings, what is varied in them, and with which seeds.

name: etd
scales:
  laptop:
    scored_examples: 500            # of a task's validation and test split, at most; left out, all
    train_examples: 2000            # of the run's task, at most, where a teacher is fine-tuned on it; likewise
    groups:
      - name: students              # part of every result's path; may have limits of its own, null: none
        run: {...}                  # a run's file, see `bertcompress schema`; paths are relative to where it runs
        seeds: [0, 1, 2]
        axes:                       # every combination is a cell
          start:
            random: {compress.0.initialization: random}
            etd-rand: {}
          mapping: {all: {student: 2, teacher: 6, key: compress.0.mapping}}   # all rising mappings, none (0) allowed
          other: {unordered: {student: 2, teacher: 6, key: compress.0.mapping}}   # all that do not rise
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bertcompress.compressors.layer_mapping.genes import Space
from bertcompress.config import RunConfig, parse_config

SPACES = {"all", "unordered"}


@dataclass(frozen=True)
class Cell:
    """One training of an experiment.

    Attributes:
        group: that it belongs to.
        choices: axis -> what was chosen of it.
        seed: of everything random.
        run: the run's settings before the changes.
        changes: `key.path=value` texts.
        scored_examples: of each split that students are scored on, at most; None takes all.
        train_examples: of the run's task that teacher and students learn from, at most; None takes all.
    """

    group: str
    choices: Mapping[str, str]
    seed: int
    run: Mapping[str, Any]
    changes: tuple[str, ...]
    scored_examples: int | None = None
    train_examples: int | None = None

    @property
    def name(self) -> str:
        """Its path among the results."""
        return "/".join([self.group, *self.choices.values(), f"seed-{self.seed}"])

    def config(self) -> RunConfig:
        """Return its settings, checked.

        Raises:
            ConfigFileError: something in them cannot work.
        """
        text = yaml.safe_dump({**self.run, "name": self.name, "seed": self.seed}, sort_keys=False)
        config = parse_config(text, self.name, self.changes)
        if config.downstream is None:
            return config
        return dataclasses.replace(config, downstream=dataclasses.replace(config.downstream, seeds=(self.seed,)))


@dataclass(frozen=True)
class Experiment:
    """All cells of an experiment at one scale."""

    name: str
    scale: str
    cells: tuple[Cell, ...]


def load(path: Path, scale: str = "laptop") -> Experiment:
    """Read an experiment's file.

    Raises:
        ValueError: the file has no such scale.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if scale not in content["scales"]:
        raise ValueError(f"{path}: got the scale {scale!r}, allowed are {', '.join(content['scales'])}.")
    described = content["scales"][scale]
    cells = [cell for group in described["groups"] for cell in _cells(group, described)]
    return Experiment(content["name"], scale, tuple(cells))


def _cells(group: Mapping[str, Any], scale: Mapping[str, Any]) -> Iterator[Cell]:
    """Yield all seeds of a combination, then those of the next."""
    axes = {name: _choices(each) for name, each in group.get("axes", {}).items()}
    for picked in itertools.product(*(each.items() for each in axes.values())):
        choices = {axis: choice for axis, (choice, _) in zip(axes, picked, strict=True)}
        changes = [f"{key}={json.dumps(value)}" for _, change in picked for key, value in change.items()]
        for seed in group["seeds"]:
            limits = {name: group.get(name, scale.get(name)) for name in ("scored_examples", "train_examples")}
            yield Cell(group["name"], choices, seed, group["run"], tuple(changes), **limits)


def _choices(axis: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return choice -> changes of an axis."""
    if len(axis) != 1 or not set(axis) <= SPACES:
        return {str(choice): dict(changes or {}) for choice, changes in axis.items()}
    ((which, about),) = axis.items()
    rising, free = (Space(about["student"], about["teacher"], ordered=ordered) for ordered in (True, False))
    wanted = rising.all() if which == "all" else (gene for gene in free.all() if not rising.holds(gene))
    return {written(gene): {about["key"]: list(gene)} for gene in wanted}


def written(gene: Any) -> str:
    """Return a mapping as it is called in results: 0-3-6."""
    return "-".join(map(str, gene))
