"""The device and the processes of a training, as accelerate finds them; call these, not accelerate's own classes."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, PartialState


def _cpu_only() -> bool:
    # Unless told so, accelerate takes processes that torchrun started on a machine without a GPU for strangers:
    # each would do all of the work.
    return not torch.accelerator.is_available()


def accelerator(**options: Any) -> Accelerator:
    """Return accelerate's view of this process; joins the others if torchrun or accelerate launch started several."""
    with _leaving():
        return Accelerator(cpu=_cpu_only(), **options)


def process_state() -> PartialState:
    """Return the part of `accelerator` that knows device, rank and number of processes."""
    with _leaving():
        return PartialState(cpu=_cpu_only())


@contextmanager
def _leaving() -> Iterator[None]:
    """Have the process leave, before it exits, the group that it joins meanwhile.

    The group's threads still run otherwise when the interpreter is gone, and now and then abort the process (SIGABRT)
    after all of its work is done. A group that the caller made is the caller's to leave.
    """
    before = _in_a_group()
    yield
    if _in_a_group() and not before:
        atexit.register(_leave)


def _in_a_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _leave() -> None:
    if _in_a_group():
        torch.distributed.destroy_process_group()
