"""Parts of a task's training examples, drawn from a seed."""

from __future__ import annotations

import dataclasses

import numpy as np

from bertcompress.data.base import Task


def chosen(total: int, count: int, seed: int) -> list[int]:
    """Return the numbers of examples drawn without replacement, rising."""
    drawn = np.random.default_rng([seed, total]).permutation(total)[:count]
    return sorted(drawn.tolist())


def fewer_examples(task: Task, examples: int, seed: int) -> Task:
    """Return the task with at most so many training examples."""
    if task.train is None or len(task.train) <= examples:
        return task
    return dataclasses.replace(task, train=task.train.select(chosen(len(task.train), examples, seed)))
