"""Packages that only exports need: imported when they are first needed, and missed with a sentence."""

from __future__ import annotations

import importlib
from typing import Any

from bertcompress.errors import ConfigError


def require(module: str, extra: str) -> Any:
    """Import a package.

    Args:
        module: its name.
        extra: of this project, that installs it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{module} is needed for this and cannot be imported ({error}); pip install 'bertcompress[{extra}]'."
        ) from error
