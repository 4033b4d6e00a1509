"""Large tasks of one's own in the user's cache, found again by the bytes of their files and what was asked of them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.data import saved
from bertcompress.data.entries import BUDGET, locked, make_room, remove, used
from bertcompress.data.sources import cache_folder
from bertcompress.data.tables import Scratch, Sink, mapped_dataset, writing
from bertcompress.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

FORMAT = 2  # to be raised whenever the same files should give other tables
_FACTS = "task.json"


@dataclass(frozen=True)
class Facts:
    """What is known of a task besides its examples; nothing that depends on where its files are or on the metric.

    Attributes:
        labels: names of the classes or tags.
        scheme: of tags.
        known: what its notes are made of; plain JSON values.
    """

    labels: tuple[str, ...]
    scheme: str = ""
    known: dict[str, Any] = field(default_factory=dict)


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


def _state_of(paths: Mapping[str, Path]) -> list[tuple[int, int]]:
    """Return size and time of every file, to notice those that change while they are read."""
    return [(found.st_size, found.st_mtime_ns) for found in _stats(paths)]


def _stats(paths: Mapping[str, Path]) -> Iterator[os.stat_result]:
    for path in paths.values():
        for file in files_of(path):
            try:
                yield file.stat()
            except OSError:
                raise DataError(f"{file}: there is no such file.") from None


def load(
    paths: Mapping[str, Path], asked: Mapping[str, object], make: Callable[[Scratch], tuple[Facts, Mapping[str, Sink]]]
) -> tuple[Facts, dict[str, Dataset]]:
    """Return facts and splits of a task, from the cache if it holds them, where large ones are put once they are made.

    Args:
        paths: of the file, or the saved folder, of each split.
        asked: what else decides what the tables hold; plain JSON values.
        make: reads the files.

    Raises:
        DataError: if a file cannot be read or changes meanwhile, the cache cannot be written, or `make` raises it.
    """
    before = _state_of(paths)
    key = key_of(paths, asked)
    if (found := find(key)) is not None:
        return found
    with Scratch(kept_folder()) as scratch:
        facts, sinks = make(scratch)
        if _state_of(paths) != before:
            raise DataError(f"{next(iter(paths.values()))}: the files changed while they were read; try again.")
        if any(sink.path is not None for sink in sinks.values()):
            return facts, keep(key, sinks, facts, scratch)
        return facts, {split: sink.dataset() for split, sink in sinks.items()}


def find(key: str) -> tuple[Facts, dict[str, Dataset]] | None:
    """Return what the cache holds, or None if it holds nothing, or something damaged, which a warning tells."""
    folder = kept_folder() / key
    if not folder.exists():
        return None
    try:
        facts, names = _verified(folder)
        splits = {split: mapped_dataset(folder / f"{split}.arrow") for split in names}
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        log.warning("the tables in %s are damaged (%s); they are made anew.", folder, error)
        return None
    used(folder / _FACTS)
    return facts, splits


def _verified(folder: Path) -> tuple[Facts, list[str]]:
    """Return facts and splits of an entry; raise `ValueError` and the like if a file is not as it was written."""
    values = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    content = values["content"]
    if values["digest"] != _digest_of(content):
        raise ValueError(f"{_FACTS} was changed")
    for split, digest in content["tables"].items():
        if _digest(folder / f"{split}.arrow").hex() != digest:
            raise ValueError(f"{split}.arrow was changed or is incomplete")
    return Facts(tuple(content["labels"]), content["scheme"], content["known"]), list(content["tables"])


def _digest_of(content: object) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def keep(key: str, sinks: Mapping[str, Sink], facts: Facts, scratch: Scratch) -> dict[str, Dataset]:
    """Move the splits into the cache and return them from there, mapped into memory.

    Afterwards other entries are deleted as long as all of them together exceed the cache's budget, first those that
    were not used for the longest time, and what processes that were ended left behind.

    Raises:
        DataError: if the cache cannot be written.
    """
    made = scratch.path("made")
    folder = kept_folder() / key
    with writing(folder.parent):
        made.mkdir()
        tables = {}
        for split, sink in sinks.items():
            path = made / f"{split}.arrow"
            os.replace(sink.spill(), path)
            tables[split] = _digest(path).hex()
        content = {**asdict(facts), "tables": tables}
        text = json.dumps({"content": content, "digest": _digest_of(content)})
        (made / _FACTS).write_text(text, encoding="utf-8")
        with locked(folder.parent, key):
            if folder.exists():  # it is damaged, or another process was faster
                remove(folder)
            os.replace(made, folder)
        splits = {split: mapped_dataset(folder / f"{split}.arrow") for split in tables}
        make_room(folder.parent, key, _FACTS, BUDGET)
    return splits
