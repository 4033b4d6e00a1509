"""A run's folder: one owner at a time, steps that appear only when complete, results written in one piece."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from bertcompress.encoder.integrity import sha256
from bertcompress.errors import CheckpointError, RunError

logger = logging.getLogger(__name__)

STEP_FILE, CARD, HISTORY = "step.json", "README.md", "history.json"
WORK = ".work"  # what is not complete yet; on the same disk, so that a rename completes it
TRACKERS = "trackers"  # the experiment trackers' own files, beside the checkpoints


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        """Say where it is; nothing is written yet."""
        self.path = path

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Create the folder if need be and hold it; the operating system lets go of it however this process ends.

        Raises:
            RunError: another process holds it, it cannot be written, or the disk is full.
        """
        lock = FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(
                f"{self.path} is in use by another run; wait for it, stop it, or choose another folder with --output."
            ) from error
        except OSError as error:
            raise RunError(
                f"{self.path}: the run's folder cannot be written ({error}); choose another with --output."
            ) from error
        try:
            yield
        except (OSError, SafetensorError, CheckpointError) as error:
            if not _disk_is_full(error):
                raise
            raise RunError(
                f"{self.path}: the disk is full ({error}). Finished steps are kept; free some space and run the same "
                "again."
            ) from error
        finally:
            lock.release()

    def step(self, name: str) -> Path:
        """Return the place of a complete step."""
        return self.path / name

    def finished(self, name: str, fingerprint: str) -> dict[str, Any] | None:
        """Return what step.json says of a complete step.

        None if there is none, its inputs have changed, or one of its files is damaged; the log says which.
        """
        path = self.step(name) / STEP_FILE
        if not path.is_file():
            return None
        record = _unsealed(path)
        if record is None:
            logger.warning("%s is damaged; the step is done again", path)
            return None
        if record["fingerprint"] != fingerprint:
            logger.info("%s: its settings or inputs have changed since; the step is done again", name)
            return None
        for file, digest in record["files"].items():
            if not (path.with_name(file).is_file() and sha256(path.with_name(file)) == digest):
                logger.warning("%s is missing or damaged; the step is done again", path.with_name(file))
                return None
        return record

    def work(self, name: str) -> Path:
        """Return the folder of a step that is under way, kept between interruptions."""
        folder = self.path / WORK / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def complete(self, name: str, model: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Move a step's saved model into its place, over an older one, with a step.json; forget its checkpoints.

        Args:
            name: of the step.
            model: the saved model's folder, on the same disk.
            facts: what step.json says, beside the digests of the files.

        Returns:
            What step.json says, as `finished` will return it.
        """
        work = self.path / WORK / name
        record = {**facts, "files": _digests(model)}
        write_atomically(model / STEP_FILE, to_json({**record, "checksum": fingerprint(record)}))
        if (work / TRACKERS).is_dir():
            (work / TRACKERS).rename(model / TRACKERS)
        for path in (*model.iterdir(), model):
            if path == model or path.is_file():
                _to_disk(path)  # before the checkpoints go: a power cut must not take both
        place, old = self.step(name), self.path / WORK / f"{name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        model.rename(place)
        _to_disk(self.path)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
        return record

    def tidy(self) -> None:
        """Remove what interruptions have left of steps that are complete by now."""
        shutil.rmtree(self.path / WORK, ignore_errors=True)

    def write(self, name: str, text: str) -> Path:
        """Write a file in one piece: a reader sees the old one or the new one."""
        return write_atomically(self.path / name, text)


def write_atomically(path: Path, text: str) -> Path:
    """Write a text file beside its place and move it there; return the path."""
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
    return path


def to_json(values: Mapping[str, Any]) -> str:
    """Return readable JSON that is the same for the same values."""
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def fingerprint(*parts: object) -> str:
    """Return a digest of JSON-like parts; equal parts give equal digests."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def model_fingerprint(record: Mapping[str, Any]) -> str:
    """Return a digest of a finished step's configuration, weights and tokenizer; how long it took does not count."""
    return fingerprint({name: digest for name, digest in record["files"].items() if name != HISTORY})


def _digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a saved model, by name; the card is written anew by every run."""
    own = (STEP_FILE, CARD)
    return {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name not in own}


def _unsealed(path: Path) -> dict[str, Any] | None:
    """Return a step.json, or None if it is not, byte for byte in meaning, what was written."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.pop("checksum", None) != fingerprint(record):
        return None
    return record


def _disk_is_full(error: BaseException) -> bool:
    # safetensors writes in Rust and keeps only the text of the system's error.
    full = (errno.ENOSPC, errno.EDQUOT)
    here = getattr(error, "errno", None) in full or any(f"os error {number})" in str(error) for number in full)
    return here or (error.__cause__ is not None and _disk_is_full(error.__cause__))


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
