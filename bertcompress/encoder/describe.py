"""Describe the encoder of a transformers config.json as a chain, without torch and without building anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertcompress.encoder import integrity
from bertcompress.encoder.families import CLASS_OF_TASK, OWN_TYPE, Family, family_of
from bertcompress.encoder.spec import ACTIVATIONS, Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.errors import ConversionError, allowed

# Activations that transformers also knows under another name or computes by another formula.
_SAME_ACTIVATION = {"gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "swish": "silu"}


def spec_from_config(config: Mapping[str, Any], head: Head | None = None) -> EncoderSpec:
    """Describe the encoder of a config.json as a chain, with `head` or the head that its "architectures" names.

    Raises:
        ConversionError: the architecture, or something it uses, is not supported.
        ConfigError: the sizes are impossible.
        CheckpointError: the format of one of our own models is newer than this library.
    """
    if config.get("model_type") == OWN_TYPE:
        spec = _own_spec(config)
        return spec if head is None else spec.replace(head=head)
    family = family_of(config.get("model_type"))
    _refuse_unsupported(config)
    head = _deduced_head(family, config) if head is None else head
    names = ("num_layers", "hidden_size", "num_heads", "intermediate_size")
    return EncoderSpec(
        embeddings=_embeddings(family, config),
        layers=uniform_layers(*(family.setting(config, name) for name in names)),
        head=head,
        activation=_activation(family, config, head),
        layer_norm_eps=float(family.setting(config, "layer_norm_eps")),
        hidden_dropout=float(family.setting(config, "hidden_dropout")),
        attention_dropout=float(family.setting(config, "attention_dropout")),
        classifier_dropout=_classifier_dropout(family, config, head),
        initializer_range=float(family.setting(config, "initializer_range")),
    )


def head_for(config: Mapping[str, Any], task: str, num_labels: int = 0) -> Head:
    """Return the head that a checkpoint gets for a task, with the pooler that its architecture has there.

    Raises:
        ConversionError: the architecture is not supported.
        ConfigError: the task is unknown or the number of labels does not fit it.
    """
    if config.get("model_type") == OWN_TYPE:
        return Head(task, num_labels, _own_pooler(_own_spec(config).head, task))
    pooler = family_of(config.get("model_type")).poolers.get(task)
    return Head(task, num_labels, "none" if pooler is None else pooler.activation)


def task_of(config: Mapping[str, Any]) -> str | None:
    """Return the task that a checkpoint's output layer serves; None where its configuration does not say."""
    if config.get("model_type") == OWN_TYPE:
        return _own_spec(config).head.task
    architectures = config.get("architectures") or []
    if not architectures:
        return None
    name = str(architectures[0])
    # BERT's pre-training network is its masked-LM network with one more output; ELECTRA's is another thing.
    if name == "BertForPreTraining":
        return "masked_lm"
    task = next((task for task, suffix in CLASS_OF_TASK.items() if name.endswith(suffix)), "none")
    return "regression" if task == "classification" and _num_labels(config) == 1 else task


def _own_spec(config: Mapping[str, Any]) -> EncoderSpec:
    integrity.check_format_version(config.get("format_version", integrity.FORMAT_VERSION))
    return EncoderSpec.from_dict(config.get("encoder_spec") or {})


def _own_pooler(present: Head, task: str) -> str:
    pooled = ("classification", "regression")
    if task not in pooled:
        return "none"
    if present.task in pooled or present.pooler != "none":
        return present.pooler
    return "tanh"  # as BERT's


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    model_type = config.get("model_type")
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ConversionError(
            f"{model_type}.position_embedding_type: got {positions!r}, allowed is 'absolute'; a chain has learned "
            "absolute positions only."
        )
    for name in ("is_decoder", "add_cross_attention"):
        if config.get(name):
            raise ConversionError(f"{model_type}.{name}: got True, allowed is False; a chain is an encoder.")
    if config.get("pruned_heads"):
        raise ConversionError(
            f"{model_type}.pruned_heads: got some, allowed is none; use the checkpoint before pruning."
        )


def _num_labels(config: Mapping[str, Any]) -> int:
    names = config.get("id2label")
    return len(names) if names else int(config.get("num_labels") or 2)


def _deduced_head(family: Family, config: Mapping[str, Any]) -> Head:
    if config.get("problem_type") == "multi_label_classification":
        raise ConversionError(
            f"{family.name}.problem_type: got 'multi_label_classification', allowed are single-label classification "
            "and regression; give the head of your own task instead."
        )
    task = task_of(config) or "none"
    counts = {"classification": _num_labels(config), "tagging": _num_labels(config)}
    fixed = {"regression": 1, "question_answering": 2}
    pooler = family.poolers.get(task)
    return Head(task, {**counts, **fixed}.get(task, 0), "none" if pooler is None else pooler.activation)


def _embeddings(family: Family, config: Mapping[str, Any]) -> Embeddings:
    pad_token_id = family.setting(config, "pad_token_id") or 0
    width = "embedding_size" if "embedding_size" in family.settings else "hidden_size"
    return Embeddings(
        vocab_size=family.setting(config, "vocab_size"),
        size=family.setting(config, width),
        max_positions=family.setting(config, "max_positions") - family.unused_positions(pad_token_id),
        type_vocab_size=family.setting(config, "type_vocab_size"),
        pad_token_id=pad_token_id,
    )


def _activation(family: Family, config: Mapping[str, Any], head: Head) -> str:
    given = family.setting(config, "activation")
    name = _SAME_ACTIVATION.get(given, given)
    if name not in ACTIVATIONS:
        raise ConversionError(f"{family.name} activation: got {given!r}, allowed are {allowed(ACTIVATIONS)}.")
    fixed = family.masked_lm_activation
    if head.task == "masked_lm" and fixed not in (None, name):
        raise ConversionError(
            f"{family.name} has activation {name!r} in its layers and always {fixed!r} in its masked-LM head; a chain "
            "has one for both. Convert it with another head."
        )
    return str(name)


def _classifier_dropout(family: Family, config: Mapping[str, Any], head: Head) -> float:
    if head.task not in family.dropouts:
        return 0.0
    rate = config.get(*family.dropouts[head.task])
    return float(family.setting(config, "hidden_dropout") if rate is None else rate)
