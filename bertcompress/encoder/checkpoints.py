"""The files of a checkpoint: where they are, and what is in them. Only safetensors are read, never pickles."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bertcompress.encoder import integrity
from bertcompress.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

HUB_TIMEOUT = 5  # seconds to wait for the hub to answer at all; its own client would retry for much longer
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def checkpoint_folder(folder_or_name: str | Path) -> Path:
    """Return the local folder of a checkpoint, fetched from the hub if `folder_or_name` is no local folder.

    Raises:
        CheckpointError: there is no such folder, and the hub has no such model or cannot be reached.
    """
    folder = Path(folder_or_name)
    return folder if folder.is_dir() else _from_hub(str(folder_or_name))


def read_config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's config.json.

    Raises:
        CheckpointError: it is missing or does not parse.
    """
    return _read_json(folder / "config.json")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by name, from one safetensors file or from the shards that an index names.

    Raises:
        CheckpointError: a file is missing, damaged or truncated, or there are only pickled weights.
    """
    integrity.verify(folder)
    if (folder / WEIGHTS).is_file():
        return _read_tensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        tensors: dict[str, Tensor] = {}
        for file in _shards(folder / INDEX):
            tensors |= _read_tensors(folder / file)
        return tensors
    if (folder / "pytorch_model.bin").is_file() or (folder / "pytorch_model.bin.index.json").is_file():
        raise CheckpointError(
            f"{folder} has its weights as a pickle only, which may run code when it is read; load it with "
            "transformers where you trust it, and save_pretrained() writes it as safetensors."
        )
    raise CheckpointError(f"{folder} has no {WEIGHTS} and no {INDEX}; save or copy the model again.")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        models = sorted(step.parent.name for step in path.parent.glob("*/step.json"))
        if models:
            raise CheckpointError(
                f"{path.parent} is the folder of a run; its models are {', '.join(map(str, models))} in it."
            )
        raise CheckpointError(f"{path} is missing; save or copy the model again.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Save or copy the model again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: got a {type(values).__name__}, allowed is an object of names and values.")
    return values


def _shards(index: Path) -> list[str]:
    files = sorted(set(_read_json(index).get("weight_map", {}).values()))
    for file in files:
        if Path(file).name != file:
            raise CheckpointError(f"{index}: got the file {file!r}, allowed are files in the same folder.")
    return files


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is missing, damaged or truncated: {error}. Copy the model again.") from error


def _from_hub(name: str) -> Path:
    from transformers.utils.hub import cached_file

    offline = not _hub_answers()
    try:
        config = cached_file(name, "config.json", local_files_only=offline)
        fetched = [cached_file(name, WEIGHTS, local_files_only=offline, _raise_exceptions_for_missing_entries=False)]
        if fetched == [None]:
            index = cached_file(name, INDEX, local_files_only=offline)
            fetched = [cached_file(name, file, local_files_only=offline) for file in _shards(Path(index))]
    except (OSError, ValueError) as error:
        why = "the model hub cannot be reached and has left no copy here" if offline else f"the hub says: {error}"
        raise CheckpointError(
            f"{name!r} is no local folder, and {why}. Give a folder with config.json and {WEIGHTS}."
        ) from error
    return Path(config).parent


def _hub_answers() -> bool:
    """Try the hub once, quickly; behind a proxy only its own client can tell."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    hub = urlsplit(constants.ENDPOINT)
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        with socket.create_connection((hub.hostname or "", port), timeout=HUB_TIMEOUT):
            return True
    except OSError:
        return False
