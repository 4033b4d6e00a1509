"""Deterministic splits by a hash of the text, so that duplicates never stand on both sides."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_WORD = re.compile(r"\w+")


def normalised(*texts: str) -> str:
    """Return texts stripped of case, punctuation and spacing; texts that agree in this count as duplicates."""
    words = [" ".join(_WORD.findall(text.casefold())) for text in texts]
    return "\t".join(words) if any(words) else "\t".join(texts)


def position(*texts: str) -> float:
    """Return a number in [0, 1) that depends on the normalised texts alone, spread evenly over all texts."""
    data = normalised(*texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=6).digest(), "big") / 2**48


def split_three(positions: Sequence[float], validation: float = 0.1, test: float = 0.1) -> dict[str, list[int]]:
    """Return the example numbers of train, validation and test; the last two get these shares of all texts."""
    bounds = (1 - validation - test, 1 - test)
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for number, at in enumerate(positions):
        parts["train" if at < bounds[0] else "validation" if at < bounds[1] else "test"].append(number)
    return parts


def hold_out(positions: Sequence[float], share: float = 0.1) -> tuple[list[int], list[int]]:
    """Return the example numbers that stay in train and those held out for validation, about `share` of all.

    With so few texts that none falls into the share, the texts at the highest position are held out.
    """
    bound = bound_of(positions, share)
    kept = [number for number, at in enumerate(positions) if at < bound]
    held = [number for number, at in enumerate(positions) if at >= bound]
    return kept, held


def bound_of(positions: Sequence[float] | np.ndarray[Any, Any], share: float = 0.1) -> float:
    """Return the position from which on `hold_out` holds texts out."""
    return min(1 - share, float(max(positions, default=1.0)))
