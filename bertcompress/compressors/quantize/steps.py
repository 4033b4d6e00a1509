"""Step sizes of quantizers in training: learned, or following the values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertcompress.compressors.quantize.initialization import SMALLEST, initial_step
from bertcompress.encoder.bits import CodeRange
from bertcompress.encoder.lsq import fake_quantize

MOMENTUM = 0.9  # of the average that activations' steps follow
SPREAD = 0.04  # of BERT's weights as they begin: two standard deviations
LARGEST_LOG = 16.0  # beyond it, a step or one over it would soon be no float


class LearnedStep(nn.Module):
    """Step sizes that are learned as logarithms: they stay above 0, and an update changes them by a share.

    KDLSQ's released code learns the bound itself, whose sign nothing keeps.
    """

    def __init__(self, codes: CodeRange, groups: int = 1, gradient: str = "clip", *, offset: bool = False) -> None:
        """Begin with steps of one.

        Args:
            codes: the range of codes.
            groups: number of step sizes.
            gradient: of values outside the range, see `fake_quantize`.
            offset: whether what code 0 stands for is learned too (LSQ+, arXiv 2004.09576); it is kept in steps, so
                that a share of the step is a share of the whole range.
        """
        super().__init__()
        self.codes, self.gradient = codes, gradient
        self.log_step = nn.Parameter(torch.zeros(groups))
        self.offset_steps = nn.Parameter(torch.zeros(groups)) if offset else None
        self.method: str | None = None  # while it is set, a step is found in the values that pass

    @property
    def step(self) -> Tensor:
        """The step sizes, (groups,), from e^-16 to e^16."""
        return self.log_step.clamp(-LARGEST_LOG, LARGEST_LOG).exp()

    @property
    def offset(self) -> Tensor | None:
        """What code 0 stands for, (groups,); None is 0."""
        return None if self.offset_steps is None else self.offset_steps * self.step

    @torch.no_grad()
    def begin(self, values: Tensor, method: str) -> None:
        """Set the steps by values (groups, count), and offsets, if there are any, to the lowest of them."""
        step, offset = self.found(values, method)
        self.place(_never_dead(step, self.codes), offset)

    def found(self, values: Tensor, method: str) -> tuple[Tensor, Tensor]:
        """Return steps and offsets, (groups,), for values (groups, count); offsets are 0 where there are none."""
        if self.offset_steps is None:
            return initial_step(values, self.codes, method), torch.zeros_like(self.log_step)
        lowest = values.float().amin(-1)
        return initial_step(values - lowest.unsqueeze(-1), self.codes, method), lowest

    def place(self, step: Tensor, offset: Tensor) -> None:
        """Set steps and, if there are any, offsets, (groups,)."""
        self.log_step.copy_(step.log())
        if self.offset_steps is not None:
            self.offset_steps.copy_(offset / self.step)

    def forward(self, values: Tensor) -> Tensor:
        """Round activations of any shape, all with the same step, for a product."""
        if self.method is not None:
            self.begin(values.reshape(1, -1), self.method)
        given = (values, self.step, self.codes, self.offset)
        return fake_quantize(*given, gradient=self.gradient, dtype=multiplied(values))

    def follow(self, weight: Tensor) -> None:
        """Be as the weight (rows, columns) wants it by now; what is learned is so already."""

    def of_rows(self, weight: Tensor) -> Tensor:
        """Round a weight (rows, columns), of which equal groups of rows share a step, for a product."""
        steps = self.step
        each = steps if len(steps) in (1, len(weight)) else steps.repeat_interleave(len(weight) // len(steps))
        return fake_quantize(weight, each.unsqueeze(-1), self.codes, gradient=self.gradient, dtype=multiplied(weight))

    def of_chosen(self, rows: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
        """Round some rows of a weight.

        Args:
            rows: (..., columns).
            ids: their numbers, (...,).
            weight: all rows.
        """
        steps = self.step
        step = steps[ids].unsqueeze(-1) if len(steps) > 1 else steps
        return fake_quantize(rows, step, self.codes, gradient=self.gradient)


class TrackedStep(LearnedStep):
    """Step sizes that follow the largest magnitudes of the values: a weight's at once, activations' by an average.

    The average moves once for each step of the optimizer, by the largest magnitudes in all of its micro-batches and
    processes, so that it does not depend on how a step is divided.
    """

    extremes: Tensor

    def __init__(self, codes: CodeRange, groups: int = 1, gradient: str = "ste", *, offset: bool = False) -> None:
        """Begin with steps of one; see `LearnedStep`. They are no parameters."""
        super().__init__(codes, groups, gradient, offset=offset)
        del self.log_step, self.offset_steps
        self.register_buffer("log_step", torch.zeros(groups))
        self.register_buffer("offset_steps", torch.zeros(groups) if offset else None)
        self.register_buffer("extremes", torch.full((2,), -torch.inf), persistent=False)  # highest, minus the lowest

    def forward(self, values: Tensor) -> Tensor:
        """Round activations, and in training remember their extremes."""
        if self.training and self.method is None and values.numel():
            with torch.no_grad():
                lowest, highest = values.aminmax()
                torch.maximum(self.extremes, torch.stack((highest, -lowest)).float(), out=self.extremes)
        return super().forward(values)

    @torch.no_grad()
    def settle(self) -> None:
        """Let the average move towards the extremes of the optimizer's step that ends, and forget them."""
        seen, before = self.extremes.isfinite().all(), self.offset
        step, lowest = self.found(torch.stack((self.extremes[:1], -self.extremes[1:]), dim=-1), "max")
        before = lowest if before is None else before
        moved = torch.lerp(step, self.step, MOMENTUM), torch.lerp(lowest, before, MOMENTUM)
        self.place(torch.where(seen, moved[0], self.step), torch.where(seen, moved[1], before))
        self.extremes.fill_(-torch.inf)

    def of_rows(self, weight: Tensor) -> Tensor:
        """Round a weight by its own largest magnitudes."""
        self.follow(weight)
        return super().of_rows(weight)

    def of_chosen(self, rows: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
        """Round some rows of a weight by its own largest magnitudes."""
        self.follow(weight)
        return super().of_chosen(rows, ids, weight)

    def follow(self, weight: Tensor) -> None:
        """Take the largest magnitudes of a weight (rows, columns) as they are now."""
        with torch.no_grad():
            self.place(*self.found(weight.detach().reshape(len(self.log_step), -1), "max"))


def multiplied(values: Tensor) -> torch.dtype:
    """Return the type in which a matrix product takes values: autocast's, where that is on."""
    device = values.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else values.dtype


def _never_dead(step: Tensor, codes: CodeRange) -> Tensor:
    """Return the steps, those of groups that are all zero as long as the others' median is.

    A step of nearly nothing would hold its weights at nothing, however far they are trained.
    """
    dead = step <= SMALLEST
    if not bool(dead.any()):
        return step
    usual = step.new_tensor(SPREAD / codes.high) if bool(dead.all()) else step[~dead].median()
    return torch.where(dead, usual, step)
