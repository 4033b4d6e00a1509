from __future__ import annotations

import sys

import numpy as np
import pytest

from bertcompress import memory
from bertcompress.evaluation.memory import STATUS


def resident_mib():
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is asked to give memory back")
def test_free_pieces_between_used_ones_are_given_back():
    if memory._glibc("malloc_trim") is None:
        pytest.skip("this C library has no malloc_trim")
    pieces = [np.ones(15_000) for _ in range(2000)]  # 120 kB each: below the size that is mapped on its own
    kept = pieces[::2]
    del pieces
    before = resident_mib()
    memory.MemoryTrimmer().tick()  # its time has not come
    assert resident_mib() > before - 50
    memory.MemoryTrimmer(0.0).tick()
    assert resident_mib() < before - 50
    assert sum(float(piece[0]) for piece in kept) == 1000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is told to keep memory")
def test_large_pieces_are_kept_for_their_next_use_and_given_back_at_the_end():
    if memory._glibc("mallopt") is None:
        pytest.skip("this C library has no mallopt")
    before = resident_mib()
    with memory.kept_memory():
        piece = np.ones(25_000_000)  # 191 MiB
        del piece
        assert resident_mib() > before + 150
    assert resident_mib() < before + 50
    piece = np.ones(25_000_000)
    del piece
    assert resident_mib() < before + 50
