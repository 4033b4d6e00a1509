"""The transformers configuration that carries an `EncoderSpec`."""

from __future__ import annotations

import functools
from typing import Any

from transformers import PreTrainedConfig

from bertcompress.encoder import integrity
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.errors import ConfigError


class ChainConfig(PreTrainedConfig):
    """The transformers configuration that carries an `EncoderSpec` as plain JSON."""

    model_type = "bertcompress"

    encoder_spec: dict[str, Any] | None = None
    format_version: int = integrity.FORMAT_VERSION
    weights_sha256: dict[str, str] | None = None
    encoder_sha256: str | None = None

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
