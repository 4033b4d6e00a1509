"""Checkpoints of a training in progress: safetensors and JSON, written beside their place and moved into it.

A checkpoint folder holds `step-N` folders, almost always one. A new one is complete before the old one goes, so a
process may be killed at any moment. Nothing here is pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)
FORMAT_VERSION = 1
SECONDS = 30.0  # between two checkpoints
SHARE = 0.02  # of the time may go into writing them: on slow disks they are rarer
STATE = "state.json"


class Checkpoints:
    """The checkpoints of one training, told from those of any other by a fingerprint."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Take the folder, which need not exist, and the digest of everything the training depends on."""
        self.folder = folder
        self.fingerprint = fingerprint
        self._wait = SECONDS
        self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether the last checkpoint, or the beginning, is long enough ago."""
        return time.monotonic() - self._last >= self._wait

    def save(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Write a checkpoint and remove the ones before it.

        Args:
            step: optimizer steps done.
            parts: tensors by name, one file for each part that has any.
            state: JSON types.
        """
        began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        target, draft = self.folder / f"step-{step}", self.folder / f"draft-{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        filled = {name: tensors for name, tensors in parts.items() if tensors}
        for name, tensors in filled.items():
            flat = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
            save_file(flat, draft / f"{name}.safetensors")
        content = {"format_version": FORMAT_VERSION, "fingerprint": self.fingerprint, "parts": sorted(filled), **state}
        (draft / STATE).write_text(json.dumps(content), encoding="utf-8")
        for path in draft.iterdir():
            _to_disk(path)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        _to_disk(self.folder)
        for old in self._folders():
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
        self._last = time.monotonic()
        self._wait = max(SECONDS, (self._last - began) / SHARE)

    def load(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """Return the parts and state of the newest checkpoint of this training that is whole, or None."""
        for folder in self._folders():
            try:
                state = json.loads((folder / STATE).read_text(encoding="utf-8"))
                if not self._ours(state, folder):
                    continue
                return {name: load_file(folder / f"{name}.safetensors") for name in state["parts"]}, state
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                logger.warning("The checkpoint %s is damaged and is ignored: %s", folder, error)
        return None

    def _ours(self, state: Any, folder: Path) -> bool:
        if state["format_version"] == FORMAT_VERSION and state["fingerprint"] == self.fingerprint:
            return True
        logger.warning(
            "The checkpoint %s belongs to a training with other settings, data or weights; it is ignored and will be "
            "replaced.",
            folder,
        )
        return False

    def _folders(self) -> list[Path]:
        found = {}
        for path in self.folder.glob("step-*"):
            number = path.name.removeprefix("step-")
            if number.isdecimal() and path.is_dir():
                found[int(number)] = path
        return [found[number] for number in sorted(found, reverse=True)]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return what `state_dict` holds, each tensor once even where modules share it."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    result = {}
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        result[name] = tensor.detach()
    return result


def copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write the values of `tensors_of` back into the module, in place."""
    own = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimizer's tensors as "<state>/<parameter>"."""
    return {
        f"{key}/{name}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned."""
    for path, value in tensors.items():
        key, name = path.split("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][key] = value.to(parameter.device)


def digest(*parts: object) -> str:
    """Return a hex digest of modules' tensors and of JSON values, in order."""
    result = hashlib.sha256()
    for part in parts:
        if not isinstance(part, nn.Module):
            result.update(json.dumps(part, sort_keys=True, default=str).encode())
            continue
        for name, tensor in tensors_of(part).items():
            result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            result.update(_bytes(tensor))
    return result.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    array = tensor.to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(array).data


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
