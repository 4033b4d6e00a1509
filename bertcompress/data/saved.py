"""Folders that `datasets` saved (`save_to_disk`): their Arrow files are read directly, and no code in them is run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.errors import DataError, allowed

if TYPE_CHECKING:
    from pyarrow import RecordBatch

_SPLITS, _INFO, _STATE = "dataset_dict.json", "dataset_info.json", "state.json"


def is_saved(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`, of one data set or of several splits."""
    return (folder / _SPLITS).is_file() or (folder / _STATE).is_file()


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; of a data set without splits it is `{"": folder}`.

    Raises:
        DataError: if the folder was not written by `save_to_disk`, or is damaged.
    """
    if not is_saved(folder):
        raise DataError(
            f"{folder}: this folder was not saved by `datasets` (it has neither {_SPLITS} nor {_STATE}); "
            "name a file, or save the data set with save_to_disk."
        )
    if not (folder / _SPLITS).is_file():
        return {"": folder}
    names = _read(folder / _SPLITS).get("splits")
    if not isinstance(names, list) or not names:
        raise DataError(f"{folder / _SPLITS}: it names no splits; save the data set anew.")
    return {str(name): folder / _inside(folder, name) for name in names}


def split_folder(folder: Path, split: str) -> Path:
    """Return the folder of one split of what `save_to_disk` wrote, or the folder itself if it has no splits.

    Raises:
        DataError: if it has splits and not this one, or was not written by `save_to_disk`.
    """
    folders = split_folders(folder)
    if "" not in folders and split not in folders:
        raise DataError(f"{folder}: it has no split {split!r}; its splits are {allowed(folders)}, name one's folder.")
    return folders.get(split, folder)


def features(folder: Path) -> dict[str, Any]:
    """Return column -> type, as `datasets` describes types.

    Raises:
        DataError: if the description is missing or malformed.
    """
    if not (folder / _STATE).is_file():
        folder = split_folders(folder).get("", folder)
    described = _read(folder / _INFO).get("features")
    if not isinstance(described, dict) or not described:
        raise DataError(f"{folder / _INFO}: it names no columns under 'features'; save the data set anew.")
    return described


def class_names(described: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return column -> names of the classes, for those columns that hold classes or lists of them."""
    found = {}
    for column, kind in described.items():
        inner = (
            kind.get("feature", kind) if isinstance(kind, dict) else kind[0] if isinstance(kind, list) and kind else {}
        )
        names = inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None
        if isinstance(names, list) and names:
            found[column] = tuple(map(str, names))
    return found


def data_files(folder: Path) -> list[Path]:
    """Return the Arrow files of one data set, in order.

    Raises:
        DataError: if the folder does not say, or names files elsewhere.
    """
    listed = _read(folder / _STATE).get("_data_files")
    if not isinstance(listed, list):
        raise DataError(f"{folder / _STATE}: it does not list the data files; save the data set anew.")
    names = [item.get("filename") if isinstance(item, dict) else item for item in listed]
    return [folder / _inside(folder, name) for name in names]


def batches(folder: Path) -> Iterator[RecordBatch]:
    """Yield the rows of one data set's Arrow files, in order.

    Raises:
        DataError: for a file that is missing; one that is damaged raises pyarrow's errors.
    """
    import pyarrow

    for path in data_files(folder):
        if not path.is_file():
            raise DataError(f"{path}: there is no such file; save the data set anew.")
        with pyarrow.OSFile(str(path)) as file, pyarrow.ipc.open_stream(file) as reader:
            yield from reader


def _inside(folder: Path, name: object) -> str:
    """Return the name of a file directly in the folder; another could lead anywhere."""
    if not isinstance(name, str) or not name or name in (".", "..") or any(sign in name for sign in "/\\:\0"):
        raise DataError(f"{folder}: it names the file {name!r}, allowed are names of files in the folder itself.")
    return name


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; save the data set anew with save_to_disk.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: it cannot be read as JSON ({error}).") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: got {type(values).__name__}, expected is an object.")
    return values
