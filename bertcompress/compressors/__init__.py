"""The compressors: frozen dataclasses of hyper-parameters with `plan` and `compress`.

Importing them loads no torch, so configurations are checked at once; `compress` loads what it needs.
"""

from bertcompress.compressors.base import METHODS, Compressor, Context, register
from bertcompress.compressors.distill import Distill
from bertcompress.compressors.extract import ExtractThenDistill
from bertcompress.compressors.fine_tune import FineTune, finetune
from bertcompress.compressors.layer_mapping import LayerMappingSearch
from bertcompress.compressors.quantize import KDLSQ, PostTrainingQuantization, QuantizationAwareTraining

register(
    FineTune,
    Distill,
    ExtractThenDistill,
    LayerMappingSearch,
    KDLSQ,
    PostTrainingQuantization,
    QuantizationAwareTraining,
)

__all__ = [
    "KDLSQ",
    "METHODS",
    "Compressor",
    "Context",
    "Distill",
    "ExtractThenDistill",
    "FineTune",
    "LayerMappingSearch",
    "PostTrainingQuantization",
    "QuantizationAwareTraining",
    "finetune",
]
