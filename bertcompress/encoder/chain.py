"""The bare encoder as a torch network: embeddings and the chain of layers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput
from transformers.utils import logging as transformers_logging

from bertcompress.encoder import integrity
from bertcompress.encoder.configuration import ChainConfig
from bertcompress.encoder.dropout import dropout
from bertcompress.encoder.operations import Trace, build_operation, embedding, linear
from bertcompress.encoder.places import Places
from bertcompress.encoder.quantized import AttentionSites, Embedding, QuantizedTable
from bertcompress.encoder.spec import EncoderSpec, Layer
from bertcompress.errors import ConfigError


@dataclass
class ChainOutput(ModelOutput):
    """Hidden states (batch, length, hidden) of the last layer and, on request, of every place of the chain."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    attention_scores: tuple[Tensor, ...] | None = None
    projections: tuple[Tensor, ...] | None = None


class EmbeddingTables(nn.Module):
    """The sum of word, position and segment embeddings, normalised."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Build the tables that the spec names."""
        super().__init__()
        sizes = spec.embeddings
        self.word = embedding("word", sizes.vocab_size, sizes.size, spec.quantization)
        self.position = embedding("position", sizes.max_positions, sizes.size, spec.quantization)
        self.token_type = (
            embedding("token_type", sizes.type_vocab_size, sizes.size, spec.quantization)
            if sizes.type_vocab_size
            else None
        )
        self.norm = nn.LayerNorm(sizes.size, eps=spec.layer_norm_eps)
        self.dropout = spec.hidden_dropout
        self.max_positions = sizes.max_positions

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        words: Tensor | None,
        places: Places | None = None,
    ) -> Tensor:
        """Embed ids (batch, length), or take the word embeddings as given, into (batch, length, size).

        With `places`, only what is computed of it.
        """
        given = input_ids if words is None else words
        assert given is not None
        batch, length = given.shape[:2]
        if length > self.max_positions:
            raise ConfigError(
                f"The input has {length} tokens, allowed are {self.max_positions} (the model's positions); "
                f"tokenize with truncation=True, max_length={self.max_positions}."
            )
        if position_ids is None:
            position_ids = torch.arange(length, device=given.device)
        if places is not None and not places.all:
            position_ids = places.pack(position_ids.expand(batch, length))
            token_type_ids = None if token_type_ids is None else places.pack(token_type_ids.expand(batch, length))
            given = places.pack(given)
        embedded = (self.word(given) if words is None else given) + self.position(position_ids)
        if self.token_type is not None:
            kinds = torch.zeros(1, 1, dtype=torch.long, device=embedded.device)
            embedded = embedded + self.token_type(kinds if token_type_ids is None else token_type_ids)
        return dropout(self.norm(embedded), self.dropout, self.training)


class ChainLayer(nn.Module):
    """A link where the stream changes width, then the layer's operations one after the other."""

    def __init__(self, layer: Layer, width_before: int, spec: EncoderSpec) -> None:
        """Build the layer for a stream that arrives with width `width_before`."""
        super().__init__()
        changes = width_before != layer.hidden_size
        self.link = linear(width_before, layer.hidden_size, spec.quantization) if changes else None
        self.operations = nn.ModuleList(build_operation(each, layer.hidden_size, spec) for each in layer.operations)

    def forward(self, hidden: Tensor, places: Places, trace: Trace) -> Tensor:
        """Map (batch, length, width before), or what is computed of it, to (batch, length, hidden)."""
        if self.link is not None:
            hidden = self.link(hidden)
        for operation in self.operations:
            hidden = operation(hidden, places, trace)
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
        elif isinstance(module, (QuantizedTable, AttentionSites)):
            module.reset_parameters()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a network, having checked that its weight files are whole.

        Raises:
            CheckpointError: a weight file is missing, damaged or truncated, or the format is newer than the library.
            ConfigError: another type than float32 is asked for, and the network is quantized.
        """
        integrity.verify(Path(str(pretrained_model_name_or_path)))
        with _without_progress_bars():
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        network = loaded[0] if isinstance(loaded, tuple) else loaded
        if network.spec.quantization is not None and network.dtype != torch.float32:
            raise ConfigError(
                f"{pretrained_model_name_or_path} is quantized, and its step sizes are float32; got {network.dtype}, "
                "load it with dtype=torch.float32. Its codes save memory already."
            )
        _own_memory(network)
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save configuration and weights (safetensors), with the checksums that `from_pretrained` checks."""
        with _without_progress_bars():
            super().save_pretrained(save_directory, *args, **kwargs)
        self.config.weights_sha256 = integrity.checksums(Path(save_directory))
        self.config.encoder_sha256 = integrity.digest(self.config.encoder_spec)
        self.config.save_pretrained(save_directory)


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Silence transformers' bars over files that take a fraction of a second; the setting is the user's afterwards."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _own_memory(network: nn.Module) -> None:
    """Copy weights out of the mapped file into torch's own, aligned memory.

    Matrix kernels round differently on unaligned memory, so without the copy a loaded model's logits would differ
    from the saved model's in the last bit; and a file that changes later would change the model.
    """
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


class ChainModel(ChainPreTrainedModel):
    """The bare encoder: embeddings and the chain of layers, with a pooler where the spec has one.

    Attributes:
        skip_pads: compute little more than the real tokens; states, queries, keys and values are then zero at most
            pads. Training sets it on a CPU, unless the objective reads what stands there.
    """

    skip_pads = False

    def __init__(self, config: ChainConfig) -> None:
        """Build the modules that the spec describes."""
        super().__init__(config)
        spec = self.spec
        self.embeddings = EmbeddingTables(spec)
        self.layers = nn.ModuleList(
            ChainLayer(layer, before, spec) for layer, before in zip(spec.layers, spec.widths, strict=False)
        )
        self.pooler: nn.Module | None = None
        if spec.head.pooler != "none":
            self.pooler = linear(spec.hidden_size, spec.hidden_size, spec.quantization)
            self.pooler_activation = ACT2FN[spec.head.pooler]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embedding table."""
        return self.embeddings.word

    def set_input_embeddings(self, value: Embedding) -> None:
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
        output_projections: bool = False,
        return_dict: bool | None = None,
    ) -> Any:
        """Encode ids (batch, length); `attention_mask` (batch, length) is 1 at real tokens and 0 at padding.

        `attentions` and `attention_scores` hold one (batch, heads, length, length) tensor per attention operation:
        probabilities, and scaled products before masking and softmax. `projections` holds one (batch, length, 3, heads,
        head size) tensor for each: queries, keys and values.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ConfigError("forward: give exactly one of input_ids and inputs_embeds.")
        every = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        trace = Trace(bool(attentions), output_attention_scores, output_projections)
        places = Places(_visible(attention_mask), skip_pads=self.skip_pads)
        hidden = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, places)
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, places, trace)
            states.append(hidden)
        states = [places.unpack(state) for state in states] if every else []
        hidden = states[-1] if every else places.unpack(hidden)
        pooled = None if self.pooler is None else self.pooler_activation(self.pooler(hidden[:, 0]))
        output = ChainOutput(
            last_hidden_state=hidden,
            pooler_output=pooled,
            hidden_states=tuple(states) if every else None,
            attentions=tuple(trace.recorded_attentions) if attentions else None,
            attention_scores=tuple(trace.recorded_scores) if output_attention_scores else None,
            projections=tuple(trace.recorded_projections) if output_projections else None,
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
