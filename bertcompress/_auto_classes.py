"""Registers our networks with transformers' Auto classes as soon as transformers' own registry is loaded.

`import bertcompress` must not import transformers (seconds), yet after it `AutoModel.from_pretrained("student")` has
to work. So a finder waits on the import path for the registry's module, steps aside, and registers once it is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

REGISTRY = "transformers.models.auto.modeling_auto"


class _Finder:
    """A meta path finder that wraps the loader of one module and leaves all others alone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the registry's own spec with a loader that registers afterwards; None for any other module."""
        if fullname != REGISTRY:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """Loads a module with its own loader, then registers the networks."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then register."""
        self.loader.exec_module(module)
        importlib.import_module("bertcompress.encoder.network")


def install() -> None:
    """Register at once where transformers' registry is loaded already, otherwise when it will be."""
    if REGISTRY in sys.modules:
        importlib.import_module("bertcompress.encoder.network")
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
