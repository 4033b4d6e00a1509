"""What a suite is: the runs of every task, the seeds, and which teacher starts from which; imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertcompress.config.run_config import RunConfig
from bertcompress.config.values import fields_of, hint_for
from bertcompress.errors import ConfigError, allowed


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """Several tasks times several seeds of one recipe.

    Attributes:
        name: the suite's name; the file's stem if left out.
        tasks: the run of every task, by the name of its folder; in YAML a list of tasks, or a mapping from tasks to
            what they change in the recipe.
        seeds: one run of every task for each.
        start_from: task -> task whose fine-tuned teacher of the same seed its own teacher starts from, in place of
            `teacher.model`; the output layer is drawn anew where the classes differ.
        skip_missing: leave out tasks whose data are absent or partial here, instead of refusing the suite.
        allow_partial: run tasks whose data are partial here, and say so in the table.
        wnli_in_average: count WNLI in the GLUE average, which it is usually left out of.
        output: the suite's folder, relative to where the command runs; `runs/<file's stem>` if left out.
    """

    name: str
    tasks: Mapping[str, RunConfig]
    seeds: tuple[int, ...] = (0,)
    start_from: Mapping[str, str] = field(default_factory=dict)
    skip_missing: bool = False
    allow_partial: bool = False
    wnli_in_average: bool = False
    output: str | None = None

    def run_of(self, task: str, seed: int, teacher: Path | None = None) -> RunConfig:
        """Return the configuration of one run, as a run's own file with `seed:` would give it.

        Args:
            task: a name of `tasks`.
            seed: of every step.
            teacher: the folder that the teacher starts from; the recipe's model if left out.
        """
        config = self.tasks[task]
        model = config.teacher.model if teacher is None else str(teacher)
        return dataclasses.replace(
            config,
            name=f"{self.name}: {task}, seed {seed}",
            teacher=dataclasses.replace(
                config.teacher, model=model, fine_tune=_with_seed(config.teacher.fine_tune, seed)
            ),
            compress=tuple(_with_seed(step, seed) for step in config.compress),
            seed=seed,
            output=None,
        )

    def order(self, only: Sequence[str] = ()) -> list[str]:
        """Return the tasks in the order that they are run in: as listed, but after those they start from.

        Args:
            only: names of tasks; what they start from is added. All tasks if left out.

        Raises:
            ConfigError: a name is none of the suite's.
        """
        for name in only:
            if name not in self.tasks:
                raise ConfigError(
                    f"--only: got {name!r}{hint_for(name, self.tasks) or ','} allowed are {allowed(self.tasks)}."
                )
        ordered: dict[str, None] = {}
        for name in self.tasks:
            if not only or name in only:
                ordered |= dict.fromkeys([*reversed(chain_of(self.start_from, name)), name])
        return list(ordered)


def chain_of(start_from: Mapping[str, str], task: str) -> list[str]:
    """Return what a task starts from, what that starts from, and so on; a circle ends where it closes."""
    chain: list[str] = []
    while task in start_from and start_from[task] not in chain:
        task = start_from[task]
        chain.append(task)
    return chain


def only_of(options: Iterable[str]) -> list[str]:
    """Return the tasks in `--only` options, each of which may hold several with commas between them."""
    return [name.strip() for option in options for name in option.split(",") if name.strip()]


def _with_seed(step: Any, seed: int) -> Any:
    return dataclasses.replace(step, seed=seed) if "seed" in fields_of(type(step)) else step
