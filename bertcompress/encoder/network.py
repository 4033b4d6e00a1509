"""The networks built from an `EncoderSpec`: encoders with output layers, as registered transformers classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from bertcompress.encoder.chain import ChainModel, ChainOutput, ChainPreTrainedModel
from bertcompress.encoder.configuration import ChainConfig, chain_config
from bertcompress.encoder.dropout import dropout
from bertcompress.encoder.kernels import Linear
from bertcompress.encoder.operations import linear
from bertcompress.encoder.spec import EncoderSpec

__all__ = [
    "ChainConfig",
    "ChainForMaskedLM",
    "ChainForQuestionAnswering",
    "ChainForSequenceClassification",
    "ChainForTokenClassification",
    "ChainModel",
    "ChainPreTrainedModel",
    "build",
    "chain_config",
    "register",
]


@dataclass
class TaskOutput(ModelOutput):
    """A task's logits, (batch, classes) or (batch, length, classes), and what the chain recorded."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    attention_scores: tuple[Tensor, ...] | None = None
    projections: tuple[Tensor, ...] | None = None


@dataclass
class SpanOutput(ModelOutput):
    """Start and end logits (batch, length) of answer spans, and what the chain recorded."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    attention_scores: tuple[Tensor, ...] | None = None
    projections: tuple[Tensor, ...] | None = None


class ChainWithHead(ChainPreTrainedModel):
    """A network with a linear output layer; by default it reads every token."""

    def __init__(self, config: ChainConfig) -> None:
        """Build the encoder and the output layer."""
        super().__init__(config)
        self.encoder = ChainModel(config)
        self.classifier = Linear(self.spec.hidden_size, self.spec.head.num_labels)
        self.post_init()

    def _dropped(self, hidden: Tensor) -> Tensor:
        return dropout(hidden, self.spec.classifier_dropout, self.training)

    def _logits(self, encoded: ChainOutput) -> Tensor:
        logits: Tensor = self.classifier(self._dropped(encoded.last_hidden_state))
        return logits


class ChainTaskModel(ChainWithHead):
    """A network whose output is one tensor of logits; the children say what it reads and how the loss is taken."""

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
        output_projections: bool = False,
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
            output_projections,
        )
        logits = self._logits(encoded)
        output = TaskOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            attention_scores=encoded.attention_scores,
            projections=encoded.projections,
        )
        return output.to_tuple() if return_dict is False else output


class ChainForSequenceClassification(ChainTaskModel):
    """Classification, or regression with one label, of whole sequences or pairs: logits (batch, labels)."""

    def _logits(self, encoded: ChainOutput) -> Tensor:
        first = encoded.last_hidden_state[:, 0] if encoded.pooler_output is None else encoded.pooler_output
        logits: Tensor = self.classifier(self._dropped(first))
        return logits

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


class ChainForQuestionAnswering(ChainWithHead):
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
        output_projections: bool = False,
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
            output_projections,
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
            projections=encoded.projections,
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


def build(spec: EncoderSpec, labels: tuple[str, ...] = (), *, seed: int | None = None) -> ChainPreTrainedModel:
    """Build the network that `spec` describes, with random weights.

    They are drawn from `seed`, and torch's global generator is left as it was; without a seed, from that generator.
    """
    network: ChainPreTrainedModel
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the caller's GPUs too
        network = NETWORKS[spec.head.task](chain_config(spec, labels)).eval()
    return network


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
