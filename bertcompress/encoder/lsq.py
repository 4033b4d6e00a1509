"""Learned step size quantization: rounding to codes times a step, with gradients for values, step and offset.

The formulas are those of LSQ (Esser et al. 2020, arXiv 1902.08153, section 2.1) and LSQ+ (Bhalgat et al. 2020, arXiv
2004.09576, section 3.1). KDLSQ's released code learns the bound alpha = step * highest code; the two are the same but
for a factor of the gradient: dL/dalpha = dL/dstep / highest code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bertcompress.encoder.bits import CodeRange

BLOCK = 1 << 16  # numbers for each thread, that all passes go over while they are in its cache


def to_codes(values: Tensor, step: Tensor, codes: CodeRange, offset: Tensor | None = None) -> Tensor:
    """Return round(clip((values - offset) / step, low, high)) as floats; ties go to the even code.

    Args:
        values: any shape.
        step: above 0, of a shape that broadcasts to that of `values`: () for all, (rows, 1) for each row.
        codes: the range.
        offset: what code 0 stands for, of the step's shape; None is 0.
    """
    shifted = values if offset is None else values - offset
    return (shifted / step).clamp_(codes.low, codes.high).round_()


def fake_quantize(
    values: Tensor,
    step: Tensor,
    codes: CodeRange,
    offset: Tensor | None = None,
    *,
    gradient: str = "clip",
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the values as quantization leaves them, codes * step + offset.

    Gradients, with x = (value - offset) / step (LSQ, equations 3 and 5): of the step round(x) - x inside the range, the
    lowest or highest code outside; of the offset 0 inside, 1 outside (LSQ+); of a value 1 inside, 0 outside. All is
    computed in float32 at least, also under autocast, where rounding to codes would go wrong.

    Args:
        values: any shape.
        step: above 0, broadcasting to `values`.
        codes: the range.
        offset: as of `to_codes`.
        gradient: of values outside the range: "clip" is 0, as in LSQ; "ste" is 1, as KDLSQ's released code has for
            weights, so that one that was clipped can still come back.
        scale: factor of the gradients of step and offset, LSQ's g = 1 / sqrt(count * highest code). An optimizer that
            divides by the gradient's size, such as AdamW, hardly sees it.
        dtype: of the result, by default the values' own; what autocast would round it to next saves a pass over it.
    """
    found: Tensor = _FakeQuantize.apply(values, step, offset, codes, gradient == "clip", scale, dtype or values.dtype)  # type: ignore[no-untyped-call]
    return found


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        step: Tensor,
        offset: Tensor | None,
        codes: CodeRange,
        clip: bool,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(values, step, offset)
        ctx.codes, ctx.clip, ctx.scale = codes, clip, scale
        if _blocked(values, step, offset):
            return _forward_in_blocks(values, step, offset, codes, dtype)
        found = to_codes(_wide(values), step, codes, offset).mul_(step)
        return (found if offset is None else found.add_(offset)).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, step, offset = ctx.saved_tensors
        (received,) = gradients
        if _blocked(values, step, offset):
            return (*_backward_in_blocks(ctx, values, step, offset, received), None, None, None, None)
        low, high = ctx.codes
        wide = _wide(received)
        scaled = (_wide(values) if offset is None else _wide(values) - offset) / step
        inside = (scaled > low) & (scaled < high)
        of_values = of_step = of_offset = None
        if ctx.needs_input_grad[0]:
            of_values = (received.masked_fill(~inside, 0.0) if ctx.clip else received).to(values.dtype)
        if ctx.needs_input_grad[1]:
            slope = scaled.clamp(low, high).round_().sub_(scaled.masked_fill(~inside, 0.0))
            of_step = (slope.mul_(wide).sum_to_size(step.shape) * ctx.scale).to(step.dtype)
        if offset is not None and ctx.needs_input_grad[2]:
            of_offset = (wide.masked_fill(inside, 0.0).sum_to_size(offset.shape) * ctx.scale).to(offset.dtype)
        return of_values, of_step, of_offset, None, None, None, None


def _blocked(values: Tensor, step: Tensor, offset: Tensor | None) -> bool:
    """Return whether the passes over the values can be done block by block, so that these stay in the cache."""
    return (
        (offset is None or (step.numel() == offset.numel() == 1 and offset.dtype == torch.float32))
        and values.device.type == "cpu"
        and values.dtype in (torch.float32, torch.bfloat16)
        and step.dtype == torch.float32
        and values.dim() > 1
        and values.numel() > 0
        and (step.numel() == 1 or step.shape == (*values.shape[:-1], 1))
    )


def _blocks(values: Tensor, step: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield some rows of the values, their steps, and the same rows of other tensors of the values' shape."""
    columns = values.shape[-1]
    rows, others = values.reshape(-1, columns), tuple(each.view(-1, columns) for each in others)
    steps = step.reshape(-1, 1)
    size = max(1, BLOCK * torch.get_num_threads() // columns)
    for start in range(0, len(rows), size):
        at = slice(start, start + size)
        yield rows[at], steps[at] if len(steps) > 1 else steps, *(each[at] for each in others)


def _forward_in_blocks(
    values: Tensor, step: Tensor, offset: Tensor | None, codes: CodeRange, dtype: torch.dtype
) -> Tensor:
    made = torch.empty_like(values, dtype=dtype, memory_format=torch.contiguous_format)
    space = _Space(values)
    for some, steps, out in _blocks(values, step, made):
        wide = out if dtype == torch.float32 else space.of("found", some)
        _ratio(space, some, steps, offset, wide).clamp_(codes.low, codes.high).round_().mul_(steps)
        if offset is not None:
            wide.add_(offset)
        if wide is not out:
            out.copy_(wide)
    return made


def _backward_in_blocks(
    ctx: Any, values: Tensor, step: Tensor, offset: Tensor | None, received: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of values, step and offset; the formulas are those of the whole, in fewer passes."""
    low, high = ctx.codes
    received = received.contiguous()
    space, sums, outside = _Space(values), [], []
    of_values = torch.empty_like(received, dtype=values.dtype) if ctx.clip else received.to(values.dtype)
    for some, steps, given, out in _blocks(values, step, received, of_values):
        scaled = _ratio(space, some, steps, offset, space.of("scaled", some))
        wide = space.float("given", given) if ctx.clip or out.dtype != torch.float32 else out
        slope = torch.clamp(scaled, low, high, out=space.of("slope", some)).round_()
        slope.sub_(_inside(scaled, scaled, low, high, grad_input=space.of("inside", some)))
        passed = out if ctx.clip and out.dtype == torch.float32 else space.of("inside", some)
        if ctx.clip or offset is not None:
            _inside(wide, scaled, low, high, grad_input=passed)
        if ctx.clip and passed is not out:
            out.copy_(passed)
        one = step.numel() == 1
        sums.append(torch.dot(slope.view(-1), wide.reshape(-1)) if one else slope.mul_(wide).sum(-1))
        if offset is not None:
            outside.append(wide.sum() - passed.sum())
    of_step = torch.stack(sums).sum() if step.numel() == 1 else torch.cat(sums)
    return (
        of_values if ctx.needs_input_grad[0] else None,
        of_step.view(step.shape) * ctx.scale if ctx.needs_input_grad[1] else None,
        torch.stack(outside).sum().view(offset.shape) * ctx.scale
        if offset is not None and ctx.needs_input_grad[2]
        else None,
    )


def _ratio(space: _Space, some: Tensor, steps: Tensor, offset: Tensor | None, out: Tensor) -> Tensor:
    """Return (values - offset) / step of one block in float32, in `out`."""
    wide = space.float("values", some)
    if offset is not None:
        wide = torch.sub(wide, offset, out=out)
    return torch.div(wide, steps, out=out)


# The backward of hardtanh is a gradient where low < x < high, and 0 elsewhere: a mask and a product in one pass.
_inside = torch.ops.aten.hardtanh_backward.grad_input


class _Space:
    """Room for the intermediate numbers of one block, the same for each."""

    def __init__(self, values: Tensor) -> None:
        self._columns, self._parts = values.shape[-1], dict[str, Tensor]()

    def of(self, name: str, some: Tensor) -> Tensor:
        """Return float32 room for as many rows."""
        if name not in self._parts:  # the first block is the largest
            self._parts[name] = torch.empty(len(some), self._columns)
        found = self._parts[name]
        return found if len(found) == len(some) else found[: len(some)]

    def float(self, name: str, some: Tensor) -> Tensor:
        """Return the rows in float32."""
        return some if some.dtype == torch.float32 else self.of(name, some).copy_(some)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
