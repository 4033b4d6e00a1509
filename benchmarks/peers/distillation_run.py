"""One distillation, of ours or of a peer: `python -m benchmarks.peers.distillation_run JOB RESULT`, in its own process.

All sides have the same student and teacher, the same examples, as many optimizer steps of as many examples, AdamW with
the same rate, warm-up, decay and clipping, and one objective: T^2 KL of the logits ("soft"), or that and the squared
error of each student layer's states ("hidden"). Where a peer has no way to say a thing, the table says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorWithPadding, get_linear_schedule_with_warmup

import bertcompress as bc
from benchmarks.peers import trainer as peer
from benchmarks.peers.training_run import subset
from bertcompress.compressors.held_out import HeldOutLoss
from bertcompress.data.feature_cache import usable_cache
from bertcompress.evaluation.hardware import load_average
from bertcompress.training.objectives import build_objective
from bertcompress.training.recipes import pairs_of
from bertcompress.training.settings import TrainingSettings
from bertcompress.training.teacher import TeacherOutputs

OBJECTIVES = {"soft": {"soft": 1.0}, "hidden": {"soft": 1.0, "hidden": 1.0}}
TEMPERATURE = 2.0
MAX_LENGTH = 128


@dataclass(frozen=True)
class Job:
    """What to distil.

    Attributes:
        side: of `SIDES`.
        objective: of `OBJECTIVES`.
        student: folder with the starting weights twice, `ours` and `peer`.
        teacher: the same of the teacher.
        task: a task's name or files.
        examples: how many of the training split.
        epochs: passes over these.
        seed: of data order and dropout.
    """

    side: str
    objective: str
    student: str
    teacher: str
    task: str
    examples: int
    epochs: int
    seed: int

    def settings(self) -> TrainingSettings:
        """Return what all sides have to obey."""
        return TrainingSettings(epochs=self.epochs, seed=self.seed, max_length=MAX_LENGTH)


class StepClock:
    """The time at the end of each optimizer step, whoever's loop takes it."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.ends: list[float] = []

    def __enter__(self) -> StepClock:
        self._hook = register_optimizer_step_post_hook(lambda *_: self.ends.append(time.perf_counter()))
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def measure(job: Job) -> dict[str, Any]:
    """Distil; return rates over all epochs and from the second on, and the objective on examples not learnt from."""
    task = bc.load_task(job.task)
    before = load_average()
    clock = StepClock()
    student = SIDES[job.side](job, subset(task, job.examples), clock)
    steps = math.ceil(job.examples / job.settings().batch_size)
    if len(clock.ends) != steps * job.epochs:
        raise RuntimeError(f"{job.side}: {len(clock.ends)} optimizer steps, expected {steps * job.epochs}.")
    whole = clock.ends[-1] - clock.began
    later = clock.ends[-1] - clock.ends[steps - 1]
    return {
        **dataclasses.asdict(job),
        "steps": len(clock.ends),
        "examples_per_second": job.examples * job.epochs / whole,
        "examples_per_second_from_second_epoch": job.examples * (job.epochs - 1) / later if job.epochs > 1 else None,
        "seconds": whole,
        "loss": final_loss(job, student, task),
        "load_before": before,
        "load_after": load_average(),
    }


def final_loss(job: Job, student: bc.Model, task: bc.Task) -> float:
    """Return the objective on the validation split; one code for all sides."""
    teacher = bc.Model.from_pretrained(f"{job.teacher}/ours", task=task)
    objective = build_objective(
        OBJECTIVES[job.objective], student=student.spec, teacher=teacher.spec, temperature=TEMPERATURE
    )
    assert task.validation is not None
    features = student.featurize(task.validation, max_length=MAX_LENGTH)
    settings = dataclasses.replace(job.settings(), precision="fp32")
    outputs = TeacherOutputs(teacher.network, features, needs=objective.needs, precision="fp32")
    return -HeldOutLoss(objective, features, outputs, settings)(student.network)


def _ours(job: Job, task: bc.Task, clock: StepClock) -> bc.Model:
    student = bc.Model.from_pretrained(f"{job.student}/ours", task=task)
    teacher = bc.Model.from_pretrained(f"{job.teacher}/ours", task=task)
    settings = dataclasses.asdict(job.settings())
    method = bc.Distill(**settings, objective=OBJECTIVES[job.objective], temperature=TEMPERATURE)
    student.featurize(task.train, max_length=MAX_LENGTH, cache=usable_cache())  # the others tokenize beforehand as well
    with clock:
        return method.compress(student, task, teacher=teacher)


def _trainer(job: Job, task: bc.Task, clock: StepClock) -> bc.Model:
    student, teacher, tokenizer = _networks(job)
    pairs = pairs_of("hidden", None, student.config.num_hidden_layers, teacher.config.num_hidden_layers)
    with tempfile.TemporaryDirectory() as folder:
        training = peer.DistillationTrainer(
            model=student,
            args=peer.arguments(job.settings(), Path(folder)),
            train_dataset=peer.tokenized(task.train, tokenizer, MAX_LENGTH),
            processing_class=tokenizer,
            teacher=teacher,
            temperature=TEMPERATURE,
            pairs=pairs if job.objective == "hidden" else (),
        )
        with clock:
            training.train()
    return _as_ours(student, tokenizer, task)


def _textbrewer(job: Job, task: bc.Task, clock: StepClock, *, caching: bool = False) -> bc.Model:
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    settings = job.settings()
    student, teacher, tokenizer = _networks(job)
    student.config.output_hidden_states = teacher.config.output_hidden_states = job.objective == "hidden"
    matches = []
    if job.objective == "hidden":
        depths = (student.config.num_hidden_layers, teacher.config.num_hidden_layers)
        matches = [
            {"layer_T": t, "layer_S": s, "feature": "hidden", "loss": "hidden_mse", "weight": 1.0}
            for s, t in pairs_of("hidden", None, *depths)
        ]
    data = peer.tokenized(task.train, tokenizer, MAX_LENGTH)
    data = data.select_columns([name for name in tokenizer.model_input_names if name in data.column_names])
    torch.manual_seed(job.seed)
    collator = DataCollatorWithPadding(tokenizer)
    loader = DataLoader(data, settings.batch_size, shuffle=True, collate_fn=lambda rows: dict(collator(rows)))
    total = len(loader) * job.epochs

    def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
        found = {"logits": (outputs.logits,), "inputs_mask": batch["attention_mask"]}
        return found | ({"hidden": outputs.hidden_states} if matches else {})

    with tempfile.TemporaryDirectory() as folder:
        distiller = GeneralDistiller(
            train_config=TrainingConfig(device="cpu", output_dir=folder, log_dir=None, ckpt_epoch_frequency=job.epochs),
            distill_config=DistillationConfig(
                temperature=TEMPERATURE,
                kd_loss_type="ce",
                kd_loss_weight=TEMPERATURE**2,
                hard_label_weight=0.0,
                intermediate_matches=matches,
                is_caching_logits=caching,
            ),
            model_T=teacher,
            model_S=student,
            adaptor_T=adaptor,
            adaptor_S=adaptor,
        )
        with distiller, clock:
            distiller.train(
                _adamw(student, settings),
                loader,
                num_epochs=job.epochs,
                scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": math.ceil(settings.warmup * total), "num_training_steps": total},
                max_grad_norm=settings.max_grad_norm,
            )
    return _as_ours(student, tokenizer, task)


def _textbrewer_caching(job: Job, task: bc.Task, clock: StepClock) -> bc.Model:
    return _textbrewer(job, task, clock, caching=True)


def _silverspoon(job: Job, task: bc.Task, clock: StepClock) -> bc.Model:
    from silverspoon_kd import HolisticDistiller, ResponseBasedDistiller, TrainingArguments, create_alignments
    from silverspoon_kd.losses import kl_divergence_loss

    student, teacher, tokenizer = _networks(job)
    soft = kl_divergence_loss(temperature=TEMPERATURE)
    data = peer.tokenized(task.train, tokenizer, MAX_LENGTH)
    data = data.select_columns([name for name in tokenizer.model_input_names if name in data.column_names])
    with tempfile.TemporaryDirectory() as folder:
        common = peer.arguments(job.settings(), Path(folder))
        same = ("per_device_train_batch_size", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps")
        same += ("weight_decay", "max_grad_norm", "seed", "disable_tqdm", "output_dir")
        options: dict[str, Any] = {name: getattr(common, name) for name in same}
        options |= {"save_strategy": "no", "remove_unused_columns": False}
        shared = {
            "train_dataset": data,
            "data_collator": DataCollatorWithPadding(tokenizer),
            "args": TrainingArguments(**options),
        }
        if job.objective == "soft":
            distiller = ResponseBasedDistiller(
                student_model=student, teacher_model=teacher, soft_loss_fn=soft, **shared
            )
        else:
            depths = (student.config.num_hidden_layers, teacher.config.num_hidden_layers)
            layers = {
                rf"bert\.encoder\.layer\.{t - 1}": f"bert.encoder.layer.{s - 1}"
                for s, t in pairs_of("hidden", None, *depths)
            }
            alignments = create_alignments(teacher, student, layers, "mse", output_selector_index=0)
            alignments += create_alignments(teacher, student, {"classifier": "classifier"}, loss_function=soft)
            distiller = HolisticDistiller(student_model=student, teacher_model=teacher, alignments=alignments, **shared)
        with clock:
            distiller.train()
    return _as_ours(student, tokenizer, task)


SIDES: dict[str, Callable[[Job, bc.Task, StepClock], bc.Model]] = {
    "ours": _ours,
    "trainer": _trainer,
    "textbrewer": _textbrewer,
    "textbrewer_caching": _textbrewer_caching,
    "silverspoon": _silverspoon,
}


def _networks(job: Job) -> tuple[Any, Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(f"{job.student}/peer")
    return peer.load(f"{job.student}/peer").train(), peer.load(f"{job.teacher}/peer").eval(), tokenizer


def _adamw(network: torch.nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """Return AdamW that decays what `Trainer` decays: no bias and no norm."""
    bare = ("bias", "LayerNorm.weight")
    named = list(network.named_parameters())
    groups = [
        {"params": [p for name, p in named if not name.endswith(bare)], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in named if name.endswith(bare)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _as_ours(student: Any, tokenizer: Any, task: bc.Task) -> bc.Model:
    with tempfile.TemporaryDirectory() as folder:
        student.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return bc.Model.from_pretrained(folder, task=task)


def main(arguments: list[str]) -> None:
    """Read a job, do it, write the result."""
    job, result = arguments
    Path(result).write_text(json.dumps(measure(Job(**json.loads(job)))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
