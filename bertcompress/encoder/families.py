"""How the BERT-like architectures of transformers name the settings and tensors of a chain.

One table per family serves both directions, in and out. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bertcompress.encoder.spec import EncoderSpec
from bertcompress.errors import ConversionError, allowed

CLASS_OF_TASK = {
    "none": "Model",
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "question_answering": "ForQuestionAnswering",
    "tagging": "ForTokenClassification",
    "masked_lm": "ForMaskedLM",
}


@dataclass(frozen=True)
class Pooler:
    """The dense map before a task's output layer: its name in the family, and its activation."""

    name: str
    activation: str


@dataclass(frozen=True)
class Family:
    """One architecture: its names for what a chain has, and what it cannot vary.

    settings: our name -> (key in config.json, default of the family). encoder, heads: the stem of a chain's tensor
    names (`{}` is the layer) -> the stem in the family, or the three stems of queries, keys and values.
    """

    name: str  # model_type
    classes: str  # what the names of its classes begin with
    prefix: str  # of the encoder's tensors in a task's network
    modules: tuple[str, ...]  # the encoder's own modules, from which a bare encoder's tensors are known
    settings: Mapping[str, tuple[str, Any]]
    encoder: Mapping[str, str | tuple[str, ...]]
    heads: Mapping[str, Mapping[str, str]]
    poolers: Mapping[str, Pooler]  # by task; a task without one has none
    dropouts: Mapping[str, tuple[str, float | None]]  # task -> key and default of the dropout before its output layer
    fixed: Mapping[str, Any] = field(default_factory=dict)  # settings that the family's code holds fast
    masked_lm_activation: str | None = None  # None: the encoder's own
    positions_after_padding: bool = False  # position ids begin at pad_token_id + 1
    segments: int = 2  # rows of the segment table to write for a chain that has none

    def setting(self, config: Mapping[str, Any], name: str) -> Any:
        """Return a setting by our name, from the configuration or from the family's defaults."""
        if name in self.fixed:
            return self.fixed[name]
        key, default = self.settings[name]
        return config.get(key, default)

    def unused_positions(self, pad_token_id: int) -> int:
        """Leading rows of the position table that no token ever reads."""
        return pad_token_id + 1 if self.positions_after_padding else 0

    def class_name(self, task: str) -> str:
        """Name of the class in transformers that serves a task."""
        return self.classes + CLASS_OF_TASK[task]

    def names(self, spec: EncoderSpec) -> dict[str, tuple[str, ...]]:
        """Return the family's tensor names for each tensor of a chain; what the family has no place for is left out.

        More than one name means that the chain holds the tensors concatenated along their first dimension.
        """
        task = spec.head.task
        stems: dict[str, str | tuple[str, ...]] = dict(self.heads.get(task, {}))
        if task in self.poolers:
            stems["pooler"] = self.poolers[task].name
        for stem, target in self.encoder.items():
            for layer in range(spec.num_layers if "{}" in stem else 1):
                targets = (target,) if isinstance(target, str) else target
                stems[stem.format(layer)] = tuple(self.prefix + each.format(layer) for each in targets)
        result = {}
        for tensor in spec.tensors():
            name = tensor.name.removeprefix("encoder.")
            stem, _, part = name.rpartition(".")
            if name in stems:
                result[tensor.name] = _tuple(stems[name])
            elif stem in stems:
                result[tensor.name] = tuple(f"{each}.{part}" for each in _tuple(stems[stem]))
        return result


def _tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _by_task(**values: Any) -> dict[str, Any]:
    """Spread the entry of classification to regression, which shares its class."""
    return {**values, "regression": values["classification"]}


_BERT_SETTINGS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", 30522),
    "hidden_size": ("hidden_size", 768),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "intermediate_size": ("intermediate_size", 3072),
    "max_positions": ("max_position_embeddings", 512),
    "type_vocab_size": ("type_vocab_size", 2),
    "pad_token_id": ("pad_token_id", 0),
    "activation": ("hidden_act", "gelu"),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
    "hidden_dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "initializer_range": ("initializer_range", 0.02),
}
_BERT_ENCODER: dict[str, str | tuple[str, ...]] = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.{}.operations.0.qkv": (
        "encoder.layer.{}.attention.self.query",
        "encoder.layer.{}.attention.self.key",
        "encoder.layer.{}.attention.self.value",
    ),
    "layers.{}.operations.0.output": "encoder.layer.{}.attention.output.dense",
    "layers.{}.operations.0.norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers.{}.operations.1.intermediate": "encoder.layer.{}.intermediate.dense",
    "layers.{}.operations.1.output": "encoder.layer.{}.output.dense",
    "layers.{}.operations.1.norm": "encoder.layer.{}.output.LayerNorm",
}
# BERT's span head applies no dropout, so question answering is not here; None stands for the hidden dropout.
_BERT_DROPOUTS = dict.fromkeys(
    ("none", "classification", "regression", "tagging", "masked_lm"), ("classifier_dropout", None)
)

BERT = Family(
    name="bert",
    classes="Bert",
    prefix="bert.",
    modules=("embeddings", "encoder", "pooler"),
    settings=_BERT_SETTINGS,
    encoder=_BERT_ENCODER,
    heads=_by_task(
        classification={"classifier": "classifier"},
        tagging={"classifier": "classifier"},
        question_answering={"classifier": "qa_outputs"},
        masked_lm={
            "transform": "cls.predictions.transform.dense",
            "norm": "cls.predictions.transform.LayerNorm",
            "decoder_bias": "cls.predictions.bias",
        },
    ),
    poolers=_by_task(classification=Pooler("bert.pooler.dense", "tanh"), none=Pooler("bert.pooler.dense", "tanh")),
    dropouts=_BERT_DROPOUTS,
)

ROBERTA = Family(
    name="roberta",
    classes="Roberta",
    prefix="roberta.",
    modules=("embeddings", "encoder", "pooler"),
    settings={**_BERT_SETTINGS, "vocab_size": ("vocab_size", 50265), "pad_token_id": ("pad_token_id", 1)},
    encoder=_BERT_ENCODER,
    heads=_by_task(
        classification={"classifier": "classifier.out_proj"},
        tagging={"classifier": "classifier"},
        question_answering={"classifier": "qa_outputs"},
        masked_lm={"transform": "lm_head.dense", "norm": "lm_head.layer_norm", "decoder_bias": "lm_head.bias"},
    ),
    # As in transformers, classification has a dense map of its own and leaves the bare encoder's pooler aside.
    poolers=_by_task(classification=Pooler("classifier.dense", "tanh"), none=Pooler("roberta.pooler.dense", "tanh")),
    dropouts=_BERT_DROPOUTS,
    masked_lm_activation="gelu",
    positions_after_padding=True,
    segments=1,
)

DISTILBERT = Family(
    name="distilbert",
    classes="DistilBert",
    prefix="distilbert.",
    modules=("embeddings", "transformer"),
    settings={
        **{name: _BERT_SETTINGS[name] for name in ("vocab_size", "max_positions", "pad_token_id", "initializer_range")},
        "hidden_size": ("dim", 768),
        "num_layers": ("n_layers", 6),
        "num_heads": ("n_heads", 12),
        "intermediate_size": ("hidden_dim", 3072),
        "activation": ("activation", "gelu"),
        "hidden_dropout": ("dropout", 0.1),
        "attention_dropout": ("attention_dropout", 0.1),
    },
    encoder={
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "layers.{}.operations.0.qkv": (
            "transformer.layer.{}.attention.q_lin",
            "transformer.layer.{}.attention.k_lin",
            "transformer.layer.{}.attention.v_lin",
        ),
        "layers.{}.operations.0.output": "transformer.layer.{}.attention.out_lin",
        "layers.{}.operations.0.norm": "transformer.layer.{}.sa_layer_norm",
        "layers.{}.operations.1.intermediate": "transformer.layer.{}.ffn.lin1",
        "layers.{}.operations.1.output": "transformer.layer.{}.ffn.lin2",
        "layers.{}.operations.1.norm": "transformer.layer.{}.output_layer_norm",
    },
    heads=_by_task(
        classification={"classifier": "classifier"},
        tagging={"classifier": "classifier"},
        question_answering={"classifier": "qa_outputs"},
        masked_lm={
            "transform": "vocab_transform",
            "norm": "vocab_layer_norm",
            "decoder_bias": "vocab_projector.bias",
        },
    ),
    poolers=_by_task(classification=Pooler("pre_classifier", "relu")),
    dropouts=_by_task(
        classification=("seq_classif_dropout", 0.2),
        none=("seq_classif_dropout", 0.2),
        masked_lm=("seq_classif_dropout", 0.2),
        tagging=("dropout", 0.1),
        question_answering=("qa_dropout", 0.1),
    ),
    fixed={"layer_norm_eps": 1e-12, "type_vocab_size": 0},
    segments=0,
)

ELECTRA = Family(
    name="electra",
    classes="Electra",
    prefix="electra.",
    modules=("embeddings", "embeddings_project", "encoder"),
    settings={
        **_BERT_SETTINGS,
        "embedding_size": ("embedding_size", 128),
        "hidden_size": ("hidden_size", 256),
        "num_heads": ("num_attention_heads", 4),
        "intermediate_size": ("intermediate_size", 1024),
    },
    encoder={**_BERT_ENCODER, "layers.0.link": "embeddings_project"},
    heads=_by_task(
        classification={"classifier": "classifier.out_proj"},
        tagging={"classifier": "classifier"},
        question_answering={"classifier": "qa_outputs"},
        masked_lm={
            "transform": "generator_predictions.dense",
            "norm": "generator_predictions.LayerNorm",
            "decoder_bias": "generator_lm_head.bias",
        },
    ),
    poolers=_by_task(classification=Pooler("classifier.dense", "gelu")),
    dropouts=_BERT_DROPOUTS,
    masked_lm_activation="gelu",
)

FAMILIES = {family.name: family for family in (BERT, ROBERTA, DISTILBERT, ELECTRA)}
OWN_TYPE = "bertcompress"
_TYPES = {**FAMILIES, "xlm-roberta": ROBERTA, "camembert": ROBERTA}
MODEL_TYPES = (*_TYPES, OWN_TYPE)


def family_of(model_type: object) -> Family:
    """Return the family that a model_type of transformers belongs to.

    Raises:
        ConversionError: no family has it.
    """
    if not isinstance(model_type, str) or model_type not in _TYPES:
        raise ConversionError(f"model_type: got {model_type!r}, allowed are {allowed(MODEL_TYPES)}.")
    return _TYPES[model_type]
