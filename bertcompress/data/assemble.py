"""The splits of a task of one's own, once each was read: what only all of their rows together can tell.

Classes get their numbers, missing and unknown labels and repeated ids are refused, and texts that two splits share are
counted. Rows are passed on batch by batch, so that memory does not grow with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bertcompress.data.base import HIDDEN
from bertcompress.data.staging import Staged
from bertcompress.data.tables import Scratch, Sink
from bertcompress.errors import DataError, allowed

if TYPE_CHECKING:
    import pyarrow

KEYS_AT_ONCE = 1 << 18  # rows whose ids or texts are compared in memory at the same time
SHARE_HELD_OUT = 0.1


def refuse_missing(staged: Staged, *, hideable: bool) -> None:
    """Refuse a split in which labels are missing, unless all are and they may be hidden.

    Raises:
        DataError: naming the first line, and how many there are.
    """
    if not staged.missing or (hideable and staged.hidden):
        return
    rest = "" if not hideable else ", or take all labels out of the file: they are hidden then"
    raise DataError(
        f"{staged.where(staged.first_missing, staged.label)}: the label is missing, as it is in {staged.missing} of "
        f"{staged.examples} examples; label these, or take them out of the file{rest}."
    )


def refuse_header(staged: Staged) -> None:
    """Refuse a file read without a header line whose first label, unlike all others, occurs only once."""
    once = [name for name, count in staged.counts.items() if count == 1]
    first = next(iter(staged.first), None)
    if staged.examples >= 20 and first is not None and once == [first]:
        raise DataError(
            f"{staged.where(staged.first[first])}: the label is {first!r}, which no other line has, so this seems to "
            "be a header; give the columns by name, or remove the line."
        )


def classes_of(staged: Staged) -> tuple[str, ...]:
    """Return the labels that occur, whole numbers by size and before all others.

    Raises:
        DataError: if there are so many that they must be numbers to predict.
    """
    found = len(staged.counts)
    if found > 1000 and found > staged.examples // 2:
        raise DataError(
            f"{staged.path}, column {staged.label!r}: {found} different labels in {staged.examples} examples; "
            "for numbers to predict use kind: regression."
        )
    return tuple(sorted(staged.counts, key=_label_order))


def _label_order(label: str) -> tuple[int, int, str]:
    try:
        return 0, int(label), label
    except ValueError:
        return 1, 0, label


def numbers_of(staged: Staged, labels: Sequence[str], *, by_number: bool) -> dict[str, int]:
    """Return label as written -> number of its class.

    Args:
        staged: the split.
        labels: names of the classes.
        by_number: whether labels may be the classes' numbers, where no class is called so.

    Raises:
        DataError: naming the first line with another label, and the labels that are allowed.
    """
    numbers = {name: number for number, name in enumerate(labels)}
    if by_number and staged.counts and not any(_label_order(name)[0] == 0 for name in labels):
        digits = {str(number): number for number in range(len(labels))}
        if staged.counts.keys() <= digits.keys():
            return digits
    unknown = [name for name in staged.counts if name not in numbers]
    if unknown:
        first = min(unknown, key=lambda name: staged.first[name])
        some = f"{allowed(labels[:20])} and {len(labels) - 20} more" if len(labels) > 20 else allowed(labels)
        raise DataError(f"{staged.where(staged.first[first], staged.label)}: got {first!r:.80}, allowed are {some}.")
    return numbers


def sample_of_tags(staged: Staged) -> list[list[str]]:
    """Return the tags of the first sentences that have any: enough to see what they are like."""
    for batch in staged.rows.batches():
        if found := [tags for tags in batch.column("tags").to_pylist() if tags]:
            return found
    return []


def repeated_ids(staged: Staged) -> list[tuple[int, int]]:
    """Return the lines of the first pair of examples with the same id (by its hash) in each part of all ids."""
    found = []
    parts = -(-staged.examples // KEYS_AT_ONCE)
    for part in range(parts):
        ids, lines = _ids_of(staged, part, parts)
        order = np.argsort(ids, kind="stable")
        again = np.flatnonzero(ids[order][1:] == ids[order][:-1])
        if len(again):
            pair = min((int(lines[order[at + 1]]), int(lines[order[at]])) for at in again)
            found.append((pair[1], pair[0]))
    return sorted(found, key=lambda pair: pair[1])


def _ids_of(staged: Staged, part: int, parts: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the hashes of ids that fall into a part, and their lines."""
    ids, lines = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in staged.keys.batches():
        column = batch.column("id")
        kept = column.is_valid().to_numpy(zero_copy_only=False)
        values = column.drop_null().to_numpy()
        chosen = values % parts == part
        ids.append(values[chosen])
        lines.append(batch.column("line").to_numpy()[kept][chosen])
    return np.concatenate(ids), np.concatenate(lines)


def overlap(train: Staged, other: Staged) -> int:
    """Return how many examples of `other` have a text that `train` has too, but for case and punctuation."""
    count = 0
    parts = -(-other.examples // KEYS_AT_ONCE)
    for part in range(parts):
        theirs = np.sort(np.concatenate([_part(at, part, parts) for at in _positions(other)]))
        seen = np.zeros(len(theirs), dtype=bool)
        for positions in _positions(train):
            ours = np.unique(_part(positions, part, parts))
            left, right = np.searchsorted(theirs, ours, "left"), np.searchsorted(theirs, ours, "right")
            for start, end in zip(left[left < right], right[left < right], strict=True):
                seen[start:end] = True
        count += int(seen.sum())
    return count


def _positions(staged: Staged) -> Any:
    return (batch.column("position").to_numpy() for batch in staged.keys.batches())


def _part(positions: np.ndarray[Any, Any], part: int, parts: int) -> np.ndarray[Any, Any]:
    return positions if parts == 1 else positions[(positions * parts).astype(np.int64) == part]


def final_schema(kind: str, staged: Staged) -> pyarrow.Schema:
    """Return the types of a task's columns, as `column_types` gives them."""
    import pyarrow

    types = {name: staged.rows.schema.field(name).type for name in staged.rows.schema.names}
    if kind == "classification":
        types["label"] = pyarrow.int64()
    if kind == "tagging":
        types["tags"] = pyarrow.list_(pyarrow.int64())
    return pyarrow.schema(types)


def finish(split: str, kind: str, staged: Staged, numbers: Mapping[str, int], scratch: Scratch) -> Sink:
    """Return a split with numbers for its labels; what was staged is dropped."""
    sink = Sink(final_schema(kind, staged), f"{split}.arrow", scratch)
    for batch in staged.rows.batches():
        sink.write(_numbered(batch, sink.schema, numbers))
    sink.close()
    staged.rows.remove()
    return sink


def finish_held_out(kind: str, staged: Staged, numbers: Mapping[str, int], scratch: Scratch) -> dict[str, Sink]:
    """Return train and validation, about a tenth of the texts, from the only file that there is.

    Raises:
        DataError: if there are too few texts to hold any out.
    """
    schema = final_schema(kind, staged)
    sinks = {split: Sink(schema, f"{split}.arrow", scratch) for split in ("train", "validation")}
    bound = min(1 - SHARE_HELD_OUT, staged.highest)
    for batch, positions in zip(staged.rows.batches(), _positions(staged), strict=True):
        rows, stays = _numbered(batch, schema, numbers), positions < bound
        sinks["train"].write(rows.filter(_mask(stays)))
        sinks["validation"].write(rows.filter(_mask(~stays)))
    for sink in sinks.values():
        sink.close()
    staged.rows.remove()
    if not sinks["train"].rows:
        raise DataError(
            f"{staged.path}: validation was left out, and train has too few different texts to hold any out; "
            "give a file for it."
        )
    return sinks


def _mask(stays: np.ndarray[Any, Any]) -> pyarrow.Array:
    import pyarrow

    return pyarrow.array(stays)


def _numbered(batch: pyarrow.RecordBatch, schema: pyarrow.Schema, numbers: Mapping[str, int]) -> pyarrow.RecordBatch:
    """Return a batch with the numbers of classes for their names."""
    import pyarrow
    from pyarrow import compute

    columns = {name: batch.column(name) for name in schema.names}
    if "tags" in columns:
        tags, words = columns["tags"], columns["words"]
        flat = _look_up(tags.flatten(), numbers)
        if tags.null_count:  # then all are hidden
            flat = pyarrow.array(np.full(len(words.flatten()), HIDDEN))
        sizes = words.value_lengths().to_numpy()
        offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(sizes, dtype=np.int32)])
        columns["tags"] = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), flat)
    elif "label" in columns and schema.field("label").type == pyarrow.int64():
        columns["label"] = _look_up(columns["label"], numbers)
    elif "label" in columns:
        columns["label"] = compute.fill_null(columns["label"], math.nan)
    return pyarrow.RecordBatch.from_pydict(columns, schema=schema)


def _look_up(names: pyarrow.Array, numbers: Mapping[str, int]) -> pyarrow.Array:
    import pyarrow
    from pyarrow import compute

    found = compute.index_in(names, value_set=pyarrow.array(list(numbers), pyarrow.string()))
    places = compute.fill_null(found, len(numbers)).to_numpy(zero_copy_only=False)
    return pyarrow.array(np.array([*numbers.values(), HIDDEN], dtype=np.int64)[places])
