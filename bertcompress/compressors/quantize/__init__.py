"""Quantization of linear maps and embeddings."""

from bertcompress.compressors.quantize.compressor import PostTrainingQuantization

__all__ = ["PostTrainingQuantization"]
