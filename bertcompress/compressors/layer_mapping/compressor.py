"""Layer-mapping search: which layer of the teacher should teach which layer of the student?"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from bertcompress.compressors.base import Context, require_task, settings_of
from bertcompress.compressors.extract.compressor import ExtractThenDistill
from bertcompress.compressors.layer_mapping.genes import Gene, Space
from bertcompress.compressors.layer_mapping.genetic import GeneticSettings
from bertcompress.errors import ConfigError, TrainingError
from bertcompress.training.recipes import TERMS

if TYPE_CHECKING:
    from bertcompress.compressors.layer_mapping.proxy import Proxy
    from bertcompress.compressors.layer_mapping.search import Candidate
    from bertcompress.data.base import Task
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.model import Model

logger = logging.getLogger(__name__)
# Settings that a mapping's fitness does not depend on: a search that is done stays done when they change.
_LATER = (
    "epochs",
    "patience",
    "evaluations_per_epoch",
    "trackers",
    "storage",
    "finalists",
    "finalist_seeds",
)
_SHOWN = 50  # candidates in the facts, the best ones


@dataclass(frozen=True, kw_only=True)
class LayerMappingSearch(ExtractThenDistill, GeneticSettings):
    """Search the layer mapping by a genetic algorithm in a cheap proxy setting, then distil with the best one.

    Jiao et al. 2020 (arXiv 2012.06153): a mapping is judged by a student that was distilled with it on a part of the
    corpus and fine-tuned on three tasks. The paper's own constants, its three tasks and its operators could not be
    verified; the defaults here are ours. A mapping gives each student layer a teacher layer, or none (0).

    Attributes:
        ordered: only mappings whose teacher layers rise.
        seeded: the first generation begins with the mappings that people choose by hand; they are then baselines too.
        proxy_share: share of the training examples that a mapping is judged on.
        proxy_epochs: passes over them.
        fitness_tasks: names of tasks that the student of a mapping is fine-tuned and scored on; the paper has three.
            None scores the student on the validation split of the task that it is distilled on, as it is.
        fitness_examples: training examples of each of these tasks, at most.
        fitness_epochs: passes over them.
        fitness_learning_rate: of the fine-tuning.
        finalists: best mappings that are evaluated again with fresh seeds before one is chosen: the best of many noisy
            scores is better than its mapping.
        finalist_seeds: fresh seeds for each of them.
        storage: address of a data base that processes on several machines share (`postgresql://...`); by default an
            SQLite file in the run's folder, for any number of processes on one machine.
        cache_mib: MiB of disk that the teacher's outputs on the proxy's texts may take; above it, it runs again for
            every mapping.
    """

    method: ClassVar[str] = "layer_mapping_search"

    ordered: bool = False
    seeded: bool = True
    proxy_share: float = 0.1
    proxy_epochs: float = 1.0
    fitness_tasks: Sequence[str] = ()
    fitness_examples: int = 2000
    fitness_epochs: float = 2.0
    fitness_learning_rate: float = 1e-4
    finalists: int = 5
    finalist_seeds: int = 2
    storage: str | None = None
    cache_mib: float = 4096.0

    def __post_init__(self) -> None:
        """Refuse impossible settings, and a mapping that is given already."""
        ExtractThenDistill.__post_init__(self)
        GeneticSettings.__post_init__(self)
        if isinstance(self.fitness_tasks, str):
            raise self._refuse("fitness_tasks", f"is a list of names, such as [{self.fitness_tasks!r}]")
        object.__setattr__(self, "fitness_tasks", tuple(self.fitness_tasks))
        if self.mapping is not None:
            raise self._refuse("mapping", "is nothing: it is what is searched; to train with one, use 'distill'")
        self._check_number("proxy_share", minimum=0.0, maximum=1.0, above=True)
        for name in ("proxy_epochs", "fitness_epochs", "fitness_learning_rate"):
            self._check_number(name, minimum=0.0, above=True)
        for name in ("fitness_examples", "finalists", "finalist_seeds"):
            self._check_count(name, 1)
        self._check_number("cache_mib", minimum=0.0)

    @property
    def trains(self) -> bool:
        """Whether anything is trained: every mapping's student, also where nothing is distilled in the end."""
        return True

    def plan(self, spec: EncoderSpec, task: Task | None, *, teacher: EncoderSpec | None = None) -> EncoderSpec:
        """Return the student's spec.

        Raises:
            ConfigError: a size is above the model's, the objective has no term that a mapping is for, or there is
                nothing to judge a mapping by.
        """
        student = super().plan(spec, task, teacher=teacher)
        weights = self.objective_weights("classification" if task is None else task.kind)
        if not any(TERMS[name] is not None for name in weights):
            raise ConfigError(
                f"{self.method}.objective: got {sorted(weights)}, of which no term compares layers, so all mappings "
                "are alike; allowed are such as 'hidden', 'attention', 'tinybert'."
            )
        if task is not None and not self.fitness_tasks and (task.validation is None or not task.metric):
            raise ConfigError(
                f"{self.method}.fitness_tasks: got none, and task {task.name} ({task.kind}) has nothing that a student "
                "could be scored on; name tasks, such as [sst2, mrpc, stsb]."
            )
        return student

    def check_needs(self) -> None:
        """Load the tasks that mappings are judged by, to see that they are there."""
        self.judges()

    def judges(self) -> list[Task]:
        """Load the tasks that mappings are judged by.

        Raises:
            ConfigError: a task is unknown, or lacks what fine-tuning and scoring need.
            DataError: its data are missing.
        """
        from bertcompress.data.tasks import load_task

        tasks = [load_task(name) for name in self.fitness_tasks]
        for task in tasks:
            if task.train is None or task.validation is None or not task.metric:
                raise ConfigError(
                    f"{self.method}.fitness_tasks: task {task.name} lacks a train split, a validation split or labels; "
                    "name tasks that have all of them."
                )
        return tasks

    def space(self, student: EncoderSpec, teacher: EncoderSpec) -> Space:
        """Return all mappings between two networks."""
        return Space(student.num_layers, teacher.num_layers, self.ordered)

    def extraction(self, seed: int, **changes: Any) -> ExtractThenDistill:
        """Return what makes the student that all mappings begin with; `changes` may give it a mapping and epochs."""
        names = [field.name for field in dataclasses.fields(ExtractThenDistill)]
        return ExtractThenDistill(
            **{**{name: getattr(self, name) for name in names}, "epochs": 0, "seed": seed, **changes}
        )

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Search, then return the student distilled with the best mapping; with `epochs=0`, the search only.

        Raises:
            ConfigError: sizes or objective cannot work, or there is nothing to judge by.
            TrainingError: no mapping could be trained.
        """
        from bertcompress.model import Step

        source, context = teacher or model, context or Context()
        facts = self._search(model, task, source, context)
        final = self.extraction(self.seed, mapping=facts["mapping"], epochs=self.epochs)
        student = final.compress(model, task, teacher=source, context=context)
        last = student.history[-1]
        step = Step(self.method, settings_of(self), last.curves, {**last.facts, **facts}, last.measured)
        student.history = (*student.history[:-1], step)
        return student

    def work(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> None:
        """Help a search that another process has begun, until it is over; take the same arguments as `compress`."""
        self._search(model, task, teacher or model, context or Context())

    def _search(self, model: Model, task: Task | None, teacher: Model, context: Context) -> dict[str, Any]:
        """Search, alone or with others, and return what was found."""
        from bertcompress.compressors.layer_mapping.proxy import Proxy
        from bertcompress.compressors.layer_mapping.sampler import GeneticSampler
        from bertcompress.compressors.layer_mapping.search import GeneticSearch
        from bertcompress.search.studies import open_storage, open_study, reached
        from bertcompress.training.processes import process_state

        student = self.plan(model.spec, task, teacher=teacher.spec)
        task = require_task(self.method, task)
        judges = self.judges()
        together = process_state().num_processes
        if together > 1:
            raise ConfigError(
                f"{self.method}: got {together} processes of one training, which wait for each other; start one, "
                "and 'bertcompress worker' for each other one: they share the search."
            )
        folder: Path | None = context.folder
        proxy = Proxy(self, model, task, teacher, judges, None if folder is None else folder / "teacher")
        space = self.space(student, teacher.spec)
        named = proxy.named(space)
        sampler = GeneticSampler(space, self, self.seed, list(named.values()) if self.seeded else ())
        storage = open_storage(self.storage, folder)
        name = f"layer-mapping-{self._fingerprint(model, teacher, task, judges)}"
        label = context.label or self.method
        with reached(self.method):
            found = GeneticSearch(open_study(storage, name, sampler), sampler, proxy.evaluate, label).run()
            if not math.isfinite(found.candidates[0].fitness):
                raise TrainingError(f"{self.method}: no mapping could be trained; lower the learning rate.")
            finals = self._finals(storage, name, found.candidates, proxy, label)
        return _facts(self, space, named, found, finals)

    def _finals(
        self, storage: Any, name: str, candidates: Sequence[Candidate], proxy: Proxy, label: str
    ) -> list[dict[str, Any]]:
        """Evaluate the best mappings again with seeds that the search has not seen; best first."""
        import optuna

        from bertcompress.compressors.layer_mapping.search import Repetition
        from bertcompress.search.studies import open_study

        best = candidates[: self.finalists]
        seeds = [self.seed + 1000 * number for number in range(1, self.finalist_seeds + 1)]
        items = [(each.gene, seed) for each in best for seed in seeds]
        study = open_study(storage, f"{name}-finals-{len(best)}-{len(seeds)}", optuna.samplers.RandomSampler(seed=0))
        values = [value for value, _ in Repetition(study, items, proxy.evaluate, label).run()]
        finals: list[tuple[float, Candidate, list[float]]] = []
        for place, each in enumerate(best):
            own = values[place * len(seeds) : (place + 1) * len(seeds)]
            finals.append((fmean(own), each, own))
        finals.sort(key=lambda final: (-final[0], final[1].gene))
        if not math.isfinite(finals[0][0]):
            raise TrainingError(f"{self.method}: no finalist could be trained with all seeds; lower the learning rate.")
        return [
            {
                "mapping": list(each.gene),
                "searched": _finite(each.fitness),
                "fitness": _finite(mean),
                "values": [_finite(value) for value in own],
            }
            for mean, each, own in finals
        ]

    def _fingerprint(self, model: Model, teacher: Model, task: Task, judges: Sequence[Task]) -> str:
        """Return a digest of all that a mapping's fitness depends on, and of how mappings are chosen."""
        from bertcompress.training.checkpoint import digest

        settings = {name: value for name, value in settings_of(self).items() if name not in _LATER}
        tasks = [each.fingerprint() for each in (task, *judges)]
        return digest(settings, tasks, model.network, teacher.network)[:16]


def _finite(value: float) -> float | None:
    """Return None for what JSON has no number for: the fitness of a mapping whose training failed."""
    return value if math.isfinite(value) else None


def _facts(
    settings: LayerMappingSearch, space: Space, named: dict[str, Gene], found: Any, finals: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what is kept of a search, in JSON types."""
    from bertcompress.compressors.layer_mapping.proxy import summary_of

    ranks = {each.gene: place for place, each in enumerate(found.candidates, start=1)}
    fitness = {each.gene: _finite(each.fitness) for each in found.candidates}
    baselines = {
        name: {"mapping": list(gene), "fitness": fitness.get(gene), "rank": ranks.get(gene)}
        for name, gene in named.items()
    }
    candidates = [
        {
            "mapping": list(each.gene),
            "fitness": _finite(each.fitness),
            "generation": each.generation,
            **summary_of(each.facts),
        }
        for each in found.candidates[:_SHOWN]
    ]
    return {
        "mapping": finals[0]["mapping"],
        "search": {
            "student_layers": space.num_student,
            "teacher_layers": space.num_teacher,
            "mappings": space.size(),
            "evaluated": len(found.candidates),
            "population": len(found.generations[0]),
            "generations": [[_finite(value) for value in each] for each in found.generations],
            "fitness_tasks": list(settings.fitness_tasks),
            "baselines": baselines,
            "candidates": candidates,
            "finalists": finals,
        },
    }
