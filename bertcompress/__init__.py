"""Make BERT-family encoders small and fast with published methods, and tell the truth about the result.

Importing this package does no work: torch and transformers are loaded when a name first needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bertcompress import _auto_classes

__version__ = "0.1.0"

_HOMES = {
    "bertcompress.compressors": (
        "Distill",
        "ExtractThenDistill",
        "FineTune",
        "LayerMappingSearch",
        "KDLSQ",
        "PostTrainingQuantization",
        "QuantizationAwareTraining",
        "finetune",
    ),
    "bertcompress.data.tasks": ("Task", "load_task"),
    "bertcompress.downstream.scores": ("downstream_scores",),
    "bertcompress.downstream.settings": ("Downstream",),
    "bertcompress.encoder.spec": ("EncoderSpec",),
    "bertcompress.errors": ("BertCompressError",),
    "bertcompress.evaluation.evaluate": ("evaluate",),
    "bertcompress.evaluation.loyalty": ("label_loyalty", "probability_loyalty"),
    "bertcompress.model": ("Model",),
    "bertcompress.pipeline": ("Pipeline",),
    "bertcompress.runs": ("plan", "run"),
}
_MODULES = {"metrics": "bertcompress.metrics", "runtime": "bertcompress.export.runtime"}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "KDLSQ",
    "BertCompressError",
    "Distill",
    "Downstream",
    "EncoderSpec",
    "ExtractThenDistill",
    "FineTune",
    "LayerMappingSearch",
    "Model",
    "Pipeline",
    "PostTrainingQuantization",
    "QuantizationAwareTraining",
    "Task",
    "__version__",
    "downstream_scores",
    "evaluate",
    "finetune",
    "label_loyalty",
    "load_task",
    "metrics",
    "plan",
    "probability_loyalty",
    "run",
    "runtime",
]

if TYPE_CHECKING:
    from bertcompress import metrics
    from bertcompress.compressors import (
        KDLSQ,
        Distill,
        ExtractThenDistill,
        FineTune,
        LayerMappingSearch,
        PostTrainingQuantization,
        QuantizationAwareTraining,
        finetune,
    )
    from bertcompress.data.tasks import Task, load_task
    from bertcompress.downstream.scores import downstream_scores
    from bertcompress.downstream.settings import Downstream
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.errors import BertCompressError
    from bertcompress.evaluation.evaluate import evaluate
    from bertcompress.evaluation.loyalty import label_loyalty, probability_loyalty
    from bertcompress.export import runtime
    from bertcompress.model import Model
    from bertcompress.pipeline import Pipeline
    from bertcompress.runs import plan, run


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _HOME_OF:
        raise AttributeError(f"module 'bertcompress' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names for completion."""
    return __all__


_auto_classes.install()
