"""Search of the layer mapping for distillation by a genetic algorithm (Jiao et al. 2020, arXiv 2012.06153).

So far its genes and its generations; the compressor that evaluates them is not there yet, and nothing uses these.
"""
