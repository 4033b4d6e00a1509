"""Knowledge distillation from a teacher into a student of any size."""

from bertcompress.compressors.distill.compressor import Distill, Distillation

__all__ = ["Distill", "Distillation"]
