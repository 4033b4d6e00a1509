"""Search of the layer mapping for distillation by a genetic algorithm (Jiao et al. 2020, arXiv 2012.06153)."""

from bertcompress.compressors.layer_mapping.compressor import LayerMappingSearch

__all__ = ["LayerMappingSearch"]
