"""Memory that the C library holds although nothing uses it: kept while it is used again and again, then given back.

A training step frees its tensors and asks for as many in the next. glibc gives large pieces back to the system at
once, and the system zeroes them anew for the next step, a tenth of a small encoder's step. But
batches of many lengths leave free pieces between used ones, which glibc keeps: fine-tuning MiniLM on BC5CDR grew
beyond 3.5 GiB within a quarter of an hour, where 1.4 GiB were in use, and predicting 600 questions by 290 MiB.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator

INTERVAL_SECONDS = 10.0  # for work whose batches need about the same memory; a trim takes some milliseconds


# The parameters of glibc's `mallopt`, and the highest values that it would choose for them itself.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = {_TRIM_THRESHOLD: 1 << 30, _MMAP_THRESHOLD: 1 << 30}
_OWN = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20}


@functools.cache
def _glibc(name: str) -> Callable[..., int] | None:
    """Return a function of glibc; None where the C library has none of this name (macOS, Windows, musl)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return function


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Let freed memory wait for its next use, in the whole process, until the work inside is done.

    Where the environment says how memory is to be kept (`MALLOC_...`, `GLIBC_TUNABLES`), nothing is changed.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        yield
        return
    _set(_KEPT)
    try:
        yield
    finally:
        _set(_OWN)
        trim = _glibc("malloc_trim")
        if trim is not None:
            trim(0)


def _set(values: dict[int, int]) -> None:
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return
    for parameter, value in values.items():
        if not mallopt(parameter, value):  # glibc before 2.35 takes no more than this
            mallopt(parameter, _OWN[parameter])


class MemoryTrimmer:
    """Gives unused memory back from time to time."""

    def __init__(self, interval: float = INTERVAL_SECONDS) -> None:
        """Start the clock; between two times there are at least `interval` seconds."""
        self._interval, self._last = interval, time.monotonic()

    def tick(self) -> None:
        """Give memory back if it is time."""
        now, trim = time.monotonic(), _glibc("malloc_trim")
        if trim is not None and now - self._last >= self._interval:
            trim(0)
            self._last = now
