"""Chains of compressors, the folders their runs are kept in, and what a run will cost.

Names are loaded when they are asked for, so that a chain can be planned without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bertcompress.pipeline.chain import Pipeline

if TYPE_CHECKING:
    from bertcompress.pipeline.planning import plan_run
    from bertcompress.pipeline.run import Run

__all__ = ["Pipeline", "Run", "plan_run"]

_HOMES = {"Run": "bertcompress.pipeline.run", "plan_run": "bertcompress.pipeline.planning"}


def __getattr__(name: str) -> Any:
    """Import `Run` and `plan_run`, which need torch, when they are first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
