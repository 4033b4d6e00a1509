"""Large tasks of one's own in the user's cache, found again by the bytes of their files and what was asked of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bertcompress.data import saved
from bertcompress.data.sources import cache_folder
from bertcompress.data.tables import Scratch, Sink, mapped_dataset, writing
from bertcompress.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 1  # to be raised whenever the same files should give other tables
_FACTS = "task.json"


@dataclass(frozen=True)
class Facts:
    """What is known of a task besides its examples."""

    labels: tuple[str, ...]
    notes: tuple[str, ...]
    scheme: str = ""


def kept_folder() -> Path:
    """Return the folder of the cache that large tasks are kept in."""
    return cache_folder() / "tasks"


def files_of(path: Path) -> list[Path]:
    """Return the files that a path stands for: itself, or those of a folder that `datasets` saved."""
    if not path.is_dir():
        return [path]
    return [path / "dataset_info.json", path / "state.json", *saved.data_files(path)]


def key_of(paths: Mapping[str, Path], asked: Mapping[str, object]) -> str:
    """Return the name of a task's entry in the cache.

    Args:
        paths: of each split.
        asked: what else decides how the files are read; plain JSON values.

    Raises:
        DataError: if a file cannot be read.
    """
    digest = hashlib.blake2b(json.dumps([FORMAT, asked, list(paths)], sort_keys=True).encode(), digest_size=16)
    for path in paths.values():
        for file in files_of(path):
            digest.update(_digest(file))
    return digest.hexdigest()


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b(path.name.encode("utf-8", "surrogateescape"))
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise DataError(f"{path}: it cannot be read ({error.strerror or error}).") from error
    return digest.digest()


def state_of(paths: Mapping[str, Path]) -> list[tuple[int, int]]:
    """Return size and time of every file, to notice those that change while they are read."""
    return [(found.st_size, found.st_mtime_ns) for found in _stats(paths)]


def _stats(paths: Mapping[str, Path]) -> Iterator[os.stat_result]:
    for path in paths.values():
        for file in files_of(path):
            try:
                yield file.stat()
            except OSError:
                raise DataError(f"{file}: there is no such file.") from None


def find(key: str) -> tuple[Facts, dict[str, Dataset]] | None:
    """Return what the cache holds, or None if it holds nothing or something that is not complete."""
    folder = kept_folder() / key
    try:
        values = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        sizes = {split: (folder / f"{split}.arrow").stat().st_size for split in values["bytes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if sizes != values["bytes"]:
        return None
    splits = {split: mapped_dataset(folder / f"{split}.arrow") for split in sizes}
    return Facts(tuple(values["labels"]), tuple(values["notes"]), values["scheme"]), splits


def keep(key: str, sinks: Mapping[str, Sink], facts: Facts, scratch: Scratch) -> dict[str, Dataset]:
    """Move the splits into the cache and return them from there, mapped into memory.

    Raises:
        DataError: if the cache cannot be written.
    """
    made = scratch.path("made")
    folder = kept_folder() / key
    with writing(folder.parent):
        made.mkdir()
        sizes = {}
        for split, sink in sinks.items():
            path = made / f"{split}.arrow"
            os.replace(sink.spill(), path)
            sizes[split] = path.stat().st_size
        text = json.dumps({**asdict(facts), "bytes": sizes})
        (made / _FACTS).write_text(text, encoding="utf-8")
        try:
            os.replace(made, folder)
        except OSError:  # another process was faster, or what lies there is damaged
            if find(key) is None:
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(made, folder)
    found = find(key)
    if found is None:
        raise DataError(f"cache {folder}: what was written cannot be read; is the disk full?")
    return found[1]
