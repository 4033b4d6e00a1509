"""Which arithmetic a forward pass uses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

logger = logging.getLogger(__name__)


def native_bf16(device_type: str) -> bool:
    """Return whether the device multiplies bfloat16 matrices natively, which is what makes it faster than float32.

    On a CPU this is a question of instructions (AVX-512 BF16, AMX, Arm's BF16): emulated bf16 is slower than
    float32. The answer is looked up, not timed, so that the same machine always trains with the same arithmetic.
    A torch that cannot tell (before 2.9) counts as no.
    """
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    look_up = getattr(torch.cpu, "get_capabilities", None)
    capabilities: Mapping[str, Any] = look_up() if look_up is not None else {}
    return device_type == "cpu" and any(present is True and "bf16" in name for name, present in capabilities.items())


def resolve_precision(precision: str, device_type: str) -> str:
    """Return "fp32" or "bf16" for the setting "auto", "fp32" or "bf16" on a device such as "cpu" or "cuda"."""
    native = native_bf16(device_type)
    if precision == "bf16" and not native:
        logger.warning("precision='bf16': this %s has no bf16 instructions; 'fp32' will be faster.", device_type)
    if precision != "auto":
        return precision
    return "bf16" if native else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which matrix products are taken in the resolved precision; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
