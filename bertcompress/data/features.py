"""Tokenized data sets in flat arrays: tokenized once, padded only when a batch is made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bertcompress.data.base import KINDS
from bertcompress.data.feature_cache import content_key, stored
from bertcompress.data.tagging import IGNORED, tagging_stream
from bertcompress.data.tokenize import Stream, embedding_stream, ranges, text_stream
from bertcompress.data.windows import window_stream
from bertcompress.errors import ConfigError, DataError, allowed

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

CHUNK = 2048  # examples tokenized in one call: bounds memory, long enough to keep every core busy
NEEDED = {"tagging": ("words",), "question_answering": ("question", "context")}
ARRAYS = ("input_ids", "token_type_ids", "offsets", "labels", "examples", "words", "starts", "ends")


@dataclass(frozen=True, eq=False)
class Features:
    """The tokens of a data set in rows, one after the other; a row is what the network reads at once.

    Every array may be a read-only memory map.

    Attributes:
        input_ids: int32 (tokens,), all rows' tokens with their special tokens.
        token_type_ids: int8 (tokens,), 0 for the first text, 1 for the second where the tokenizer tells them apart.
        offsets: int64 (rows + 1,), row r is `input_ids[offsets[r]:offsets[r + 1]]`.
        labels: None where nothing is known, otherwise by kind. Classification: int64 (rows,) class numbers, -1 if
            hidden, or float32 (rows,) regression targets, NaN if hidden. Tagging: int32 (tokens,), at the first piece
            of a word its tag, -1 if hidden, and -100 everywhere else. Question answering: int64 (rows, 2), the first
            and the last token of the answer, counted within the row, (0, 0) where the row does not hold all of it.
            Embedding: always None.
        pad_token_id: what fills a batch up.
        kind: "classification" (also regression and unlabelled text), "tagging", "question_answering" or "embedding".
        examples: int64 (rows,), the example that a row is (a part of), never falling; by default one row each.
        num_examples: of the data set; by default the number of rows.
        words: of tagging: int32 (tokens,), at the first piece of a word its number within the example, else -1.
        starts: of question answering: int32 (tokens,), the first character of the context that a token covers, -1
            for tokens that are not of the context.
        ends: the same, the character after the last one.
    """

    input_ids: npt.NDArray[np.int32]
    token_type_ids: npt.NDArray[np.int8]
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[Any] | None
    pad_token_id: int
    kind: str = "classification"
    examples: npt.NDArray[np.int64] = None  # type: ignore[assignment]  # filled in below
    num_examples: int = -1
    words: npt.NDArray[np.int32] | None = None
    starts: npt.NDArray[np.int32] | None = None
    ends: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        """Fill in one row per example where nothing else is said."""
        if self.examples is None:
            object.__setattr__(self, "examples", np.arange(len(self), dtype=np.int64))
        if self.num_examples < 0:
            object.__setattr__(self, "num_examples", len(self))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, (rows,)."""
        return np.diff(self.offsets)

    def fingerprint(self) -> str:
        """Return a hex digest of the content: kind, padding and every array."""
        about = f"{self.kind} {self.pad_token_id} {self.num_examples}"
        digest = hashlib.blake2b(about.encode(), digest_size=16)
        for name in ARRAYS:
            array = getattr(self, name)
            if array is not None:
                digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def counts(self, indices: npt.ArrayLike) -> dict[str, int]:
        """Return what some rows hold: what the terms of a loss may be averaged over.

        Args:
            indices: row numbers, (b,).

        Returns:
            `example`: the rows; `token`: their tokens; `token_pair`: the sum of their squared lengths; `word`: in
            tagging the words that begin in them, otherwise 0.
        """
        rows = np.asarray(indices, dtype=np.int64)
        starts = self.offsets[rows]
        sizes = self.offsets[rows + 1] - starts
        words = 0 if self.words is None else int((self.words[ranges(starts, sizes)] >= 0).sum())
        return {
            "example": len(rows), "token": int(sizes.sum()), "token_pair": int((sizes * sizes).sum()), "word": words,
        }  # fmt: skip

    def collate(self, indices: npt.ArrayLike) -> dict[str, torch.Tensor]:
        """Return rows as one batch, padded on the right to the longest of them.

        Args:
            indices: row numbers, (b,), in the order wanted.

        Returns:
            int64 tensors `input_ids`, `attention_mask`, `token_type_ids` (b, L) and `indices` (b,), and `labels` if
            there are any: (b,), in tagging (b, L) padded with -100, in question answering (b, 2).
        """
        import torch

        rows = np.asarray(indices, dtype=np.int64)
        starts = self.offsets[rows]
        sizes = self.offsets[rows + 1] - starts
        mask = np.arange(int(sizes.max(initial=0))) < sizes[:, None]  # (b, L)
        source = ranges(starts, sizes)

        def padded(values: npt.NDArray[Any], fill: int) -> torch.Tensor:
            table = np.full(mask.shape, fill, dtype=np.int64)
            table[mask] = values[source]
            return torch.from_numpy(table)

        batch = {
            "input_ids": padded(self.input_ids, self.pad_token_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "token_type_ids": padded(self.token_type_ids, 0),
            "indices": torch.from_numpy(rows.copy()),
        }
        if self.labels is not None and self.kind == "tagging":
            batch["labels"] = padded(self.labels, IGNORED)
        elif self.labels is not None:
            batch["labels"] = torch.from_numpy(np.array(self.labels[rows]))
        if self.words is not None:
            batch["words"] = padded(self.words, -1)
        return batch


def featurize(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    kind: str | None = None,
    overlap: int | None = None,
    cache: Path | None = None,
) -> Features:
    """Tokenize a data set.

    - Texts: one row each; over-long pairs lose tokens from the longer text first.
    - Embedding: one row for each text, those of a pair one after the other.
    - Tagging: a sentence as the pieces of its words; one that is too long makes several rows, cut between words.
    - Question answering: the question, cut to 64 tokens, and the context, in several windows where it is too long.

    Args:
        dataset: with the columns that `load_task` gives for its kind of task.
        tokenizer: of the model; fast ones tokenize on every core.
        max_length: tokens kept of each row, special tokens included.
        kind: of the task; by default what the columns say: `words` are tagged, a `question` is answered, and all
            else is classified. An embedding must be asked for, as its columns are the same.
        overlap: tokens of the context that neighbouring windows share, in question answering only; by default a third
            of `max_length`, but at most half of the room that the longest question leaves.
        cache: folder that keeps what is tokenized, such as `features_cache()`: the arrays are then memory-mapped, and
            not made again for the same content, tokenizer and settings. None keeps them in memory.

    Raises:
        ConfigError: if `max_length` leaves no room for a single token of text, or for another value not allowed.
        DataError: if the data set lacks a column, or an example's words and tags, or its answer and context, do not
            belong together, or the cache cannot be written.
    """
    kind = _kind(dataset, kind)
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"tokenizer {type(tokenizer).__name__}: it has no pad token; set tokenizer.pad_token first.")
    stream = _stream(dataset, tokenizer, max_length, kind, overlap)
    if cache is None:
        arrays = stream.joined()
    else:
        arrays = stored(Path(cache), content_key(dataset, tokenizer, stream, kind), stream)
    about = {"pad_token_id": int(tokenizer.pad_token_id), "kind": kind, "num_examples": len(dataset)}
    return Features(**{"labels": None, **arrays, **about})  # type: ignore[arg-type]


def _kind(dataset: Dataset, kind: str | None) -> str:
    """Return the kind of features, and check that their columns are there."""
    columns = dataset.column_names
    if kind is None:
        kind = "tagging" if "words" in columns else "question_answering" if "question" in columns else "classification"
    if kind not in KINDS:
        raise ConfigError(f"featurize: kind is {kind!r}, allowed are {allowed(KINDS)}.")
    kind = "classification" if kind in ("regression", "unlabelled") else kind
    for name in NEEDED.get(kind, ("text",)):
        if name not in columns:
            raise DataError(f"featurize: the data set has the columns {columns}, needed is a column {name!r}.")
    return kind


def _stream(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, kind: str, overlap: int | None
) -> Stream:
    paired = kind == "question_answering" or (kind == "classification" and "text_pair" in dataset.column_names)
    room = tokenizer.num_special_tokens_to_add(pair=paired) + (2 if paired else 1)
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < room:
        raise ConfigError(f"max_length: got {max_length!r}, allowed is a whole number of at least {room} here.")
    if overlap is not None and kind != "question_answering":
        raise ConfigError(
            f"overlap: got {overlap!r} for {kind}; only question answering reads in windows; leave it out."
        )
    if kind == "question_answering":
        return window_stream(dataset, tokenizer, max_length, overlap, max(1, CHUNK // 4))
    if kind == "tagging":
        return tagging_stream(dataset, tokenizer, max_length, CHUNK)
    if kind == "embedding":
        return embedding_stream(dataset, tokenizer, max_length, CHUNK)
    return text_stream(dataset, tokenizer, max_length, CHUNK)
