"""What a mapping is worth: a short distillation on a part of the texts, then a score on a few tasks.

All mappings get the same student to begin with, the same examples in the same order and the same learning rates, so
that nothing but the mapping tells them apart. The teacher runs over the texts once, for all of them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertcompress.compressors.layer_mapping.genes import Gene, Space, contribution_gene
from bertcompress.data.base import Task
from bertcompress.data.batching import evaluation_batches
from bertcompress.data.feature_cache import usable_cache
from bertcompress.data.sampling import chosen, fewer_examples
from bertcompress.errors import TrainingError
from bertcompress.evaluation.judges import judge_for
from bertcompress.search.board import Outcome
from bertcompress.training.loop import train
from bertcompress.training.objectives import build_objective
from bertcompress.training.settings import TrainingSettings
from bertcompress.training.teacher import TeacherOutputs, evaluating, run_network

if TYPE_CHECKING:
    from bertcompress.compressors.layer_mapping.compressor import LayerMappingSearch
    from bertcompress.model import Model

logger = logging.getLogger(__name__)
CONTRIBUTION_ROWS = 256  # examples that tell how much each layer changes its input


class Proxy:
    """Evaluates mappings in the proxy setting of one search."""

    def __init__(
        self,
        search: LayerMappingSearch,
        model: Model,
        task: Task,
        teacher: Model,
        judges: Sequence[Task],
        folder: Path | None,
    ) -> None:
        """Prepare the texts; the teacher runs when the first mapping is evaluated.

        Args:
            search: its settings.
            model: what students are cut from.
            task: the texts to distil on.
            teacher: whom students learn from.
            judges: tasks to fine-tune and to score on; none scores the student on `task` as it is.
            folder: where the teacher's outputs are kept for other processes; None keeps them for this one only.
        """
        from bertcompress.compressors.fitting import check_teacher

        check_teacher(search.method, teacher, model, task)
        self.search, self.model, self.task, self.teacher = search, model, task, teacher
        self.judges = [fewer_examples(each, search.fitness_examples, search.seed) for each in judges]
        assert task.train is not None
        count = max(1, round(search.proxy_share * len(task.train)))
        length = min(search.length_for(task.kind), model.max_length)
        part = task.train.select(chosen(len(task.train), count, search.seed))
        self.features = model.featurize(part, max_length=length, cache=usable_cache())
        self._students: dict[int, Model] = {}
        objective = self._objective(model, None, search.seed)
        self.outputs = TeacherOutputs(
            teacher.network,
            self.features,
            needs=objective.needs,
            max_tokens=search.max_tokens,
            precision=search.precision,
            cache_mib=search.cache_mib,
            folder=folder,
            keep=not objective.needs_live_teacher,
            logits=objective.needs_teacher_logits,
        )

    def named(self, space: Space) -> dict[str, Gene]:
        """Return the mappings that people choose by hand, by name."""
        found = space.named()
        if space.num_student <= space.num_teacher:
            gene = contribution_gene(self._similarities(), space.num_student)
            if space.holds(gene):
                found["contribution"] = gene
        return found

    def _similarities(self) -> list[float]:
        """Return the mean cosine between what goes into each layer of the teacher and what comes out, over tokens."""
        rows = evaluation_batches(self.features.lengths[:CONTRIBUTION_ROWS], self.search.max_tokens)
        totals, tokens = np.zeros(self.teacher.spec.num_layers), 0
        network = self.teacher.network
        device = next(network.parameters()).device
        with evaluating(network), torch.inference_mode():
            for indices in rows:
                batch = {name: each.to(device) for name, each in self.features.collate(indices).items()}
                states = run_network(network, batch, ("hidden_states",), logits=False).hidden_states
                mask = batch["attention_mask"].bool()
                for layer, (before, behind) in enumerate(pairwise(states)):
                    totals[layer] += float(torch.cosine_similarity(before[mask], behind[mask], dim=-1).sum())
                tokens += int(mask.sum())
        return [float(total) / tokens for total in totals]

    def evaluate(self, gene: Gene, seed: int | None = None) -> Outcome:
        """Return the mean score over the tasks, in percent; minus infinity if the training fails.

        Args:
            gene: the mapping.
            seed: of the student, the order of examples and the fine-tuning; by default the search's.
        """
        seed = self.search.seed if seed is None else seed
        try:
            student = self._distilled(gene, seed)
            scores = self._scores(student, seed)
        except TrainingError as error:
            logger.warning("%s: mapping %s failed: %s", self.search.method, list(gene), error)
            return Outcome(float("-inf"), {"error": str(error)})
        return Outcome(100 * fmean(scores.values()), {"scores": scores})

    def _objective(self, student: Model, gene: Gene | None, seed: int) -> Any:
        from bertcompress.compressors.fitting import masking_for

        search = self.search
        weights = search.objective_weights(self.task.kind)
        learns = {**search.learns(), "mapping": None if gene is None else list(gene)}
        return build_objective(
            weights,
            student=student.spec,
            teacher=self.teacher.spec,
            kind=self.task.kind,
            seed=seed,
            masking=masking_for(search.method, student, seed) if "mlm" in weights else None,
            **learns,
        )

    def _distilled(self, gene: Gene, seed: int) -> Model:
        student = self._student(seed).copy()
        changes: dict[str, Any] = {"epochs": self.search.proxy_epochs, "seed": seed, "trackers": ()}
        settings = dataclasses.replace(self.search.training_settings(), **changes)
        objective = self._objective(student, gene, seed)
        name = f"{self.search.method} {list(gene)}"
        train(student.network, objective, self.features, settings, teacher=self.outputs, description=name)
        return student

    def _student(self, seed: int) -> Model:
        """Return the student to begin with, the same for every mapping."""
        if seed not in self._students:
            extract = self.search.extraction(seed)
            self._students[seed] = extract.compress(self.model, self.task, teacher=self.teacher)
        return self._students[seed]

    def _scores(self, student: Model, seed: int) -> dict[str, float]:
        if not self.judges:
            validation = self.task.validation
            assert validation is not None
            judge = judge_for(self.task, validation)
            return {self.task.name: judge.selection_score(student.predict(validation, cache=usable_cache()))}
        return {task.name: self._fine_tuned_score(student, task, seed) for task in self.judges}

    def _fine_tuned_score(self, student: Model, task: Task, seed: int) -> float:
        """Fine-tune on a task and return the last epoch's score: the best of several would favour the lucky."""
        from bertcompress.compressors.fitting import fit

        search = self.search
        tuning = TrainingSettings(
            epochs=search.fitness_epochs,
            learning_rate=search.fitness_learning_rate,
            batch_size=search.batch_size,
            precision=search.precision,
            seed=seed,
        )
        tuned, unscored = student.for_task(task, seed=seed), dataclasses.replace(task, validation=None)
        fit(search.method, tuned, unscored, tuning, weights={"hard": 1.0})
        assert task.validation is not None
        judge = judge_for(task, task.validation)
        return judge.selection_score(tuned.predict(task.validation, cache=usable_cache()))


def summary_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation's facts without what depends on the machine."""
    return {name: value for name, value in facts.items() if name not in ("worker", "seconds", "same_as")}
