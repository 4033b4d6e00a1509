"""Tokenized data sets on disk, so that a data set is tokenized once and may be larger than memory.

An entry is a folder `<hash of the content>` with one `.npy` file for each array and a `meta.json` that has their types,
shapes and digests. It is written beside its place, as the data set is tokenized, and moved in when it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bertcompress.data.entries import BUDGET, PARTIAL, locked, make_room, remove, used
from bertcompress.data.sources import cache_folder
from bertcompress.data.tokenize import Part, Stream, empty, slices
from bertcompress.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

FORMAT = 1  # to be raised whenever the same content would be tokenized to other arrays, or stored in another way
HASHED_ROWS = 1000  # examples hashed at once; a part of the key, as the examples' columns alternate in such blocks
HEADER = 128  # bytes of a .npy file before the numbers; room for a shape that is only known at the end
BLOCK = 1 << 20
STAMP = "meta.json"


def features_cache() -> Path:
    """Return the folder for tokenized data sets, in the user's cache or in `$BERTCOMPRESS_CACHE`."""
    return cache_folder() / "features"


def usable_cache() -> Path | None:
    """Return the folder of tokenized data sets, or None with a warning where it cannot be written to."""
    folder = features_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("%s cannot be made (%s): tokenized data are kept in memory.", folder, error.strerror)
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        log.warning("%s cannot be written to: tokenized data are kept in memory.", folder)
        return None
    return folder


def content_key(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, stream: Stream, kind: str) -> str:
    """Return a hex digest of all that the arrays depend on: examples, tokenizer, kind and settings.

    Equal content gives an equal key, wherever it was loaded from and whatever the data set and the tokenizer are
    called.

    Args:
        dataset: the examples; only the columns that the stream reads count.
        tokenizer: its whole state counts, and the version of the package that runs it.
        stream: what the data set is to be made into.
        kind: of the features.
    """
    digest = hashlib.blake2b(digest_size=16)
    about = [FORMAT, kind, sorted(stream.settings.items()), sorted(stream.shapes.items()), sorted(stream.columns)]
    digest.update(json.dumps(about).encode())
    digest.update(_tokenizer_state(tokenizer))
    for _, values in slices(dataset, sorted(stream.columns), HASHED_ROWS):
        digest.update(json.dumps(values, sort_keys=True).encode())
    return digest.hexdigest()


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """Return a digest of all that a tokenizer's results depend on, but not of what the last call left set in it."""
    import tokenizers
    import transformers

    names = ("pad_token_id", "unk_token_id", "truncation_side", "split_special_tokens")
    about = {name: getattr(tokenizer, name, None) for name in names}
    digest = hashlib.blake2b(json.dumps(about).encode(), digest_size=16)
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state.update(truncation=None, padding=None, version=tokenizers.__version__)
        digest.update(json.dumps(state, sort_keys=True).encode())
        return digest.digest()
    digest.update(transformers.__version__.encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(json.dumps([path.name, path.stat().st_size]).encode())
                digest.update(path.read_bytes())
    return digest.digest()


def stored(folder: Path, key: str, stream: Stream) -> Part:
    """Return the arrays of an entry, memory-mapped and read-only; they are made first if they are not there.

    Of several processes that want the same entry one makes it and the others wait. A damaged entry is made anew, with
    a warning. After an entry was made, others are deleted as long as all of them together exceed `BUDGET` bytes,
    first those that were not used for the longest time, but never the new one.

    Args:
        folder: the cache.
        key: of the content, see `content_key`.
        stream: makes the arrays.

    Raises:
        DataError: if the cache cannot be read or written.
    """
    entry = folder / key
    try:
        with locked(folder, key):
            arrays = _open(entry)
            if arrays is not None:
                return arrays
            log.info("tokenizing into %s", entry)
            scratch = entry.with_name(key + PARTIAL)
            shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was ended
            try:
                _write(scratch, stream)
                os.replace(scratch, entry)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            arrays = _open(entry)
        make_room(folder, key, STAMP, BUDGET)
    except OSError as error:
        raise DataError(
            f"cache of tokenized data {folder}: {error}; set $BERTCOMPRESS_CACHE to a folder with room that can be "
            "written, or give cache=None to keep everything in memory."
        ) from error
    if arrays is None:
        raise DataError(f"cache of tokenized data {entry}: what was written is not what is read; check the disk.")
    return arrays


class _Writer:
    """A .npy file that grows; its header is filled in at the end, when the shape is known."""

    def __init__(self, path: Path, kind: str, width: int) -> None:
        self._kind, self._tail = kind, (width,) if width else ()
        self._count, self._digest = 0, hashlib.blake2b(digest_size=16)
        self.file = path.open("wb")
        self.file.write(b"\0" * HEADER)

    def append(self, values: npt.NDArray[Any]) -> None:
        data = np.ascontiguousarray(values, dtype=self._kind).reshape(-1, *self._tail)
        self._count += len(data)
        self._digest.update(data.data)
        self.file.write(data.data)

    def close(self) -> dict[str, Any]:
        """Complete the file and return what `meta.json` says about it."""
        shape = (self._count, *self._tail)
        self.file.seek(0)
        self.file.write(_header(self._kind, shape))
        self.file.close()
        return {"dtype": self._kind, "shape": list(shape), "digest": self._digest.hexdigest()}


def _header(kind: str, shape: tuple[int, ...]) -> bytes:
    """Return what stands before the numbers in a .npy file of format 1.0, always `HEADER` bytes."""
    text = repr({"descr": kind, "fortran_order": False, "shape": shape})
    body = text.ljust(HEADER - 11).encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


def _write(folder: Path, stream: Stream) -> None:
    """Write the stream's arrays and their description into a new folder, a part at a time."""
    folder.mkdir(parents=True)
    known = "labels" not in stream.shapes or stream.known(empty(*stream.shapes["labels"]))
    with contextlib.ExitStack() as stack:
        writers = {name: _Writer(folder / f"{name}.npy", *shape) for name, shape in stream.shapes.items()}
        for writer in writers.values():
            stack.callback(writer.file.close)
        for piece in stream.pieces():
            known = known or ("labels" in piece and stream.known(piece["labels"]))
            for name, values in piece.items():
                writers[name].append(values)
        arrays = {name: writer.close() for name, writer in writers.items()}
    if not known:
        del arrays["labels"]
        (folder / "labels.npy").unlink()
    content = {"format": FORMAT, "columns": list(stream.columns), "settings": dict(stream.settings), "arrays": arrays}
    meta = {"content": content, "digest": _digest_of(content)}
    (folder / STAMP).write_text(json.dumps(meta, indent=2), encoding="utf-8")


def _digest_of(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _open(entry: Path) -> Part | None:
    """Return an entry's arrays, or None if there is none or it is damaged, in which case it is removed."""
    if not entry.exists():
        return None
    try:
        arrays = _verified(entry)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        log.warning("the tokenized data in %s is damaged (%s); it is made anew.", entry, error)
        remove(entry)
        return None
    used(entry / STAMP)
    return arrays


def _verified(entry: Path) -> Part:
    """Return an entry's arrays; raise `ValueError` and the like if a file is not as it was written."""
    meta = json.loads((entry / STAMP).read_text(encoding="utf-8"))
    if meta["digest"] != _digest_of(meta["content"]):
        raise ValueError("meta.json was changed")
    arrays: Part = {}
    for name, about in meta["content"]["arrays"].items():
        path, kind, shape = entry / f"{name}.npy", about["dtype"], tuple(about["shape"])
        digest = hashlib.blake2b(digest_size=16)
        with path.open("rb") as file:  # not through the memory map, whose pages would count as this process's memory
            if file.read(HEADER) != _header(kind, shape):
                raise ValueError(f"the header of {path.name} was changed")
            while block := file.read(BLOCK):
                digest.update(block)
        if digest.hexdigest() != about["digest"]:
            raise ValueError(f"the numbers in {path.name} were changed or are incomplete")
        arrays[name] = _mapped(path, kind, shape)
    return arrays


def _mapped(path: Path, kind: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if not shape[0]:  # nothing cannot be mapped
        return empty(kind, shape[1] if len(shape) > 1 else 0)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # still mapped; plain arrays slice faster
