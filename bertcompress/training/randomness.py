"""Random numbers that follow from (seed, step, process), so that a training may stop and go on anywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(seed: int, step: int, process: int) -> None:
    """Seed python's, numpy's and torch's global generators for one step of one process.

    No generator's state then has to be kept in a checkpoint, and nothing that draws numbers between two steps,
    such as a score, changes the steps after it.
    """
    number = int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@contextmanager
def preserved() -> Iterator[None]:
    """Put the global generators back, on leaving, to where they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)
