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

BLOCK = 1 << 16  # numbers that a dozen passes go over while they are in the cache


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
) -> Tensor:
    """Return the values as quantization leaves them, codes * step + offset, in the values' own type.

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
    """
    found: Tensor = _FakeQuantize.apply(values, step, offset, codes, gradient == "clip", scale)  # type: ignore[no-untyped-call]
    return found


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, step: Tensor, offset: Tensor | None, codes: CodeRange, clip: bool, scale: float
    ) -> Tensor:
        ctx.save_for_backward(values, step, offset)
        ctx.codes, ctx.clip, ctx.scale = codes, clip, scale
        if offset is not None or not _blocked(values, step):
            found = to_codes(_wide(values), step, codes, offset).mul_(step)
            return (found if offset is None else found.add_(offset)).to(values.dtype)
        made = torch.empty_like(values, memory_format=torch.contiguous_format)
        for some, steps, out in _blocks(values, step, made):
            wide = out if out.dtype == torch.float32 else torch.empty_like(some, dtype=torch.float32)
            torch.div(some, steps, out=wide).clamp_(codes.low, codes.high).round_().mul_(steps)
            if wide is not out:
                out.copy_(wide)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, step, offset = ctx.saved_tensors
        (received,) = gradients
        if offset is None and _blocked(values, step):
            return (*_backward_in_blocks(ctx, values, step, received), None, None, None, None)
        low, high = ctx.codes
        wide = _wide(received)
        scaled = (_wide(values) if offset is None else _wide(values) - offset) / step
        inside = (scaled > low) & (scaled < high)
        of_values = of_step = of_offset = None
        if ctx.needs_input_grad[0]:
            of_values = received.masked_fill(~inside, 0.0) if ctx.clip else received
        if ctx.needs_input_grad[1]:
            slope = scaled.clamp(low, high).round_().sub_(scaled.masked_fill(~inside, 0.0))
            of_step = (slope.mul_(wide).sum_to_size(step.shape) * ctx.scale).to(step.dtype)
        if offset is not None and ctx.needs_input_grad[2]:
            of_offset = (wide.masked_fill(inside, 0.0).sum_to_size(offset.shape) * ctx.scale).to(offset.dtype)
        return of_values, of_step, of_offset, None, None, None


def _blocked(values: Tensor, step: Tensor) -> bool:
    """Return whether the passes over the values are better done block by block: where they would leave the cache."""
    return (
        values.device.type == "cpu"
        and values.dtype in (torch.float32, torch.bfloat16)
        and step.dtype == torch.float32
        and values.dim() > 1
        and values.numel() > 2 * BLOCK
        and (step.numel() == 1 or step.shape == (*values.shape[:-1], 1))
    )


def _blocks(values: Tensor, step: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield some rows of the values, their steps, and the same rows of other tensors of the values' shape."""
    columns = values.shape[-1]
    rows, others = values.reshape(-1, columns), tuple(each.view(-1, columns) for each in others)
    steps = step.reshape(-1, 1)
    size = max(1, BLOCK // columns)
    for start in range(0, len(rows), size):
        at = slice(start, start + size)
        yield rows[at], steps[at] if len(steps) > 1 else steps, *(each[at] for each in others)


def _backward_in_blocks(
    ctx: Any, values: Tensor, step: Tensor, received: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of values and step; the formulas are those of the whole."""
    low, high = ctx.codes
    received = received.contiguous()
    masked = ctx.needs_input_grad[0] and ctx.clip
    of_values = received.clone() if masked else received
    sums = []
    for some, steps, given, out in _blocks(values, step, received, of_values):
        scaled = some / steps
        clipped = scaled.clamp(low, high)
        outside = (clipped == low).logical_or_(clipped == high)
        if masked:
            out.masked_fill_(outside, 0.0)
        slope = clipped.round_().sub_(scaled.masked_fill_(outside, 0.0)).mul_(given)
        sums.append(slope.sum() if step.numel() == 1 else slope.sum(-1))
    of_step = torch.stack(sums).sum() if step.numel() == 1 else torch.cat(sums)
    return (
        of_values if ctx.needs_input_grad[0] else None,
        of_step.view(step.shape) * ctx.scale if ctx.needs_input_grad[1] else None,
    )


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
