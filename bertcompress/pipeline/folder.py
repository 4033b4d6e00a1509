"""A run's folder: one owner at a time, steps that appear only when complete, results written in one piece."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bertcompress.errors import RunError

logger = logging.getLogger(__name__)

STEP_FILE = "step.json"
WORK = ".work"  # what is not complete yet; on the same disk, so that a rename completes it


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        """Create the folder if need be."""
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the folder; the operating system lets go of it however this process ends.

        Raises:
            RunError: another process holds it.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(
                f"{self.path} is in use by another run; wait for it, stop it, or choose another folder with --output."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def step(self, name: str) -> Path:
        """Return the place of a complete step."""
        return self.path / name

    def finished(self, name: str, fingerprint: str) -> dict[str, Any] | None:
        """Return what step.json says of a complete step, or None if there is none or its inputs have changed."""
        path = self.step(name) / STEP_FILE
        if not path.is_file():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            logger.warning("%s is damaged; the step is done again", path)
            return None
        if record.get("fingerprint") != fingerprint:
            logger.info("%s: its settings or inputs have changed since; the step is done again", name)
            return None
        return record

    def work(self, name: str) -> Path:
        """Return the folder of a step that is under way, kept between interruptions."""
        folder = self.path / WORK / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def complete(self, name: str, model: Path) -> None:
        """Move a step's finished model into its place, over an older one, and forget its checkpoints."""
        place, old = self.step(name), self.path / WORK / f"{name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        model.rename(place)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.path / WORK / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.path / WORK).rmdir()

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


def weights_fingerprint(folder: Path) -> str:
    """Return a digest of a saved model: its configuration, weights and tokenizer; names and dates do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".txt") and path.name not in ("history.json", STEP_FILE):
            digest.update(path.name.encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
