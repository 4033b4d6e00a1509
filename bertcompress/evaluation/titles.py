"""What each loyalty is called, by kind of task; imports nothing, so that reports need none of what measures it."""

from __future__ import annotations

_PROBABILITIES = {
    "probability": "probability loyalty (base e)",
    "probability_base_2": "probability loyalty (base 2)",
}
LOYALTIES: dict[str, dict[str, str]] = {
    "classification": {"label": "label loyalty", **_PROBABILITIES},
    "tagging": {"label": "label loyalty", "entity": "entity loyalty (F1)", **_PROBABILITIES},
    "question_answering": {
        "label": "answer loyalty",
        "start": "start loyalty",
        "end": "end loyalty",
        "start_probability": "start probability loyalty",
        "end_probability": "end probability loyalty",
        **_PROBABILITIES,
    },
    "regression": {"label": "concordance"},
    "embedding": {"label": "shared neighbours", "similarity": "similarity correlation"},
}
CORRELATIONS = {("regression", "label"), ("embedding", "similarity")}


def loyalty_title(kind: str, name: str) -> str:
    """Return what a loyalty of results.json is called for a kind of task, in lower case."""
    return LOYALTIES.get(kind, LOYALTIES["classification"]).get(name, f"{name.replace('_', ' ')} loyalty")


def is_share(kind: str, name: str) -> bool:
    """Return whether a loyalty is a share of something, not a correlation, which may lie below 0."""
    return (kind, name) not in CORRELATIONS
