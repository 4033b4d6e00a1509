"""Suites: several tasks times several seeds of one recipe, their table, and the GLUE leaderboard's files.

Names are loaded when they are asked for, so that a suite's file can be checked without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bertcompress.suite.config import SuiteConfig
from bertcompress.suite.reading import load_suite, parse_suite

if TYPE_CHECKING:
    from bertcompress.suite.execute import SuiteResult, run_suite
    from bertcompress.suite.submission import Submission, write_submission

__all__ = [
    "Submission",
    "SuiteConfig",
    "SuiteResult",
    "load_suite",
    "parse_suite",
    "run_suite",
    "write_submission",
]

_HOMES = {
    "run_suite": "bertcompress.suite.execute",
    "SuiteResult": "bertcompress.suite.execute",
    "write_submission": "bertcompress.suite.submission",
    "Submission": "bertcompress.suite.submission",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
