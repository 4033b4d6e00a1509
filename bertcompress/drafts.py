"""Files that appear when all of them are written: an interruption, or a full disk, leaves older ones whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError

from bertcompress.errors import CheckpointError


@contextlib.contextmanager
def in_one_piece(folder: Path, what: str) -> Iterator[Path]:
    """Yield an empty folder; what is written there moves into its place when all of it has been written.

    Files move one after the other; where one cannot, those that have moved are taken back. A kill in just that moment
    leaves some of the new ones.

    Args:
        folder: the place, made if need be; other files there stay.
        what: is written, for the message.

    Raises:
        CheckpointError: the place cannot be written to, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as name:  # the same disk, so that moving is all
            draft, aside = Path(name) / "new", Path(name) / "old"
            draft.mkdir()
            aside.mkdir()
            yield draft
            _move(sorted(draft.iterdir()), folder, aside)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{what} cannot be written: {reason}; what was there before is unchanged. Give another place, or free "
            "some space."
        ) from error


def _move(made: Sequence[Path], folder: Path, aside: Path) -> None:
    """Move files into a folder, and older ones aside; all of them back if one of them fails."""
    if len(made) == 1 and not made[0].is_dir():
        os.replace(made[0], folder / made[0].name)  # in one instant
        return
    moved: list[Path] = []
    try:
        for each in made:
            place = folder / each.name
            if os.path.lexists(place):
                os.replace(place, aside / each.name)
            moved.append(place)
            os.replace(each, place)
    except BaseException:
        for place in moved:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
        for old in aside.iterdir():
            os.replace(old, folder / old.name)
        raise
