"""Format version and checksums of saved models: what is newer, damaged or truncated is refused, never loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from bertcompress.errors import CheckpointError

FORMAT_VERSION = 1


def check_format_version(version: object) -> None:
    """Refuse a format that this library does not know.

    Raises:
        CheckpointError: the version is newer than the library's, or no number.
    """
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"format_version: got {version!r}, allowed are 1 to {FORMAT_VERSION}.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"The model was saved in format_version {version}, and this bertcompress reads up to {FORMAT_VERSION}; "
            "install a newer bertcompress (pip install --upgrade bertcompress)."
        )


def sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def checksums(folder: Path) -> dict[str, str]:
    """Return the digest of every weight file in a folder, by file name."""
    return {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def digest(value: object) -> str:
    """Return the hex digest of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def verify(folder: Path) -> None:
    """Check a saved model's weight files, and the description of its encoder, against the digests in its config.json.

    A folder without digests, or a name that is no local folder, is left to the loader.

    Raises:
        CheckpointError: config.json does not parse, the description was changed, or a weight file is missing, damaged
            or truncated.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Save or copy the model again.") from error
    if config.get("encoder_sha256") not in (None, digest(config.get("encoder_spec"))):
        raise CheckpointError(
            f"{path} is damaged or was edited: its encoder_spec does not give the checksum encoder_sha256, and the "
            "network would compute something else. Save or copy the model again."
        )
    for name, expected in (config.get("weights_sha256") or {}).items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; the model was saved with it. Save or copy the model again.")
        if sha256(file) != expected:
            raise CheckpointError(
                f"{file} is damaged or truncated: its bytes do not give the checksum in {path.name}. "
                "Save or copy the model again."
            )
