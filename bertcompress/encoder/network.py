"""The torch network built from an `EncoderSpec`, with task heads, as registered transformers classes."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from bertcompress.encoder import integrity
from bertcompress.encoder.operations import Trace, build_operation, embedding, linear
from bertcompress.encoder.quantized import QuantizedEmbedding, QuantizedLinear
from bertcompress.encoder.spec import EncoderSpec, Layer
from bertcompress.errors import ConfigError


class ChainConfig(PreTrainedConfig):
    """The transformers configuration that carries an `EncoderSpec` as plain JSON."""

    model_type = "bertcompress"

    encoder_spec: dict[str, Any] | None = None
    format_version: int = integrity.FORMAT_VERSION
    weights_sha256: dict[str, str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse a format that is newer than this library."""
        integrity.check_format_version(self.format_version)
        super().__post_init__(**kwargs)

    @functools.cached_property
    def spec(self) -> EncoderSpec:
        """The description of the network.

        Raises:
            ConfigError: the configuration holds none, or an impossible one.
        """
        if self.encoder_spec is None:
            raise ConfigError("ChainConfig.encoder_spec: got none; build the configuration with `chain_config(spec)`.")
        return EncoderSpec.from_dict(self.encoder_spec)

    @property
    def vocab_size(self) -> int:
        """Rows of the word embedding table."""
        return self.spec.embeddings.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the last layer."""
        return self.spec.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers."""
        return self.spec.num_layers

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the parsed spec."""
        output: dict[str, Any] = super().to_dict()
        output.pop("spec", None)
        return output


def chain_config(spec: EncoderSpec, labels: tuple[str, ...] = ()) -> ChainConfig:
    """Return the configuration of a network for `spec`, with label names where the task has them."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: place for place, name in enumerate(labels)}}
    count = {"num_labels": max(spec.head.num_labels, 1)}
    problem = {"classification": "single_label_classification", "regression": "regression"}.get(spec.head.task)
    if spec.head.num_labels == 1:
        problem = "regression"
    return ChainConfig(
        encoder_spec=spec.to_dict(),
        pad_token_id=spec.embeddings.pad_token_id,
        problem_type=problem,
        **(names if labels else count),
    )


@dataclass
class ChainOutput(ModelOutput):
    """Hidden states (batch, length, hidden) of the last layer and, on request, of every place of the chain."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    attention_scores: tuple[Tensor, ...] | None = None


@dataclass
class TaskOutput(ModelOutput):
    """A task's logits, (batch, classes) or (batch, length, classes), and what the chain recorded."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    attention_scores: tuple[Tensor, ...] | None = None


@dataclass
class SpanOutput(ModelOutput):
    """Start and end logits (batch, length) of answer spans, and what the chain recorded."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    attention_scores: tuple[Tensor, ...] | None = None


class EmbeddingTables(nn.Module):
    """The sum of word, position and segment embeddings, normalised."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Build the tables that the spec names."""
        super().__init__()
        sizes = spec.embeddings
        self.word = embedding(sizes.vocab_size, sizes.size, spec.quantization)
        self.position = embedding(sizes.max_positions, sizes.size, spec.quantization)
        self.token_type = (
            embedding(sizes.type_vocab_size, sizes.size, spec.quantization) if sizes.type_vocab_size else None
        )
        self.norm = nn.LayerNorm(sizes.size, eps=spec.layer_norm_eps)
        self.dropout = spec.hidden_dropout
        self.max_positions = sizes.max_positions

    def forward(
        self, input_ids: Tensor | None, token_type_ids: Tensor | None, position_ids: Tensor | None, words: Tensor | None
    ) -> Tensor:
        """Embed ids (batch, length), or take the word embeddings as given, into (batch, length, size)."""
        embedded = self.word(input_ids) if words is None else words
        length = embedded.shape[1]
        if length > self.max_positions:
            raise ConfigError(
                f"The input has {length} tokens, allowed are {self.max_positions} (the model's positions); "
                f"tokenize with truncation=True, max_length={self.max_positions}."
            )
        if position_ids is None:
            position_ids = torch.arange(length, device=embedded.device)
        embedded = embedded + self.position(position_ids)
        if self.token_type is not None:
            kinds = torch.zeros(1, 1, dtype=torch.long, device=embedded.device)
            embedded = embedded + self.token_type(kinds if token_type_ids is None else token_type_ids)
        return F.dropout(self.norm(embedded), self.dropout, self.training)


class ChainLayer(nn.Module):
    """A link where the stream changes width, then the layer's operations one after the other."""

    def __init__(self, layer: Layer, width_before: int, spec: EncoderSpec) -> None:
        """Build the layer for a stream that arrives with width `width_before`."""
        super().__init__()
        changes = width_before != layer.hidden_size
        self.link = linear(width_before, layer.hidden_size, spec.quantization) if changes else None
        self.operations = nn.ModuleList(build_operation(each, layer.hidden_size, spec) for each in layer.operations)

    def forward(self, hidden: Tensor, mask: Tensor | None, trace: Trace) -> Tensor:
        """Map (batch, length, width before) to (batch, length, hidden)."""
        if self.link is not None:
            hidden = self.link(hidden)
        for operation in self.operations:
            hidden = operation(hidden, mask, trace)
        return hidden


class ChainPreTrainedModel(PreTrainedModel):
    """What all networks share: initialisation, and files whose damage is noticed."""

    config_class = ChainConfig
    config: ChainConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    _no_split_modules = ("ChainLayer",)

    def __init__(self, config: ChainConfig) -> None:
        """Keep the spec that the network is built from."""
        super().__init__(config)
        self.spec = config.spec

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # PreTrainedModel's own rule knows transformers' class names only; ours are initialised here, as BERT is.
        std = self.spec.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, 0.0, std)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, (QuantizedLinear, QuantizedEmbedding)):
            nn.init.zeros_(module.codes)
            nn.init.ones_(module.step)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a network, having checked that its weight files are whole.

        Raises:
            CheckpointError: a weight file is missing, damaged or truncated, or the format is newer than the library.
        """
        integrity.verify(Path(str(pretrained_model_name_or_path)))
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        _own_memory(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save configuration and weights (safetensors), with the checksums that `from_pretrained` checks."""
        super().save_pretrained(save_directory, *args, **kwargs)
        self.config.weights_sha256 = integrity.checksums(Path(save_directory))
        self.config.save_pretrained(save_directory)


def _own_memory(network: nn.Module) -> None:
    """Copy weights out of the mapped file into torch's own, aligned memory.

    Matrix kernels round differently on unaligned memory, so without the copy a loaded model's logits would differ
    from the saved model's in the last bit; and a file that changes later would change the model.
    """
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


class ChainModel(ChainPreTrainedModel):
    """The bare encoder: embeddings and the chain of layers, with a pooler where the spec has one."""

    base_model_prefix = ""

    def __init__(self, config: ChainConfig) -> None:
        """Build the modules that the spec describes."""
        super().__init__(config)
        spec = self.spec
        self.embeddings = EmbeddingTables(spec)
        self.layers = nn.ModuleList(
            ChainLayer(layer, before, spec) for layer, before in zip(spec.layers, spec.widths, strict=False)
        )
        pooled = spec.head.pooler != "none"
        self.pooler = linear(spec.hidden_size, spec.hidden_size, spec.quantization) if pooled else None
        self.pooler_activation = ACT2FN[spec.head.pooler] if pooled else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embedding table."""
        return self.embeddings.word

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embedding table."""
        self.embeddings.word = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_attention_scores: bool = False,
        return_dict: bool | None = None,
    ) -> Any:
        """Encode ids (batch, length); `attention_mask` (batch, length) is 1 at real tokens and 0 at padding.

        `attentions` and `attention_scores` hold one (batch, heads, length, length) tensor per attention operation:
        probabilities, and scaled products before masking and softmax.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ConfigError("forward: give exactly one of input_ids and inputs_embeds.")
        every = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        trace = Trace(bool(attentions), output_attention_scores)
        hidden = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        mask = _visible(attention_mask)
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, mask, trace)
            states.append(hidden)
        pooled = None if self.pooler is None else self.pooler_activation(self.pooler(hidden[:, 0]))
        output = ChainOutput(
            last_hidden_state=hidden,
            pooler_output=pooled,
            hidden_states=tuple(states) if every else None,
            attentions=tuple(trace.recorded_attentions) if attentions else None,
            attention_scores=tuple(trace.recorded_scores) if output_attention_scores else None,
        )
        return output.to_tuple() if return_dict is False else output


def _visible(attention_mask: Tensor | None) -> Tensor | None:
    """Return the mask as booleans, or None where nothing is padded: attention without a mask is faster."""
    if attention_mask is None:
        return None
    mask = attention_mask.to(torch.bool)
    # Looking at the values would break a traced graph, and would make a GPU wait.
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all()):
        return None
    return mask


class ChainTaskModel(ChainPreTrainedModel):
    """A network with a task's output layer; the children say what the layer reads and how the loss is taken."""

    def __init__(self, config: ChainConfig) -> None:
        """Build the encoder and the output layer."""
        super().__init__(config)
        self.encoder = ChainModel(config)
        self.classifier = nn.Linear(self.spec.hidden_size, self.spec.head.num_labels)
        self.post_init()

    def _dropped(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.spec.classifier_dropout, self.training)

    def _logits(self, encoded: ChainOutput) -> Tensor:
        return self.classifier(self._dropped(encoded.last_hidden_state))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))  # labels of -100 are left out

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_attention_scores: bool = False,
        return_dict: bool | None = None,
    ) -> Any:
        """Compute the task's logits, and the mean loss where `labels` are given; see `ChainModel.forward`."""
        encoded = self.encoder(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_hidden_states,
            output_attentions,
            output_attention_scores,
        )
        logits = self._logits(encoded)
        output = TaskOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            attention_scores=encoded.attention_scores,
        )
        return output.to_tuple() if return_dict is False else output


class ChainForSequenceClassification(ChainTaskModel):
    """Classification, or regression with one label, of whole sequences or pairs: logits (batch, labels)."""

    def _logits(self, encoded: ChainOutput) -> Tensor:
        first = encoded.last_hidden_state[:, 0] if encoded.pooler_output is None else encoded.pooler_output
        return self.classifier(self._dropped(first))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.spec.head.num_labels == 1:
            return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        return F.cross_entropy(logits, labels)


class ChainForTokenClassification(ChainTaskModel):
    """Classification of every token: logits (batch, length, labels)."""


class ChainForMaskedLM(ChainTaskModel):
    """Prediction of masked tokens: logits (batch, length, vocabulary), the output tied to the word embeddings."""

    def __init__(self, config: ChainConfig) -> None:
        """Build the encoder, the transform and the decoder's bias."""
        ChainPreTrainedModel.__init__(self, config)
        spec = self.spec
        self.encoder = ChainModel(config)
        self.transform = linear(spec.hidden_size, spec.embeddings.size, spec.quantization)
        self.norm = nn.LayerNorm(spec.embeddings.size, eps=spec.layer_norm_eps)
        self.activation = ACT2FN[spec.activation]
        self.decoder_bias = nn.Parameter(torch.zeros(spec.embeddings.vocab_size))
        self.post_init()

    def _logits(self, encoded: ChainOutput) -> Tensor:
        transformed = self.norm(self.activation(self.transform(encoded.last_hidden_state)))
        return self.encoder.embeddings.word.decode(transformed, self.decoder_bias)


class ChainForQuestionAnswering(ChainTaskModel):
    """Extraction of answer spans: start and end logits (batch, length)."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_attention_scores: bool = False,
        return_dict: bool | None = None,
    ) -> Any:
        """Compute span logits, and the mean loss where positions (batch,) are given; see `ChainModel.forward`."""
        encoded = self.encoder(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_hidden_states,
            output_attentions,
            output_attention_scores,
        )
        start, end = (each.contiguous() for each in self._logits(encoded).unbind(-1))  # each (B, L)
        loss = None
        if start_positions is not None and end_positions is not None:
            # A position past the truncated input is ignored, as in transformers.
            loss = (_span_loss(start, start_positions) + _span_loss(end, end_positions)) / 2
        output = SpanOutput(
            loss=loss,
            start_logits=start,
            end_logits=end,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            attention_scores=encoded.attention_scores,
        )
        return output.to_tuple() if return_dict is False else output


def _span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    length = logits.shape[1]
    return F.cross_entropy(logits, positions.clamp(0, length), ignore_index=length)


NETWORKS: dict[str, type[ChainPreTrainedModel]] = {
    "none": ChainModel,
    "classification": ChainForSequenceClassification,
    "regression": ChainForSequenceClassification,
    "question_answering": ChainForQuestionAnswering,
    "tagging": ChainForTokenClassification,
    "masked_lm": ChainForMaskedLM,
}


def build(spec: EncoderSpec, labels: tuple[str, ...] = ()) -> ChainPreTrainedModel:
    """Build the network that `spec` describes, with random weights drawn from torch's global generator."""
    return NETWORKS[spec.head.task](chain_config(spec, labels)).eval()


def register() -> None:
    """Tell transformers' Auto classes about the networks; doing it twice is harmless."""
    AutoConfig.register(ChainConfig.model_type, ChainConfig, exist_ok=True)
    for auto, network in (
        (AutoModel, ChainModel),
        (AutoModelForSequenceClassification, ChainForSequenceClassification),
        (AutoModelForQuestionAnswering, ChainForQuestionAnswering),
        (AutoModelForTokenClassification, ChainForTokenClassification),
        (AutoModelForMaskedLM, ChainForMaskedLM),
    ):
        auto.register(ChainConfig, network, exist_ok=True)


register()
