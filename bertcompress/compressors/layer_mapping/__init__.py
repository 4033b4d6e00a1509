"""Search of the layer mapping for distillation by a genetic algorithm (Jiao et al. 2020, arXiv 2012.06153)."""
