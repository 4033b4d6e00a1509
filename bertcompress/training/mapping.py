"""Which layer of the teacher teaches which layer of the student; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from bertcompress.errors import ConfigError, allowed

MAPPINGS = ("uniform", "tinybert", "last", "skip", "top", "bottom", "reversed")
Mapping: TypeAlias = str | Sequence[int] | Sequence[Sequence[int]]
Pairs: TypeAlias = tuple[tuple[int, int], ...]


def resolve_mapping(mapping: Mapping, num_student: int, num_teacher: int) -> Pairs:
    """Return (student layer, teacher layer) pairs, both counted from 1, in the student's order.

    - "uniform" (TinyBERT): student layer m learns from layer m*N/M of the N-layer teacher. Where M does not divide N
      the result is rounded up, so the last layer always learns from the last.
    - "tinybert": as uniform, and the output of the embeddings learns from that of the teacher's, which TinyBERT's
      released code does.
    - "last" (MiniLM): only the last layer learns, from the teacher's last.
    - "skip" (BERT-PKD's Skip): as uniform, but the student's last layer is left to the other terms.
    - "top" and "bottom" (TinyBERT's ablation): the M layers of the student learn from the teacher's last or first M.
    - "reversed": as uniform, in the opposite order; a control.
    - one whole number per student layer: the teacher layer for each, 0 leaves the layer alone.
    - pairs: (student layer, teacher layer); layer 0 is the output of the embeddings.

    Args:
        mapping: one of the above.
        num_student: layers of the student.
        num_teacher: layers of the teacher.

    Raises:
        ConfigError: the mapping is unknown, empty, or names a layer that does not exist.
    """
    if isinstance(mapping, str):
        return _named(mapping, num_student, num_teacher)
    entries = list(mapping)
    if entries and all(_is_whole(entry) for entry in entries):
        return _from_numbers(entries, num_student, num_teacher)
    return _from_pairs(entries, num_student, num_teacher)


def _named(name: str, num_student: int, num_teacher: int) -> Pairs:
    if name not in MAPPINGS:
        raise ConfigError(f"mapping: got {name!r}, allowed are {allowed(MAPPINGS)}, numbers or pairs of layers.")
    if name == "last":
        return ((num_student, num_teacher),)
    taught = num_student - 1 if name == "skip" else num_student
    if taught == 0:
        raise ConfigError("mapping: 'skip' leaves out the last layer, and the student has only one; use 'uniform'.")
    uniform = [-(-layer * num_teacher // num_student) for layer in range(num_student + 1)]  # of layers from 0
    if name in ("top", "bottom"):
        return _shifted(name, num_student, num_teacher)
    if name == "reversed":
        return tuple(zip(range(1, num_student + 1), reversed(uniform[1:]), strict=True))
    first = 0 if name == "tinybert" else 1
    return tuple((layer, uniform[layer]) for layer in range(first, taught + 1))


def _shifted(name: str, num_student: int, num_teacher: int) -> Pairs:
    if num_student > num_teacher:
        raise ConfigError(
            f"mapping: {name!r} pairs the student's {num_student} layers with as many of the teacher's, which has "
            f"{num_teacher}; use 'uniform'."
        )
    shift = num_teacher - num_student if name == "top" else 0
    return tuple((layer, layer + shift) for layer in range(1, num_student + 1))


def _from_numbers(numbers: Sequence[Any], num_student: int, num_teacher: int) -> Pairs:
    if len(numbers) != num_student:
        raise ConfigError(
            f"mapping: got {len(numbers)} numbers, allowed is one for each of the student's {num_student} layers; "
            "0 leaves a layer alone."
        )
    pairs = [(layer, int(number)) for layer, number in enumerate(numbers, start=1) if number != 0]
    return _checked(pairs, num_student, num_teacher)


def _from_pairs(entries: Sequence[Any], num_student: int, num_teacher: int) -> Pairs:
    pairs = []
    for entry in entries:
        pair = isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == 2
        if not pair or not all(map(_is_whole, entry)):
            raise ConfigError(f"mapping: got {entry!r}, allowed are pairs of numbers [student layer, teacher layer].")
        pairs.append((int(entry[0]), int(entry[1])))
    return _checked(sorted(pairs), num_student, num_teacher)


def _checked(pairs: Sequence[tuple[int, int]], num_student: int, num_teacher: int) -> Pairs:
    if not pairs:
        raise ConfigError("mapping: no layer of the student learns from the teacher; name at least one pair.")
    if len(set(pairs)) != len(pairs):
        raise ConfigError(f"mapping: a pair is named twice in {list(pairs)}; name each once.")
    for pair in pairs:
        for who, layer, last in zip(("student", "teacher"), pair, (num_student, num_teacher), strict=True):
            if not 0 <= layer <= last:
                raise ConfigError(f"mapping: the pair {pair} names {who} layer {layer}, allowed are 0 to {last}.")
    return tuple(pairs)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
