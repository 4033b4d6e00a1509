"""From float weights to codes and steps, as a quantized network's state wants them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from bertcompress.compressors.quantize.initialization import initial_step
from bertcompress.encoder.bits import code_range
from bertcompress.encoder.lsq import to_codes
from bertcompress.encoder.packing import pack
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.errors import ConfigError


def quantized_names(spec: EncoderSpec) -> list[str]:
    """Return the linear maps and tables of a spec that are stored as codes."""
    names = [tensor.name for tensor in spec.tensors()]
    return [name.rpartition(".")[0] for name in names if name.endswith((".codes", ".packed"))]


def quantize_state(
    state: Mapping[str, Tensor], spec: EncoderSpec, initialization: str | None = None
) -> dict[str, Tensor]:
    """Return the state of the quantized network: rounded to the nearest code, all else passed on.

    Args:
        state: of the float network.
        spec: of the quantized one.
        initialization: how step sizes are found, see `initial_step`; None takes "max" for 8 bits, where hardly anything
            is lost by it, and "mse" below.
    """
    result, bits = dict(state), spec.quantization
    assert bits is not None
    for codes, step in pairwise(spec.tensors()):
        name, _, kind = codes.name.rpartition(".")
        if kind not in ("codes", "packed"):
            continue
        width = bits.embedding_bits if codes.table else bits.weight_bits
        weight = result.pop(f"{name}.weight").float()
        method = method_for(width, initialization)
        found = initial_step(weight.reshape(step.shape[0], -1), code_range(width), method)
        result[codes.name] = stored_codes(weight, found, width)
        result[step.name] = found
    return result


def refuse_not_finite(method: str, state: Mapping[str, Tensor]) -> None:
    """Refuse a broken model: rounding would hide what is broken, as codes are finite.

    Raises:
        ConfigError: names the first tensor that has other than finite numbers.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ConfigError(
                f"{method}: {name} of the model has numbers that are not finite (NaN or infinite), so the model is "
                "broken; train it again, or take an older copy."
            )


def method_for(bits: float, initialization: str | None) -> str:
    """Return how steps are found: as asked for, else by the largest magnitude for 8 bits and the error below."""
    return initialization or ("max" if bits == 8 else "mse")


def stored_codes(weight: Tensor, step: Tensor, bits: float) -> Tensor:
    """Return the codes of a weight (rows, columns) as they are stored: int8 for 8 bits, else packed.

    Args:
        weight: in float.
        step: (groups,), one for each of as many equal groups of rows.
        bits: of a code.
    """
    of_rows = step.repeat_interleave(len(weight) // len(step)).unsqueeze(-1)
    codes = to_codes(weight, of_rows, code_range(bits)).to(torch.int8)
    return codes if bits == 8 else pack(codes, bits, code_range(bits).low)
