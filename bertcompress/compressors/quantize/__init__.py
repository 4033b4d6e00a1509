"""Quantization of linear maps and embeddings."""

from bertcompress.compressors.quantize.aware import QuantizationAwareTraining
from bertcompress.compressors.quantize.compressor import PostTrainingQuantization
from bertcompress.compressors.quantize.kdlsq import KDLSQ

__all__ = ["KDLSQ", "PostTrainingQuantization", "QuantizationAwareTraining"]
