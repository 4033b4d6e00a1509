"""What a run will cost: sizes from the descriptions alone, times from a few real steps on random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AutoTokenizer

from bertcompress.compressors.distill.compressor import Distillation
from bertcompress.compressors.extract.compressor import ExtractThenDistill
from bertcompress.compressors.layer_mapping.compressor import LayerMappingSearch
from bertcompress.data.feature_cache import usable_cache
from bertcompress.data.features import featurize
from bertcompress.data.sources import resolve_model
from bertcompress.downstream.scores import check as check_downstream
from bertcompress.encoder.checkpoints import checkpoint_folder, read_config
from bertcompress.encoder.convert import default_pooler, spec_from_config
from bertcompress.encoder.network import build
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.evaluation.cost import estimate_cost
from bertcompress.model import head_for, spec_for
from bertcompress.pipeline.chain import check_objectives, objective_of
from bertcompress.pipeline.run import TEACHER
from bertcompress.training.estimate import estimate_forward_seconds, estimate_seconds
from bertcompress.training.settings import TrainingSettings

if TYPE_CHECKING:
    import numpy.typing as npt

    from bertcompress.compressors.fine_tune import FineTune
    from bertcompress.data.base import Task
    from bertcompress.downstream.settings import Downstream
    from bertcompress.pipeline.run import Run

MIB = 2**20
LIBRARIES_MIB = 600  # resident memory of torch and transformers before anything is loaded
FIXED_SECONDS = 2.0  # loading, tokenizing and saving of one step


@dataclass(frozen=True)
class PlannedStep:
    """A step before it is made.

    Attributes:
        name: of its folder.
        spec: of the model that will come out; its sizes are exact.
        seconds: estimate of the time on this machine.
        memory_mib: estimate of the peak memory while it is made.
        energy_kwh: estimate, under the assumptions of `bertcompress.evaluation.cost`.
    """

    name: str
    spec: EncoderSpec
    seconds: float
    memory_mib: float
    energy_kwh: float


def plan_run(run: Run) -> list[PlannedStep]:
    """Return every step of a run with its sizes, and estimates of what it will cost; trains nothing.

    Raises:
        ConfigError: a step cannot work on what the step before it gives.
    """
    found = resolve_model(run.teacher)
    source = checkpoint_folder(run.teacher if found is None else found)
    head = head_for(run.task, default_pooler(source))
    teacher = run.fine_tune.plan(spec_from_config(read_config(source), head), run.task)
    chain = run.pipeline.plan(teacher, run.task)
    check_objectives(run.pipeline.steps, [spec for _, spec in chain], teacher, run.task)
    run.check_exports(chain[-1][1] if chain else teacher)
    tokenizer = AutoTokenizer.from_pretrained(source)
    lengths = _Lengths(run.task, tokenizer)
    steps: list[tuple[str, Any, EncoderSpec]] = [(TEACHER, run.fine_tune, teacher)]
    steps += [(name, step, spec) for (name, step), (_, spec) in zip(run.pipeline.named_steps, chain, strict=True)]
    planned = [_planned(name, step, spec, teacher, lengths) for name, step, spec in steps]
    return planned + _fine_tunings(run, {name: spec for name, _, spec in steps}, tokenizer)


def _fine_tunings(run: Run, specs: Mapping[str, EncoderSpec], tokenizer: Any) -> list[PlannedStep]:
    """Return what it takes to judge models on other tasks, a step for each model and task."""
    if run.downstream is None:
        return []
    check_downstream(run.downstream, specs)
    found = []
    for task in run.downstream_tasks:
        lengths = _Lengths(task, tokenizer)
        for name in run.downstream.chosen_models(list(specs)):
            label = f"{name}: {task.name}, {run.downstream.fine_tunings()} times"
            found.append(_fine_tuning(label, run.downstream, spec_for(specs[name], task), lengths))
    return found


def _fine_tuning(label: str, settings: Downstream, spec: EncoderSpec, lengths: _Lengths) -> PlannedStep:
    """Estimate all fine-tunings of a model on a task; each choice of settings may turn out to be the best."""
    known: dict[FineTune, PlannedStep] = {}
    seconds, memory = [], 0.0
    split, _ = lengths.task.scoring_split()
    for point in settings.points():
        # The learning rate and its like cost nothing, so such choices are timed once.
        tuning = dataclasses.replace(settings.tuning(point, 0), learning_rate=1e-4, warmup=0.0, weight_decay=0.0)
        if tuning not in known:
            known[tuning] = _planned(label, tuning, spec, spec, lengths)
        scored = lengths.of(split, tuning.length_for(lengths.task.kind))
        seconds.append(known[tuning].seconds + estimate_forward_seconds(spec, scored, tuning))
        memory = max(memory, known[tuning].memory_mib)
    tried = sum(seconds) if len(seconds) > 1 else 0.0
    total = tried + len(settings.seeds) * sum(seconds) / len(seconds)
    return PlannedStep(label, spec, total, memory, estimate_cost(total).energy_kwh)


class _Lengths:
    """Tokens of every example of train and validation, cut to a step's length."""

    def __init__(self, task: Task, tokenizer: Any) -> None:
        self.task, self.tokenizer = task, tokenizer
        self.known: dict[tuple[str, int], npt.NDArray[np.int64]] = {}

    def of(self, split: str, max_length: int) -> npt.NDArray[np.int64]:
        """Return the lengths, (examples,); none where there is no such split."""
        data = self.task.splits.get(split)
        if data is None:
            return np.zeros(0, np.int64)
        if (split, max_length) not in self.known:
            kind = "embedding" if self.task.kind == "embedding" else None
            self.known[split, max_length] = featurize(
                data, self.tokenizer, max_length=max_length, kind=kind, cache=usable_cache()
            ).lengths
        return self.known[split, max_length]


def _planned(name: str, step: Any, spec: EncoderSpec, teacher: EncoderSpec, lengths: _Lengths) -> PlannedStep:
    seconds, memory = FIXED_SECONDS, LIBRARIES_MIB + spec.bytes() / MIB
    if isinstance(step, TrainingSettings) and step.epochs > 0:
        learns = isinstance(step, Distillation)
        objective = objective_of(step, spec, teacher, lengths.task) if learns else None
        max_length = step.length_for(lengths.task.kind)
        train = lengths.of("train", max_length)
        make = step.network_for if isinstance(step, Distillation) else build
        seconds += estimate_seconds(spec, teacher if learns else None, train, step, objective, make=make)
        validation = lengths.of("validation", max_length)
        if len(validation):
            scores = max(1, round(step.epochs * step.evaluations_per_epoch))
            seconds += scores * estimate_forward_seconds(spec, validation, step, make=make)
        memory += _training_mib(spec, step, int(train.max(initial=1))) + (teacher.bytes() / MIB if learns else 0)
    if isinstance(step, ExtractThenDistill) and step.measured_examples():
        seconds += _importance_seconds(teacher, step, lengths)
    if isinstance(step, LayerMappingSearch):
        seconds += _search_seconds(spec, teacher, step, lengths)
    return PlannedStep(name, spec, seconds, memory, estimate_cost(seconds).energy_kwh)


def _importance_seconds(spec: EncoderSpec, step: ExtractThenDistill, lengths: _Lengths) -> float:
    """Estimate the pass that measures importance: forward and, at twice the cost, backward, in fp32."""
    measured = lengths.of("train", step.length_for(lengths.task.kind))[: step.measured_examples()]
    return 3 * estimate_forward_seconds(spec, measured, dataclasses.replace(step, precision="fp32"))


def _search_seconds(spec: EncoderSpec, teacher: EncoderSpec, search: LayerMappingSearch, lengths: _Lengths) -> float:
    """Estimate a search by one process that finds as many new mappings as it can, at most those that there are.

    A mapping takes a distillation on a share of the texts, without the teacher, whose outputs are kept, and the
    fine-tuning on each of the tasks; what these read is taken to be as long as the texts.
    """
    task = lengths.task
    texts = lengths.of("train", search.length_for(task.kind))
    part = texts[: max(1, round(search.proxy_share * len(texts)))]
    objective = objective_of(search, spec, teacher, task)
    short = dataclasses.replace(search.training_settings(), epochs=search.proxy_epochs)
    each = estimate_seconds(spec, None, part, short, objective)
    for _ in search.fitness_tasks:
        tuning = dataclasses.replace(short, epochs=search.fitness_epochs)
        each += estimate_seconds(spec, None, texts[: search.fitness_examples], tuning, None)
    if not search.fitness_tasks:
        each += estimate_forward_seconds(spec, lengths.of("validation", search.length_for(task.kind)), search)
    fresh = search.population + (search.generations - 1) * (search.population - search.elites)
    space = search.space(spec, teacher).size()
    return each * (min(fresh, space) + search.finalists * search.finalist_seeds)


def _training_mib(spec: EncoderSpec, settings: TrainingSettings, length: int) -> float:
    """Estimate what training adds: gradients, two moments, the best weights so far, and activations kept for backward.

    Activations follow Korthikanti et al. 2022, equation 1, in 4 bytes where they count 2.
    """
    states = 4 * spec.parameters() * 4
    tokens = min(settings.max_tokens, settings.batch_size * length)
    heads = sum(getattr(each, "num_heads", 0) for layer in spec.layers for each in layer.operations)
    widths = sum(layer.hidden_size for layer in spec.layers)
    return (states + 2 * tokens * (34 * widths + 5 * heads * length)) / MIB
