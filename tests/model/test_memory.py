from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


KEPT = """
import numpy as np
from bertcompress import memory
from tests.model.test_memory import resident_mib

before = resident_mib()
with memory.kept_memory():
    piece = np.ones(25_000_000)  # 191 MiB
    del piece
    print(resident_mib() - before)
print(resident_mib() - before)
piece = np.ones(25_000_000)
del piece
print(resident_mib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is told to keep memory")
def test_large_pieces_are_kept_for_their_next_use_and_given_back_at_the_end():
    # In a process of its own: what other tests have left in this one's memory would be given back as well, or reused.
    if memory._glibc("mallopt") is None:
        pytest.skip("this C library has no mallopt")
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True, cwd=root)
    inside, behind, later = map(float, done.stdout.split())
    assert inside > 150
    assert behind < 50
    assert later < 50
