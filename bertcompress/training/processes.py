"""The device and the processes of a training, as accelerate finds them; call these, not accelerate's own classes."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator, PartialState


def _cpu_only() -> bool:
    # Unless told so, accelerate takes processes that torchrun started on a machine without a GPU for strangers:
    # each would do all of the work.
    return not torch.accelerator.is_available()


def accelerator(**options: Any) -> Accelerator:
    """Return accelerate's view of this process; joins the others if torchrun or accelerate launch started several."""
    return Accelerator(cpu=_cpu_only(), **options)


def process_state() -> PartialState:
    """Return the part of `accelerator` that knows device, rank and number of processes."""
    return PartialState(cpu=_cpu_only())
