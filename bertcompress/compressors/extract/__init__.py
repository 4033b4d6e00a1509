"""Extract-then-distill: a student of any size starts from its teacher's own weights."""

from bertcompress.compressors.extract.compressor import ExtractThenDistill

__all__ = ["ExtractThenDistill"]
