"""The float32 matrix product of inference on the CPU, in the faster of two libraries.

torch takes float32 products from MKL, which does not use AVX-512 on processors of other makers than its own: on an AMD
EPYC it has half the speed of oneDNN, which torch ships as well (`benchmarks/results/forward.json` has whole networks).
So where the processor has AVX-512, linear maps go through oneDNN, with the weight as it is: at every size that was
measured (4 to 4,096 rows) that is faster than MKL, and nothing is kept that could be out of date when weights change.
Gradients, autocast, tracing, export and other types go torch's own way. The result differs from MKL's by rounding.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

logger = logging.getLogger(__name__)

# oneDNN makes code for every size of a product that it meets, which takes 1 to 8 ms, and keeps 1,024 of them, 0.3 MiB
# each; torch keeps as many once more. Batches of text have another size nearly every time, so memory would grow with
# the data. Training rounds its sizes (`places`), so that it meets few; those, and what attention adds, are worth
# keeping. What the environment says already is left alone.
for _variable, _kept in (("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128"), ("LRU_CACHE_CAPACITY", "64")):
    os.environ.setdefault(_variable, _kept)

UNBEARABLE = 2.0  # times as long as float32; what was seen is half as long, or ten times
ROUNDING = 1e-4  # of sums of 64 products of standard normal numbers; float32 is 1e-5 apart there, bfloat16 0.05


class Linear(nn.Linear):
    """torch's linear map, with the faster product where it applies."""

    def forward(self, inputs: Tensor, gelu: bool = False) -> Tensor:
        """Map (..., in) to (..., out), and through the (exact) GELU on request, which can be part of the product."""
        return product(inputs, self.weight, self.bias, gelu)


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """Return inputs @ weight.T + bias, or its GELU; inputs (..., in), weight (out, in), bias (out,)."""
    plain = inputs.dtype == weight.dtype == torch.float32 and inputs.device.type == weight.device.type == "cpu"
    if not plain or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or _traced() or not usable():
        found = F.linear(inputs, weight, bias)
        return F.gelu(found) if gelu else found
    return _onednn(inputs, weight, bias, gelu)


def _onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    activation: tuple[str, list[float], str] = (
        ("gelu", [], "none") if gelu else ("none", [], "")
    )  # "none" is GELU without an approximation
    found: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, *activation)
    return found


def _traced() -> bool:
    # A graph for elsewhere has torch's own operators.
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[no-untyped-call, attr-defined]


@functools.cache
def usable() -> bool:
    """Return whether oneDNN's product is there, right, and faster on this processor.

    It is tried out once: torch names the operator as its own (a leading underscore), and may take it away.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if "AVX512" not in capability or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((5, 64), (48, 64), (48,)))
    try:
        with torch.no_grad():
            found = [_onednn(inputs, weight, bias, gelu) for gelu in (False, True)]
    except (AttributeError, RuntimeError) as problem:
        logger.debug("oneDNN's linear map is not there: %s", problem)
        return False
    expected = F.linear(inputs, weight, bias)
    return all((a - b).abs().max() < ROUNDING for a, b in zip(found, (expected, F.gelu(expected)), strict=True))


def exact_int8() -> bool:
    """Return whether the processor is known to have int8 dot products (VNNI), whose sums have 32 bits."""
    known = getattr(torch.cpu, "_is_vnni_supported", None)
    return known is not None and bool(known())


@functools.cache
def int8_pays() -> bool:
    """Return whether torch's int8 product is worth taking on this processor, rather than a float32 one over its codes.

    Without instructions for int8 dot products torch falls back to a product that takes 10 to 27 times as long as
    float32 (AMD EPYC with AVX2, 16 to 2,048 rows). So where these are not known to be there, both are tried out once.
    """
    if exact_int8():
        return True
    codes = torch.ones(64, 384, dtype=torch.int8)
    whole, single = (_fastest(run) for run in (lambda: torch._int_mm(codes, codes.t()), lambda: _over_codes(codes)))
    return whole < UNBEARABLE * single


def _over_codes(codes: Tensor) -> Tensor:
    return codes.float() @ codes.float().t()


def _fastest(run: Callable[[], object]) -> float:
    """Return the shortest time of a few runs in seconds, which a busy machine disturbs least."""
    run()
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _count_flops(inputs: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Return the operations of one product, so that torch's counter sees it."""
    return int(2 * torch.Size(inputs[:-1]).numel() * inputs[-1] * weight[0])


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_count_flops)
