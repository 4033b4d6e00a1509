"""The names of objectives: their terms, published combinations of them, and which layers they compare; no torch."""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from typing import TypeAlias

from bertcompress.errors import ConfigError, allowed
from bertcompress.training.mapping import Mapping, Pairs, resolve_mapping

# Every term, and the layers that it compares where nothing else is said: those of the paper that it is from.
TERMS: dict[str, str | None] = {
    "hard": None,
    "soft": None,
    "logits": None,
    "embedding": None,
    "mlm": None,
    "hidden": "uniform",
    "attention": "uniform",
    "patient": "skip",
    "cosine": "last",
    "attention_distribution": "last",
    "query_relation": "last",
    "key_relation": "last",
    "value_relation": "last",
}
# What a term reads of both networks beside the logits.
NEEDS = {
    "hidden": "hidden_states",
    "cosine": "hidden_states",
    "patient": "hidden_states",
    "attention": "attention_scores",
    "attention_distribution": "attention_scores",
    "query_relation": "query_states",
    "key_relation": "key_states",
    "value_relation": "value_states",
}
PRESETS: dict[str, dict[str, float]] = {
    # General distillation of TinyBERT (1909.10351, section 4.1): all weights 1. Its released code also compares the
    # embeddings (mapping "tinybert") and counts pads (count_pads).
    "tinybert": {"hidden": 1.0, "attention": 1.0},
    # MiniLM (2002.10957, eq. 8).
    "minilm": {"attention_distribution": 1.0, "value_relation": 1.0},
    # MiniLMv2 (2012.15828), all weights 1; with `relation_heads` left out, the attention's own heads, where the paper
    # takes more.
    "minilmv2": {"query_relation": 1.0, "key_relation": 1.0, "value_relation": 1.0},
    # BERT-PKD (1908.09355, eq. 8): (1 - a) hard + a soft + b patient, at a = 0.5 and b = 100 of the paper's ranges.
    "pkd": {"hard": 0.5, "soft": 0.5, "patient": 100.0},
    # DistilBERT (1910.01108): the weights of its released training script.
    "distilbert": {"soft": 5.0, "mlm": 2.0, "cosine": 1.0},
}
Mappings: TypeAlias = Mapping | Dictionary[str, Mapping] | None


def expanded(objective: str | Dictionary[str, float]) -> dict[str, float]:
    """Return the weight of each term: of one term, a preset, or terms with weights of their own."""
    if not isinstance(objective, str):
        return dict(objective)
    return dict(PRESETS.get(objective, {objective: 1.0}))


def pairs_of(term: str, mapping: Mappings, num_student: int, num_teacher: int) -> Pairs:
    """Return the pairs of layers that a term compares.

    Args:
        term: one of those of `TERMS` that compare layers.
        mapping: one for all terms, one for each by name, or None for each term's own.
        num_student: layers of the student.
        num_teacher: layers of the teacher.

    Raises:
        ConfigError: the mapping names a layer that does not exist.
    """
    own = TERMS[term]
    assert own is not None
    chosen: Mapping = own
    if isinstance(mapping, Dictionary):
        chosen = mapping.get(term, own)
    elif mapping is not None:
        chosen = mapping
    return resolve_mapping(chosen, num_student, num_teacher)


def check_terms(where: str, objective: Dictionary[str, float], mapping: Mappings) -> None:
    """Refuse terms that do not exist, weights that are none, and mappings for terms that are not there.

    Raises:
        ConfigError: naming the place.
    """
    if not objective:
        raise ConfigError(f"{where}.objective: got none, allowed is at least one of {allowed(TERMS)}.")
    for name, weight in objective.items():
        if name not in TERMS:
            names = f"{allowed(TERMS)}; or by itself one of {allowed(PRESETS)}"
            raise ConfigError(f"{where}.objective: got term {name!r}, allowed are {names}.")
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not weight > 0:
            raise ConfigError(f"{where}.objective.{name}: got {weight!r}, allowed is a number above 0.")
    for name in mapping if isinstance(mapping, Dictionary) else ():
        if name not in objective or TERMS[name] is None:
            layered = [term for term in objective if TERMS[term] is not None]
            among = f"are {allowed(layered)}" if layered else "is none, as no term of the objective compares layers"
            raise ConfigError(f"{where}.mapping: got the term {name!r}, allowed {among}.")
