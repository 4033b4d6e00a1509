"""What every kind of task is scored by; imports nothing, so that a configuration is checked in no time."""

from __future__ import annotations

METRICS: dict[str, tuple[str, ...]] = {  # a task's own scores; the first is what a model is chosen by, unless it says
    "classification": ("accuracy", "f1", "matthews_correlation"),
    "regression": ("pearson", "spearmanr"),
    "tagging": ("entity_f1", "entity_f1_strict", "entity_f1_conlleval", "token_accuracy"),
    "question_answering": ("f1", "exact_match"),
    "embedding": ("spearmanr", "pearson"),
    "unlabelled": ("",),
}
SCORED_KINDS = ("classification", "regression", "tagging", "question_answering", "embedding")
BARE_METRICS = ("efficiency",)  # what can be measured where a task has nothing to score: on unlabelled text
