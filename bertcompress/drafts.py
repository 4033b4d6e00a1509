"""Files that appear in one piece: an interruption, or a full disk, leaves older ones whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from bertcompress.errors import CheckpointError


@contextlib.contextmanager
def in_one_piece(folder: Path, what: str) -> Iterator[Path]:
    """Yield an empty folder; what is written there moves into its place when all of it has been written.

    Args:
        folder: the place, made if need be; other files there stay.
        what: is written, for the message.

    Raises:
        CheckpointError: the place cannot be written to, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as name:  # the same disk, so that moving is all
            yield Path(name)
            for made in sorted(Path(name).iterdir()):
                if made.is_dir():
                    shutil.rmtree(folder / made.name, ignore_errors=True)
                os.replace(made, folder / made.name)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{what} cannot be written: {reason}; what was there before is unchanged. Give another place, or free "
            "some space."
        ) from error
