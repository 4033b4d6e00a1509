"""Ordinary fine-tuning on a task's labels."""

from bertcompress.compressors.fine_tune.compressor import FineTune, finetune

__all__ = ["FineTune", "finetune"]
