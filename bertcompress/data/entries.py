"""Folders of a cache: who may work on one, how one is removed, and which ones go when they are too large together.

An entry is a folder called by a hash of 32 digits. It is made beside its place, under a name that ends in `.partial` or
begins with `making-`, and moved in when it is complete. A file of each entry, the stamp, says by its time when the
entry was last used. Locks are files in the folder `locks`, which the system releases if a process ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

BUDGET = 10 * 2**30  # bytes; beyond them the entries that were not used for the longest time are deleted
PARTIAL = ".partial"
MAKING = "making-"
_OWN = re.compile(r"[0-9a-f]{32}(\.partial)?|making-[0-9a-f]{16}")  # the cache's own folders; no other is ever deleted


def lock_path(folder: Path, key: str) -> Path:
    """Return the file that an entry's lock is held on."""
    return folder / "locks" / f"{key}.lock"


@contextlib.contextmanager
def locked(folder: Path, key: str, *, wait: bool = True) -> Iterator[None]:
    """Hold an entry's lock.

    Args:
        folder: the cache.
        key: the entry's name.
        wait: for a process that holds it.

    Raises:
        Timeout: of `filelock`, if another process holds it and it is not to be waited for.
    """
    from filelock import FileLock, Timeout

    path = lock_path(folder, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        log.info("waiting for another process that uses %s", folder / key)
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        lock.release()


def remove(entry: Path) -> None:
    """Delete an entry in such a way that another process sees either all of it or nothing."""
    scratch = entry.with_name(entry.name + PARTIAL)
    shutil.rmtree(scratch, ignore_errors=True)
    os.replace(entry, scratch)
    shutil.rmtree(scratch, ignore_errors=True)


def used(stamp: Path) -> None:
    """Note that an entry was used now, given its stamp."""
    with contextlib.suppress(OSError):
        os.utime(stamp)


def make_room(folder: Path, keep: str, stamp: str, budget: int) -> None:
    """Delete what ended processes left behind, and the least recently used entries beyond the budget.

    Args:
        folder: the cache.
        keep: the entry that stays in any case.
        stamp: name of the file in each entry that says when it was last used.
        budget: bytes that all entries together may have.
    """
    entries = [path for path in folder.iterdir() if _OWN.fullmatch(path.name) and path.name != keep and path.is_dir()]
    sizes = {path: _size(path) for path in entries}
    total = _size(folder / keep) + sum(sizes.values())
    for path in sorted(entries, key=lambda path: (not _left(path), _last_used(path / stamp))):
        if _left(path) or total > budget:
            total -= sizes[path] if _removed(path) else 0


def _left(path: Path) -> bool:
    """Return whether a folder is not complete."""
    return path.suffix == PARTIAL or path.name.startswith(MAKING)


def _removed(path: Path) -> bool:
    """Delete an entry, or what is left of one, unless a process is working on it; return whether it is gone."""
    from filelock import Timeout

    try:
        with locked(path.parent, path.name.removesuffix(PARTIAL), wait=False):
            if _left(path):
                shutil.rmtree(path)
            else:
                remove(path)
                log.info("deleted %s, which was not used for the longest time", path)
            if path.name.startswith(MAKING):  # no other folder will ever have this name
                lock_path(path.parent, path.name).unlink(missing_ok=True)
    except (Timeout, OSError):  # in use, or another process was faster
        return False
    return True


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):  # another process may delete it meanwhile
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0


def _last_used(stamp: Path) -> float:
    with contextlib.suppress(OSError):
        return stamp.stat().st_mtime
    return 0.0
