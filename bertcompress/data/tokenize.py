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

from bertcompress.errors import ConfigError

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
        columns: of the data set, those that are read.
        settings: what the arrays depend on besides the columns and the tokenizer.
        parts: gives the parts from the first example on.
        known: whether any of a part's labels is not hidden.
    """

    shapes: Mapping[str, tuple[str, int]]
    columns: Sequence[str]
    settings: Mapping[str, int]
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
    chosen = dataset.with_format(None).select_columns([name for name in columns if name in dataset.column_names])
    for start in range(0, len(chosen), size):
        yield start, chosen[start : start + size]


def flat(rows: Iterable[Iterable[int]], count: int, kind: type[np.generic]) -> npt.NDArray[Any]:
    """Return lists of numbers, `count` numbers in all, one after the other."""
    return np.fromiter(chain.from_iterable(rows), kind, count)


def ranges(starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return `starts[0], starts[0] + 1, ...`, `sizes[0]` numbers, then those of the next range, (sum of sizes,)."""
    before = np.cumsum(sizes) - sizes
    places: npt.NDArray[np.int64] = np.arange(int(sizes.sum()), dtype=np.int64) + np.repeat(starts - before, sizes)
    return places


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

    return Stream(shapes, columns, {"max_length": max_length}, parts, _any_rating if real else _any_class)


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

    return Stream(SHAPES, columns, {"max_length": max_length}, parts, _any_class)


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


@dataclass(frozen=True)
class Layout:
    """What a tokenizer puts around one text or two, as in [CLS] question [SEP] context [SEP].

    Attributes:
        gaps: before, between and after the texts, each the ids and the token types of the special tokens there.
        types: token type of every text's tokens.
    """

    gaps: tuple[tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]], ...]
    types: tuple[int, ...]

    @property
    def special_tokens(self) -> int:
        """Number of special tokens in a row."""
        return sum(len(ids) for ids, _ in self.gaps)


def find_layout(tokenizer: PreTrainedTokenizerBase, texts: int) -> Layout:
    """Return the layout of rows of one text or two, found out by tokenizing the letter a.

    Raises:
        ConfigError: if the letter is not found again in what the tokenizer makes of it.
    """
    probe = tokenizer("a", *["a"] * (texts - 1), return_token_type_ids=True)
    ids, types = probe["input_ids"], probe["token_type_ids"]
    letter = tokenizer("a", add_special_tokens=False)["input_ids"]
    ends, places = [0], []
    for _ in range(texts):
        place = next((at for at in range(ends[-1], len(ids)) if letter and ids[at : at + len(letter)] == letter), None)
        if place is None:
            raise ConfigError(
                f"tokenizer {type(tokenizer).__name__}: the letter 'a' alone gives the tokens {letter}, and {texts} of "
                f"it with special tokens {ids}, which do not hold them; use a tokenizer that keeps texts as they are."
            )
        places.append(place)
        ends.append(place + len(letter))
    spans = list(zip(ends, [*places, len(ids)], strict=True))
    gaps = tuple((np.asarray(ids[a:b], np.int32), np.asarray(types[a:b], np.int8)) for a, b in spans)
    return Layout(gaps, tuple(int(types[place]) for place in places))


@dataclass(frozen=True)
class Spans:
    """What part of some tokens stands in every row: row r has `ids[starts[r]:starts[r] + sizes[r]]`.

    Attributes:
        ids: int32 (tokens,), without special tokens.
        starts: int64 (rows,).
        sizes: int64 (rows,).
    """

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def lay_out(layout: Layout, texts: Sequence[Spans], extras: Mapping[str, tuple[npt.NDArray[Any], int]]) -> Part:
    """Return rows of texts and special tokens as a part, without `examples`.

    Args:
        layout: of as many texts as are given.
        texts: the first and perhaps the second text of every row.
        extras: name -> values (tokens,) along the last text's `ids`, and what all other tokens have instead.
    """
    ids, types, starts, sizes = [layout.gaps[0][0]], [layout.gaps[0][1]], [], []
    rows = len(texts[0].starts)
    for text, kind, gap in zip(texts, layout.types, layout.gaps[1:], strict=True):
        base = sum(map(len, ids))
        starts += [np.full(rows, base - len(ids[-1])), base + text.starts]
        sizes += [np.full(rows, len(ids[-1])), text.sizes]
        ids += [text.ids, gap[0]]
        types += [np.full(len(text.ids), kind, np.int8), gap[1]]
    end = sum(map(len, ids))
    starts.append(np.full(rows, end - len(ids[-1])))
    sizes.append(np.full(rows, len(ids[-1])))
    source = ranges(np.stack(starts, 1).ravel(), np.stack(sizes, 1).ravel())  # (tokens,)
    part = {"input_ids": np.concatenate(ids)[source], "token_type_ids": np.concatenate(types)[source]}
    for name, (values, fill) in extras.items():
        before, after = end - len(ids[-1]) - len(values), len(ids[-1])
        part[name] = np.concatenate([np.full(before, fill), values, np.full(after, fill)])[source].astype(np.int32)
    return {**part, "lengths": np.sum(sizes, axis=0)}
