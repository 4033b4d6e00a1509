"""Questions about a context: the context is read in windows that overlap, each behind the question."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bertcompress.data.tokenize import SHAPES, Part, Spans, Stream, find_layout, flat, lay_out, ranges, slices
from bertcompress.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IntArray = npt.NDArray[np.int64]

QUESTION_TOKENS = 64  # a longer question is cut, as in the code of the BERT paper


def question_limit(max_length: int, special_tokens: int) -> int:
    """Return the tokens kept of a question: 64, but never more than half of the room, so that the context has some."""
    return min(QUESTION_TOKENS, (max_length - special_tokens) // 2)


def window_overlap(max_length: int, special_tokens: int, overlap: int | None) -> int:
    """Return the tokens that neighbouring windows share.

    By default that is a third of `max_length`, 128 at 384, but at most half of what the longest question leaves to
    the context.

    Raises:
        ConfigError: if the longest question would leave no room for a token that is not shared.
    """
    room = max_length - special_tokens - question_limit(max_length, special_tokens)
    if overlap is None:
        return min(max_length // 3, room // 2)
    if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap < room:
        raise ConfigError(
            f"overlap: got {overlap!r}, allowed is a whole number from 0 to {room - 1} at max_length {max_length}."
        )
    return overlap


def window_stream(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, overlap: int | None, chunk: int
) -> Stream:
    """Return every question with its context as one row or several.

    The windows are those of the tokenizer's own `return_overflowing_tokens`, but a context is tokenized once for all
    the questions about it that follow one another.

    Args:
        dataset: with `question`, `context`, and perhaps `answers`, of which the first of each example counts.
        tokenizer: of the model; a fast one, as the others do not tell which characters a token covers.
        max_length: tokens of a row, special tokens included.
        overlap: as in `window_overlap`.
        chunk: questions of a part.

    Raises:
        ConfigError: for a tokenizer that is not fast, or an overlap that does not fit.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"tokenizer {type(tokenizer).__name__}: it does not tell which characters a token covers, so answers "
            "cannot be found; use a fast tokenizer, one with a tokenizer.json."
        )
    columns = [name for name in ("question", "context", "answers") if name in dataset.column_names]
    shapes = {**SHAPES, "starts": ("<i4", 0), "ends": ("<i4", 0)}
    if "answers" in columns:
        shapes["labels"] = ("<i8", 2)
    layout = find_layout(tokenizer, 2)
    shared = window_overlap(max_length, layout.special_tokens, overlap)
    limit = question_limit(max_length, layout.special_tokens)

    def parts() -> Iterator[Part]:
        for first, values in slices(dataset, columns, chunk):
            questions, contexts = (
                _questions(tokenizer, values["question"], limit),
                _Contexts(tokenizer, values["context"]),
            )
            room = max_length - layout.special_tokens - questions.sizes
            examples, starts, sizes = windows(contexts.sizes, room, shared)
            shown = Spans(questions.ids, questions.starts[examples], questions.sizes[examples])
            context = Spans(contexts.ids, contexts.begins[examples] + starts, sizes)
            part = lay_out(layout, [shown, context], {"starts": (contexts.starts, -1), "ends": (contexts.ends, -1)})
            if "answers" in values:
                before = len(layout.gaps[0][0]) + shown.sizes + len(layout.gaps[1][0])
                spans = contexts.find(values["answers"], first)[examples] - starts[:, None]  # (rows, 2), in the window
                held = (spans[:, 0] >= 0) & (spans[:, 1] < sizes)
                part["labels"] = np.where(held[:, None], spans + before[:, None], 0)
            yield {**part, "examples": first + examples}

    return Stream(shapes, columns, {"max_length": max_length, "overlap": shared}, parts, lambda labels: True)


def windows(tokens: IntArray, room: IntArray, overlap: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return the windows over some contexts: number of the context, first token, and number of tokens, (rows,) each.

    The first starts at the first token, each of the next ones where the one before has `overlap` tokens left, and the
    first that reaches the end is the last. A context without tokens has one window.

    Args:
        tokens: of every context, (n,).
        room: tokens that a window over it holds, (n,), more than `overlap`.
        overlap: tokens that neighbouring windows share.
    """
    step = room - overlap
    counts = np.where(tokens <= room, 1, -((room - tokens) // step) + 1)
    examples = np.repeat(np.arange(len(tokens), dtype=np.int64), counts)
    starts = ranges(np.zeros_like(counts), counts) * step[examples]
    return examples, starts, np.minimum(room[examples], tokens[examples] - starts)


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str], **options: Any) -> Any:
    return tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
        **options,
    )


def _questions(tokenizer: PreTrainedTokenizerBase, texts: list[str], limit: int) -> Spans:
    ids = [row[:limit] for row in _tokens(tokenizer, texts)["input_ids"]]
    sizes = np.fromiter(map(len, ids), np.int64, len(ids))
    return Spans(flat(ids, int(sizes.sum()), np.int32), np.cumsum(sizes) - sizes, sizes)


class _Contexts:
    """The contexts of some examples, each tokenized once.

    Attributes:
        ids, starts, ends: int32 (tokens,), of the distinct contexts: tokens, and the characters that each covers.
        begins, sizes: int64 (n,), where the tokens of each example's context begin, and how many they are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
        numbers: dict[str, int] = {}
        which = np.asarray([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)
        got = _tokens(tokenizer, list(numbers), return_offsets_mapping=True)
        lengths = np.fromiter(map(len, got["input_ids"]), np.int64, len(numbers))
        total = int(lengths.sum())
        pairs = chain.from_iterable(got["offset_mapping"])
        offsets = flat(pairs, 2 * total, np.int32).reshape(total, 2)
        self.ids = flat(got["input_ids"], total, np.int32)
        self.starts, self.ends = offsets[:, 0], offsets[:, 1]
        self.begins, self.sizes = (np.cumsum(lengths) - lengths)[which], lengths[which]
        self._texts = texts

    def find(self, answers: list[dict[str, list[Any]]], first: int) -> IntArray:
        """Return the first and the last token of every example's first answer, (n, 2), counted within the context.

        The tokens cover all of the answer's characters that any token covers, but not for the sake of white space at
        its ends, which some tokenizers make part of the next word; both are -1 where there are none.
        Raises `DataError` for an answer that is not at its place; `first` is the number of the first example.
        """
        places = np.full((len(answers), 2), -1, np.int64)
        for number, answer in enumerate(answers):
            if not answer["text"]:
                continue
            text, start = answer["text"][0], answer["answer_start"][0]
            stop = start + len(text)
            if start < 0 or self._texts[number][start:stop] != text:
                raise DataError(
                    f"featurize: example {first + number} has the answer {text!r} at character {start} of its context, "
                    f"where there is {self._texts[number][max(start, 0) : stop]!r}; correct its answer_start."
                )
            start, stop = start + len(text) - len(text.lstrip()), stop - len(text) + len(text.rstrip())
            own = slice(self.begins[number], self.begins[number] + self.sizes[number])
            covering = np.flatnonzero((self.starts[own] < stop) & (self.ends[own] > start))
            if len(covering) and text.strip():
                places[number] = covering[0], covering[-1]
        return places
