"""One training under way: its step, its scores, its checkpoints and where it stands."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate.utils import broadcast
from torch import Tensor, nn

from bertcompress.encoder.chain import ChainModel
from bertcompress.errors import TrainingError
from bertcompress.training.checkpoint import (
    Checkpoints,
    copy_into,
    digest,
    optimizer_tensors,
    restore_optimizer,
    tensors_of,
)
from bertcompress.training.gradients import Gradients, sparse_table
from bertcompress.training.objectives import Objective
from bertcompress.training.optimizers import build_optimizer, learning_rate, set_learning_rate
from bertcompress.training.plan import Indices, StepPlan
from bertcompress.training.precision import autocast, resolve_precision
from bertcompress.training.processes import accelerator
from bertcompress.training.randomness import seed_everything
from bertcompress.training.settings import TrainingSettings
from bertcompress.training.teacher import TeacherOutputs, run_network
from bertcompress.training.tracking import Trackers

if TYPE_CHECKING:
    from bertcompress.data.features import Features

logger = logging.getLogger(__name__)
Score = Callable[[nn.Module], float]
CURVE_POINTS = 200
WATCHED_STEPS = 16  # steps whose losses a GPU may owe us; waiting for each would leave it idle


@runtime_checkable
class Settling(Protocol):
    """A module that remembers the extremes of what passes in a step, and draws its conclusions at the step's end."""

    extremes: Tensor

    def settle(self) -> None:
        """Take in the extremes, which are those of all micro-batches and processes."""


@dataclass
class State:
    """Where a training stands: what a checkpoint holds beside tensors; JSON types only."""

    step: int = 0
    examples: int = 0
    seconds: float = 0.0
    best_score: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    stopped: bool = False
    loss_sum: float = 0.0
    loss_steps: int = 0
    curves: dict[str, list[list[float]]] = field(default_factory=lambda: {"loss": [], "learning_rate": []})


class Session:
    """One training of one network: what `train` drives."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        features: Features,
        settings: TrainingSettings,
        teacher: TeacherOutputs | None,
        score: Score | None,
        description: str,
        factors: Mapping[str, float] | None = None,
        origin: str | None = None,
    ) -> None:
        """Move the network and the objective to the training's device and build the optimizer."""
        self.network, self.objective, self.features = network, objective, features
        self.factors, self.origin = dict(factors or {}), origin
        self.settings, self.name, self.score = settings, description or "training", score
        self.teacher = teacher if objective.needs_teacher else None
        self.accelerator = accelerator()
        self.device = self.accelerator.device
        self.precision = resolve_precision(settings.precision, self.device.type)
        self.plan = StepPlan(features.lengths, settings)
        self.state = State()
        self.best: dict[str, Tensor] = {}
        self._home = next(network.parameters()).device
        self._packed = self._skip_pads()
        network.to(self.device)
        objective.to(self.device)
        self.parameters = {
            f"{owner}.{name}": parameter
            for owner, module in (("network", network), ("objective", objective))
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.optimizer = build_optimizer(self.parameters, settings, factors)
        table = sparse_table(network, self.device)
        self.gradients = Gradients(self.parameters, table, self.accelerator, settings.max_grad_norm)
        self.watched: list[tuple[int, Tensor, Sequence[Indices]]] = []
        self._settling = [part for part in network.modules() if isinstance(part, Settling)]

    def finish(self) -> None:
        """Look at the last losses, and put the best weights back if later ones are no better."""
        self.look()
        if self.best and self.state.best_step != self.state.step:
            copy_into(self.network, self.best)

    def _skip_pads(self) -> list[ChainModel]:
        """Let student and teacher compute little more than the real tokens; return those who did not before."""
        if self.device.type != "cpu" or self.objective.needs_pads:
            return []
        networks = [self.network] if self.teacher is None else [self.network, self.teacher.network]
        found = [part for network in networks for part in network.modules() if isinstance(part, ChainModel)]
        changed = [part for part in found if not part.skip_pads]
        for part in changed:
            part.skip_pads = True
        return changed

    def close(self) -> None:
        """Give everything back that was borrowed from the network."""
        for part in self._packed:
            part.skip_pads = False
        self.gradients.release()
        self.network.to(self._home)
        self.network.eval()

    def resume(self, folder: Path) -> Checkpoints:
        """Take up this training's newest checkpoint, if there is one; return where to write the next."""
        saver = Checkpoints(folder, self._fingerprint())
        found = saver.load()
        if found is not None:
            parts, state = found
            copy_into(self.network, parts["network"])
            copy_into(self.objective, parts.get("objective", {}))
            restore_optimizer(self.optimizer, self.parameters, parts.get("optimizer", {}))
            self.best, self.state = parts.get("best", {}), State(**state["training"])
            logger.info("%s: continues from the checkpoint after step %d", self.name, self.state.step)
        return saver

    def save(self, saver: Checkpoints) -> None:
        """Write a checkpoint."""
        self.look()  # a broken state is never kept
        saver.save(self.state.step, self._parts(), {"training": dataclasses.asdict(self.state)})

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        optimizer = optimizer_tensors(self.optimizer, self.parameters)
        own = {"network": tensors_of(self.network), "objective": tensors_of(self.objective)}
        return {**own, "optimizer": optimizer, "best": self.best}

    def _fingerprint(self) -> str:
        """Return a digest of all that the training's end depends on, save the number of processes and threads."""
        config = getattr(self.network, "config", None)
        facts = {
            "settings": {**dataclasses.asdict(self.settings.training_settings()), "trackers": None},
            "features": self.features.fingerprint(),
            "teacher": None if self.teacher is None else self.teacher.fingerprint(),
            "objective": self.objective.describe(),
            "scored": self.score is not None,
            "arithmetic": [self.precision, self.device.type],
            "architecture": type(self.network).__name__ if config is None else config.to_dict(),
        }
        if self.factors:
            facts["factors"] = self.factors
        return digest(facts, self.network if self.origin is None else self.origin, self.objective)

    def step(self) -> tuple[float, int]:
        """Do one optimizer step; return the last loss that is known and the number of examples."""
        state, step = self.state, self.state.step
        groups = self.plan.groups(step)
        everything = np.concatenate(groups)
        counts = self.features.counts(everything)
        masking = self.objective.masking
        if masking is not None:
            counts["masked"] = masking.count(self.features, everything)
        rows = touched_rows(self.features, everything).to(self.device)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        seed_everything(self.settings.seed, step, rank)
        self.network.train()
        self.objective.train()
        loss = torch.zeros((), device=self.device)
        for indices in self.plan.micro_batches(groups, rank, processes):
            loss += self._backward(indices, counts)
        measured = self.gradients.finish(loss, rows)
        set_learning_rate(self.optimizer, learning_rate(step, self.plan.total, self.settings))
        self.optimizer.step()
        self._settle()
        self.gradients.clear(rows)
        state.step += 1
        state.examples += len(everything)
        self.watched.append((state.step, measured, groups))
        if self.device.type == "cpu" or len(self.watched) >= WATCHED_STEPS:
            self.look()
        return state.loss_sum / max(1, state.loss_steps), len(everything)

    def _settle(self) -> None:
        """Let modules that watch what passes through them take in a whole step, of all processes."""
        if self._settling and self.accelerator.num_processes > 1:
            seen = torch.stack([part.extremes for part in self._settling])
            torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
            for part, extremes in zip(self._settling, seen, strict=True):
                part.extremes.copy_(extremes)
        for part in self._settling:
            part.settle()

    def _backward(self, indices: Indices, counts: dict[str, int]) -> Tensor:
        collated, masking = self.features.collate(indices), self.objective.masking
        if masking is not None:
            masking.apply(collated, self.features, indices, self.state.step)
        batch = {name: tensor.to(self.device) for name, tensor in collated.items()}
        taught = None if self.teacher is None else self.teacher.batch(indices, batch)
        with autocast(self.precision, self.device):
            needs = sorted(self.objective.needs)
            output = run_network(self.network, batch, needs, logits=self.objective.needs_logits)
            loss: Tensor = self.objective(output, taught, batch, counts)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def look(self) -> None:
        """Read the losses of the steps since the last look.

        Raises:
            TrainingError: one of them, or its gradient's norm, is not finite.
        """
        for step, measured, groups in self.watched:
            loss, norm = measured.tolist()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise TrainingError(self._not_finite(step, loss, norm, np.concatenate(groups)))
            self.state.loss_sum += loss
            self.state.loss_steps += 1
        self.watched.clear()

    def _not_finite(self, step: int, loss: float, norm: float, indices: Indices) -> str:
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        shown = ", ".join(str(index) for index in indices[:32]) + (", ..." if len(indices) > 32 else "")
        finer = "" if self.precision == "fp32" else ", set precision='fp32'"
        return (
            f"{self.name}: step {step} of {self.plan.total}: {what}, expected a finite number; the step's examples are "
            f"[{shown}]. Lower learning_rate (now {self.settings.learning_rate:g}){finer}, lengthen warmup, or look "
            "for impossible labels among these examples."
        )

    def record(self, trackers: Trackers) -> None:
        """Add a point to the curves where one is due: the mean loss since the last."""
        state, total = self.state, self.plan.total
        if state.step != 1 and state.step != total and state.step % max(1, total // CURVE_POINTS):
            return
        self.look()
        rate = learning_rate(state.step - 1, total, self.settings)
        loss = state.loss_sum / max(1, state.loss_steps)
        state.curves["loss"].append([state.step, loss])
        state.curves["learning_rate"].append([state.step, rate])
        state.loss_sum, state.loss_steps = 0.0, 0
        trackers.log({"loss": loss, "learning_rate": rate}, state.step)

    def evaluate(self, trackers: Trackers) -> None:
        """Take the score, keep the weights if they are the best so far, and see whether patience is over."""
        self.look()  # never score, or keep as best, what a broken step left behind
        state, value = self.state, self._scored()
        if math.isfinite(value):
            state.curves.setdefault("score", []).append([state.step, value])
            trackers.log({"score": value}, state.step)
        else:
            logger.warning("%s: the score after step %d is %s; it counts as no better", self.name, state.step, value)
        if math.isfinite(value) and (state.best_score is None or value > state.best_score):
            state.best_score, state.best_step, state.evaluations_since_best = value, state.step, 0
            self.best = {name: tensor.to("cpu", copy=True) for name, tensor in tensors_of(self.network).items()}
            return
        state.evaluations_since_best += 1
        if self.settings.patience is not None and state.evaluations_since_best >= self.settings.patience:
            state.stopped = True
            logger.info(
                "%s: stopped at step %d, no better score than at step %d", self.name, state.step, state.best_step
            )

    def _scored(self) -> float:
        """Return the first process's score, in every process."""
        assert self.score is not None
        self.network.eval()
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        if self.accelerator.is_main_process:
            with torch.no_grad():
                value += float(self.score(self.network))
        if self.accelerator.num_processes > 1:
            value = broadcast(value)
        return float(value)


def touched_rows(features: Features, indices: Indices) -> Tensor:
    """Return the rows of the word table that these examples and their padding touch, each once, sorted."""
    parts = [features.input_ids[features.offsets[index] : features.offsets[index + 1]] for index in indices]
    pad = np.array([features.pad_token_id])
    return torch.from_numpy(np.unique(np.concatenate([*parts, pad])).astype(np.int64))
