"""What models are fine-tuned on and how; imports no torch, as a run's file is checked with it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertcompress.compressors.fine_tune.compressor import FineTune
from bertcompress.errors import ConfigError, allowed

SEEDED = ("seed", "trackers")  # of FineTune, not to be set here, where there are seeds


@dataclass(frozen=True, kw_only=True)
class Downstream:
    """Fine-tune models on tasks that they were not made for, and score them: how a task-agnostic student is judged.

    With a grid, each of its settings is tried once, with a seed that is used for nothing else, and the best on
    validation is then trained with every seed: the luck of the seed that was tried does not end up in the scores.

    Attributes:
        tasks: names, folders or files of tasks, or the mappings that a task file would contain.
        models: "all" (the teacher and what came out of each step), "last", or names of steps such as "0-teacher".
        grid: settings of the fine-tuning to try all values of, by name: {learning_rate: [5e-5, 1e-4]}.
        seeds: of the fine-tunings whose scores are reported.
        max_examples: training examples of each task, at most; drawn once for all models and seeds. None takes all.
        fine_tune: the other settings of the fine-tuning; in YAML they stand beside these.
    """

    tasks: Sequence[str | Mapping[str, Any]]
    models: str | Sequence[str] = "all"
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: Sequence[int] = (0, 1, 2)
    max_examples: int | None = None
    fine_tune: FineTune = field(default_factory=FineTune)

    def __post_init__(self) -> None:
        """Refuse what can never work."""
        if isinstance(self.tasks, str) or not self.tasks:
            raise ConfigError(
                f"Downstream.tasks: got {self.tasks!r}, allowed is a list of tasks such as ['sst2', 'mrpc']."
            )
        if isinstance(self.models, str) and self.models not in ("all", "last"):
            raise ConfigError(
                f"Downstream.models: got {self.models!r}, allowed are 'all', 'last', or a list of steps' names."
            )
        if not self.models:
            raise ConfigError("Downstream.models: got none, allowed are 'all', 'last', or steps' names.")
        self._check_seeds()
        if self.max_examples is not None and self.max_examples < 1:
            raise ConfigError(
                f"Downstream.max_examples: got {self.max_examples}, allowed is a whole number from 1, or null."
            )
        if self.fine_tune.epochs == 0:
            raise ConfigError("Downstream.epochs: got 0, allowed is a number above 0: models are fine-tuned here.")
        for name, values in self.grid.items():
            self._check_values(name, values)
        self.points()

    def _check_seeds(self) -> None:
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in self.seeds)
        if not self.seeds or not whole or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(
                f"Downstream.seeds: got {list(self.seeds)}, allowed are different whole numbers from 0 to {2**32 - 1}."
            )

    def _check_values(self, name: str, values: Any) -> None:
        names = [each.name for each in dataclasses.fields(FineTune) if each.name not in SEEDED]
        if name not in names:
            raise ConfigError(f"Downstream.grid.{name}: got {name!r}, allowed are {allowed(names)}.")
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"Downstream.grid.{name}: got {values!r}, allowed is a list of values to try.")

    def points(self) -> list[dict[str, Any]]:
        """Return the settings to try, each a choice of one value for every name of the grid.

        Raises:
            ConfigError: the fine-tuning cannot work with one of them.
        """
        found = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        for point in found:
            try:
                self.tuning(point, 0)
            except ConfigError as error:
                raise ConfigError(f"Downstream.grid: {str(error).removeprefix('FineTune.')}") from error
        return found

    def tuning(self, point: Mapping[str, Any], seed: int) -> FineTune:
        """Return the fine-tuning with one choice of settings."""
        return dataclasses.replace(self.fine_tune, **{**point, "seed": seed, "trackers": ()})

    @property
    def choosing_seed(self) -> int:
        """The seed that the grid is tried with: the smallest that is none of `seeds`."""
        return next(seed for seed in itertools.count() if seed not in self.seeds)

    def fine_tunings(self) -> int:
        """Return how many fine-tunings each model takes on each task."""
        tried = len(self.points())
        return (tried if tried > 1 else 0) + len(self.seeds)

    def chosen_models(self, names: Sequence[str]) -> list[str]:
        """Return which of a run's models are fine-tuned.

        Args:
            names: of all of them, the teacher first.

        Raises:
            ConfigError: a name is none of theirs.
        """
        if isinstance(self.models, str):
            return list(names) if self.models == "all" else [names[-1]]
        for name in self.models:
            if name not in names:
                raise ConfigError(f"downstream.models: got {name!r}, allowed are {allowed(names)}.")
        return [name for name in names if name in self.models]
