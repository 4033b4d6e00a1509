"""Tokenized examples in flat arrays: tokenized once, padded only when a batch is made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bertcompress.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

CHUNK = 8192  # examples tokenized in one call: bounds memory, long enough to keep every core busy


@dataclass(frozen=True, eq=False)
class Features:
    """The tokens of a data set, one example after the other.

    Attributes:
        input_ids: int32 (tokens,), all examples' tokens with their special tokens.
        token_type_ids: int8 (tokens,), 0 for the first text, 1 for the second where the tokenizer tells them apart.
        offsets: int64 (n + 1,), example i is `input_ids[offsets[i]:offsets[i + 1]]`.
        labels: int64 (n,) class numbers, float32 (n,) regression targets, or None where no label is known. Single
            unknown labels among known ones are -1, or NaN in regression.
        pad_token_id: what fills a batch up.
    """

    input_ids: npt.NDArray[np.int32]
    token_type_ids: npt.NDArray[np.int8]
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[Any] | None
    pad_token_id: int

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example, (n,)."""
        return np.diff(self.offsets)

    def fingerprint(self) -> str:
        """Return a hex digest of the content: tokens, boundaries, labels and padding."""
        digest = hashlib.blake2b(str(self.pad_token_id).encode(), digest_size=16)
        for array in (self.input_ids, self.token_type_ids, self.offsets, self.labels):
            if array is not None:
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def collate(self, indices: npt.ArrayLike) -> dict[str, torch.Tensor]:
        """Return the examples as one batch, padded on the right to the longest of them.

        Args:
            indices: example numbers, (b,), in the order wanted.

        Returns:
            int64 tensors `input_ids`, `attention_mask`, `token_type_ids` (b, L) and `indices` (b,), and `labels`
            (b,) if there are any.
        """
        import torch

        rows = np.asarray(indices, dtype=np.int64)
        starts = self.offsets[rows]
        sizes = self.offsets[rows + 1] - starts
        columns = np.arange(int(sizes.max(initial=0)))  # (L,)
        mask = columns < sizes[:, None]  # (b, L)
        source = (starts[:, None] + columns)[mask]
        ids = np.full(mask.shape, self.pad_token_id, dtype=np.int64)
        ids[mask] = self.input_ids[source]
        types = np.zeros(mask.shape, dtype=np.int64)
        types[mask] = self.token_type_ids[source]
        batch = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "token_type_ids": torch.from_numpy(types),
            "indices": torch.from_numpy(rows.copy()),
        }
        if self.labels is not None:
            batch["labels"] = torch.from_numpy(self.labels[rows])
        return batch


def featurize(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Features:
    """Tokenize the `text` (and `text_pair`) of a data set; over-long pairs lose tokens from the longer text first.

    Args:
        dataset: with the columns that `load_task` gives: `text`, and perhaps `text_pair` and `label`.
        tokenizer: of the model; fast ones tokenize on every core.
        max_length: tokens kept of each example, special tokens included.

    Raises:
        ConfigError: if `max_length` leaves no room for a single token of text.
        DataError: if the data set has no `text` column.
    """
    if "text" not in dataset.column_names:
        raise DataError(f"featurize: the data set has the columns {dataset.column_names}, needed is a column 'text'.")
    paired = "text_pair" in dataset.column_names
    room = tokenizer.num_special_tokens_to_add(pair=paired) + (2 if paired else 1)
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < room:
        raise ConfigError(f"max_length: got {max_length!r}, allowed is a whole number of at least {room} here.")
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"tokenizer {type(tokenizer).__name__}: it has no pad token; set tokenizer.pad_token first.")
    ids: list[npt.NDArray[Any]] = []
    types: list[npt.NDArray[Any]] = []
    sizes: list[npt.NDArray[Any]] = []
    for start in range(0, len(dataset), CHUNK):
        part = _tokenize(dataset[start : start + CHUNK], tokenizer, max_length)
        for values, kind, into in ((part[0], np.int32, ids), (part[1], np.int8, types)):
            into.append(_flat(values, kind))
        sizes.append(np.fromiter((len(row) for row in part[0]), np.int64, len(part[0])))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(_join(sizes, np.int64))])
    return Features(_join(ids, np.int32), _join(types, np.int8), offsets, _labels(dataset), int(tokenizer.pad_token_id))


def _tokenize(
    rows: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[list[int]], list[list[int]]]:
    encoded = tokenizer(
        rows["text"],
        rows.get("text_pair"),
        truncation="longest_first",
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=True,
        verbose=False,
    )
    return encoded["input_ids"], encoded["token_type_ids"]


def _flat(rows: Iterable[Iterable[int]], kind: type[np.generic]) -> npt.NDArray[Any]:
    rows = list(rows)
    if not rows:
        return np.zeros(0, kind)
    return np.concatenate([np.asarray(row, dtype=kind) for row in rows])


def _join(parts: list[npt.NDArray[Any]], kind: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, kind)


def _labels(dataset: Dataset) -> npt.NDArray[Any] | None:
    if "label" not in dataset.column_names:
        return None
    if dataset.features["label"].dtype.startswith("float"):
        targets = np.asarray(dataset["label"], dtype=np.float32)
        return None if np.isnan(targets).all() else targets
    classes = np.asarray(dataset["label"], dtype=np.int64)
    return None if (classes == -1).all() else classes
