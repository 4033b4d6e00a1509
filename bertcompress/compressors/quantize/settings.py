"""What the quantizing compressors' settings have in common; imports no torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from bertcompress.encoder.bits import WHOLE
from bertcompress.encoder.tensors import Quantization

INITIALIZATIONS = ("max", "mse", "kl", "percentile", "lsq")
NORMALIZED = ("weight_bits", "embedding_bits", "tables")  # 8.0 is 8, and a list of a file is a tuple


def quantization_of(settings: Any, attention: bool) -> Quantization:
    """Return how the result of a compressor is stored and executed.

    Args:
        settings: with the fields of `Quantization`, by their names.
        attention: whether attention's own inputs are quantized.

    Raises:
        ConfigError: a width or granularity is none that there is.
    """
    names = [field.name for field in dataclasses.fields(Quantization) if field.name != "attention_bits"]
    values = {name: getattr(settings, name) for name in names}
    return Quantization(**values, attention_bits=settings.activation_bits if attention else WHOLE)


def normalize(settings: Any) -> None:
    """Check the fields of a frozen compressor, and write those of `NORMALIZED` in the one way that they compare by.

    Raises:
        ConfigError: a width or granularity is none that there is.
    """
    found = settings.quantization()
    for name in NORMALIZED:
        object.__setattr__(settings, name, getattr(found, name))
