"""Tokenizing piece by piece: every kind of task gives parts of flat arrays that are joined in memory or on disk.

A part holds `input_ids` and `token_type_ids` (tokens,), `lengths` and `examples` (rows,), and what else belongs to
the kind. Each is made from a slice of the data set, so that memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Part = dict[str, npt.NDArray[Any]]
SHAPES: dict[str, tuple[str, int]] = {
    "input_ids": ("<i4", 0),
    "token_type_ids": ("|i1", 0),
    "offsets": ("<i8", 0),
    "examples": ("<i8", 0),
}


@dataclass(frozen=True)
class Stream:
    """A data set that is tokenized while it is read.

    Attributes:
        shapes: numpy type of every array that comes out, and how many numbers each of its entries has, 0 for a plain
            one-dimensional array.
        parts: gives the parts from the first example on.
        known: whether any of a part's labels is not hidden.
    """

    shapes: Mapping[str, tuple[str, int]]
    parts: Callable[[], Iterator[Part]]
    known: Callable[[npt.NDArray[Any]], bool]

    def pieces(self) -> Iterator[Part]:
        """Yield the parts with `offsets`, counted from the start of the data set, in the place of `lengths`."""
        end = 0
        yield {"offsets": np.zeros(1, np.int64)}
        for part in self.parts():
            offsets = end + np.cumsum(part.pop("lengths"))
            end = int(offsets[-1]) if len(offsets) else end
            yield {**part, "offsets": offsets}

    def joined(self) -> Part:
        """Return all the parts as arrays in memory; `labels` only if any of them is known."""
        found: dict[str, list[npt.NDArray[Any]]] = {name: [empty(*shape)] for name, shape in self.shapes.items()}
        for piece in self.pieces():
            for name, values in piece.items():
                found[name].append(values)
        arrays = {name: np.concatenate(values) for name, values in found.items()}
        if "labels" in arrays and not self.known(arrays["labels"]):
            del arrays["labels"]
        return arrays


def empty(kind: str, width: int) -> npt.NDArray[Any]:
    """Return no entries, of a type and width as in `Stream.shapes`."""
    return np.zeros((0, width) if width else 0, kind)


def slices(dataset: Dataset, columns: Sequence[str], size: int) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """Yield the number of the first example and the columns' values of `size` examples after the other."""
    chosen = dataset.select_columns([name for name in columns if name in dataset.column_names])
    for start in range(0, len(chosen), size):
        yield start, chosen[start : start + size]


def flat(rows: Iterable[Iterable[int]], count: int, kind: type[np.generic]) -> npt.NDArray[Any]:
    """Return lists of numbers, `count` numbers in all, one after the other."""
    return np.fromiter(chain.from_iterable(rows), kind, count)


def ranges(starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return `starts[0], starts[0] + 1, ...`, `sizes[0]` numbers, then those of the next range, (sum of sizes,)."""
    before = np.cumsum(sizes) - sizes
    return np.arange(int(sizes.sum()), dtype=np.int64) + np.repeat(starts - before, sizes)


def text_stream(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, chunk: int) -> Stream:
    """Return single texts or pairs as rows; over-long pairs lose tokens from the longer text first."""
    shapes = dict(SHAPES)
    columns = [name for name in ("text", "text_pair", "label") if name in dataset.column_names]
    real = "label" in columns and dataset.features["label"].dtype.startswith("float")
    if "label" in columns:
        shapes["labels"] = ("<f4" if real else "<i8", 0)

    def parts() -> Iterator[Part]:
        for start, values in slices(dataset, columns, chunk):
            part = encode(tokenizer, values["text"], values.get("text_pair"), max_length)
            part["examples"] = np.arange(start, start + len(values["text"]), dtype=np.int64)
            if "labels" in shapes:
                part["labels"] = np.asarray(values["label"], dtype=shapes["labels"][0])
            yield part

    return Stream(shapes, parts, _any_rating if real else _any_class)


def _any_rating(labels: npt.NDArray[Any]) -> bool:
    return not bool(np.isnan(labels).all())


def _any_class(labels: npt.NDArray[Any]) -> bool:
    return bool((labels != -1).any())


def embedding_stream(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, chunk: int) -> Stream:
    """Return texts as rows of their own: of a pair first the row of `text`, then that of `text_pair`."""
    columns = [name for name in ("text", "text_pair") if name in dataset.column_names]

    def parts() -> Iterator[Part]:
        for start, values in slices(dataset, columns, chunk):
            numbers = np.arange(start, start + len(values["text"]), dtype=np.int64)
            texts = list(chain.from_iterable(zip(*values.values(), strict=True)))
            part = encode(tokenizer, texts, None, max_length)
            yield {**part, "examples": np.repeat(numbers, len(columns))}

    return Stream(SHAPES, parts, _any_class)


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, max_length: int) -> Part:
    """Return the tokens of texts or pairs with their special tokens, cut to `max_length`."""
    encoded = tokenizer(
        texts,
        pairs,
        truncation="longest_first",
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=True,
        verbose=False,
    )
    ids, types = encoded["input_ids"], encoded["token_type_ids"]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    total = int(lengths.sum())
    return {
        "input_ids": flat(ids, total, np.int32),
        "token_type_ids": flat(types, total, np.int8),
        "lengths": lengths,
    }
