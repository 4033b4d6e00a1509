"""One judge for each kind of task: how its answers are read, scored, and compared with a teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertcompress.errors import ConfigError, allowed
from bertcompress.evaluation.judges.base import Judge, Statistic, resample
from bertcompress.evaluation.judges.embedding import EmbeddingJudge
from bertcompress.evaluation.judges.questions import QuestionJudge
from bertcompress.evaluation.judges.sequence import ClassificationJudge, RegressionJudge
from bertcompress.evaluation.judges.tagging import TaggingJudge

if TYPE_CHECKING:
    from datasets import Dataset

    from bertcompress.data.base import Task

__all__ = ["JUDGES", "Judge", "QuestionJudge", "Statistic", "judge_for", "resample"]

JUDGES: dict[str, type[Judge]] = {
    "classification": ClassificationJudge,
    "regression": RegressionJudge,
    "tagging": TaggingJudge,
    "question_answering": QuestionJudge,
    "embedding": EmbeddingJudge,
}


def judge_for(task: Task, dataset: Dataset) -> Judge:
    """Return the judge of a task's kind for the examples of one of its splits.

    Raises:
        ConfigError: there is nothing to judge in this kind of task.
    """
    if task.kind not in JUDGES:
        raise ConfigError(f"task {task.name}: its kind is {task.kind!r}, judged can be {allowed(JUDGES)}.")
    return JUDGES[task.kind](task, dataset)
