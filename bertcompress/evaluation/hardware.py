"""The machine that a measurement was taken on: processor, vector instructions, threads."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

CPUINFO = Path("/proc/cpuinfo")
UNKNOWN = "unknown"
# Instruction sets that change how fast an encoder runs; the other hundred flags only hide them.
_TELLING = ("sse4", "avx", "amx", "fma", "f16c", "asimd", "sve", "i8mm", "bf16", "neon", "feat_")


def isa_flags(cpuinfo: Path = CPUINFO) -> list[str]:
    """Return the vector instruction sets of the processor, sorted, or `["unknown"]` where nothing says.

    Args:
        cpuinfo: where Linux lists them; on macOS `sysctl` is asked.
    """
    if sys.platform == "darwin":
        words = _sysctl_flags()
    else:
        lines = _cpuinfo(cpuinfo)
        words = (lines.get("flags") or lines.get("Features") or "").split()
    found = {word for word in map(str.lower, words) if word.startswith(_TELLING) or word in ("sme", "sme2")}
    return sorted(found) or [UNKNOWN]


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the processor's name, or "unknown"."""
    if sys.platform == "darwin":
        return _sysctl("-n", "machdep.cpu.brand_string").strip() or UNKNOWN
    return _cpuinfo(cpuinfo).get("model name") or platform.processor() or UNKNOWN


def usable_cores() -> int:
    """Return the logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Return how many processes wanted a core in the last minute, or None where the platform does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe_hardware() -> dict[str, Any]:
    """Return the machine as plain JSON types: cpu, cores, isa, torch_cpu_capability, threads, platform."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "isa": isa_flags(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def _cpuinfo(path: Path) -> dict[str, str]:
    """Return the first processor's lines; empty where there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n", 1)[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _sysctl(*arguments: str) -> str:
    program = shutil.which("sysctl")
    if program is None:
        return ""
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=10, check=False).stdout


def _sysctl_flags() -> list[str]:
    intel = _sysctl("-n", "machdep.cpu.features") + " " + _sysctl("-n", "machdep.cpu.leaf7_features")
    apple = (line.partition(":") for line in _sysctl("hw.optional").splitlines())
    return [*intel.split(), *(name.rsplit(".", 1)[-1] for name, _, value in apple if value.strip() == "1")]
