"""What a run ran on: versions, processor, threads and the commit, for environment.json."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from typing import Any

import torch

from bertcompress.evaluation.hardware import describe_hardware

PACKAGES = (
    "bertcompress",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "safetensors",
    "numpy",
    "scikit-learn",
    "scipy",
    "optuna",
)
OPTIONAL = ("onnx", "onnxruntime", "openvino")  # recorded where they are installed


def describe_environment() -> dict[str, Any]:
    """Return versions, processor and commit as plain JSON types; "unknown" where a thing cannot be found out."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES} | _installed(OPTIONAL),
        "hardware": describe_hardware(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _installed(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: _version(name) for name in packages if _version(name) != "unknown"}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    """Return the commit of the working directory's repository, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
