"""Fictional runs for the report's tests: results that tests may change, and run folders on disk."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def builders() -> ModuleType:
    """The module that builds the fictional runs."""
    return _module("build")


@pytest.fixture(scope="session")
def kinds() -> ModuleType:
    """The module that makes up results of every kind of task."""
    return _module("kinds")


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fictional_{name}", FIXTURES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fictional() -> Callable[[str], dict[str, Any]]:
    """Return a fresh copy of a fictional run's results by name."""

    def load(name: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
        return values

    return load


@pytest.fixture
def run_folder(tmp_path: Path, builders: ModuleType) -> Callable[..., Path]:
    """Write results, environment and configuration as a run's folder."""

    def write(results: dict[str, Any], config: str | None = None, environment: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
        machine = builders.ENVIRONMENT if environment is None else environment
        (folder / "environment.json").write_text(json.dumps(machine), encoding="utf-8")
        if config is not None:
            (folder / "config.yaml").write_text(config, encoding="utf-8")
        return folder

    return write
