"""The two sides of the evaluation benchmark, each in three steps that are timed: tokenize, forward, score.

The peer is transformers' `Trainer.predict` on the plain BERT with the same weights, used as transformers' example
scripts do (run_glue, run_qa): `Dataset.map` tokenizes, `Trainer` batches and predicts, and Python finds the answers
to questions among pairs of the best 20 starts and ends.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

import bertcompress as bc
from bertcompress.data.batching import evaluation_batches, padded_tokens
from bertcompress.data.features import Features
from bertcompress.data.windows import window_overlap
from bertcompress.evaluation.judges import judge_for
from bertcompress.evaluation.metrics.squad import squad_scores
from bertcompress.predictions import PREDICTION_TOKENS, network_logits, predictions_of

Array = npt.NDArray[Any]
MAX_LENGTHS = {"classification": 128, "question_answering": 384}  # `max_seq_length` of run_glue and run_qa
N_BEST, LONGEST_ANSWER = 20, 30  # of run_qa
STEPS = ("tokenize", "forward", "score")


@dataclass(frozen=True)
class Evidence:
    """What shows that two sides did the same.

    Attributes:
        input_ids: of all rows one after the other, without padding, (tokens,).
        logits: (rows, C) in classification, (tokens, 2) in question answering.
        answers: classes; or the texts of the best spans among tokens of the context alone, as ours are chosen.
        best: in question answering the scores of these spans.
        scores: by name, of these answers.
    """

    input_ids: Array
    logits: Array
    answers: list[Any]
    best: list[float]
    scores: dict[str, float]


class Side(Protocol):
    """A way to evaluate; what a step returns is passed on to the next ones."""

    def tokenize(self) -> Any:
        """Make rows of the examples."""

    def forward(self, rows: Any) -> Any:
        """Return the logits of the rows."""

    def score(self, rows: Any, output: Any) -> dict[str, float]:
        """Return the scores by name."""

    def evidence(self, rows: Any, output: Any) -> Evidence:
        """Return what this side did; not timed."""

    def padded_tokens(self, rows: Any) -> int:
        """Return the tokens that the forward passes work on, padding included; not timed."""


@dataclass
class Run:
    """One evaluation: seconds of each step, the scores, and what the steps passed on."""

    seconds: dict[str, float]
    scores: dict[str, float]
    rows: Any
    output: Any


def run(side: Side) -> Run:
    """Evaluate once."""
    clock = [time.perf_counter()]

    def lap(result: Any) -> Any:
        clock.append(time.perf_counter())
        return result

    rows = lap(side.tokenize())
    output = lap(side.forward(rows))
    scores = lap(side.score(rows, output))
    return Run(dict(zip(STEPS, np.diff(clock).tolist(), strict=True)), scores, rows, output)


def max_length(model: bc.Model, task: bc.Task) -> int:
    """Return the tokens of a row: as the example scripts have it, if the model reads so many."""
    return min(MAX_LENGTHS[task.kind], model.max_length)


@dataclass(frozen=True)
class Ours:
    """What `Model.predict` and a judge do."""

    model: bc.Model
    task: bc.Task
    split: Dataset

    def tokenize(self) -> Features:
        """Make flat arrays of tokens."""
        return self.model.featurize(self.split, max_length=max_length(self.model, self.task))

    def forward(self, rows: Features) -> Array:
        """Return the logits of the rows."""
        return network_logits(self.model.network, rows)

    def score(self, rows: Features, output: Array) -> dict[str, float]:
        """Return the scores by name."""
        predictions = predictions_of(rows, output, self.split, self.model.null_threshold)
        return judge_for(self.task, self.split).scores(predictions)

    def evidence(self, rows: Features, output: Array) -> Evidence:
        """Return tokens, logits, answers and scores."""
        scores, answers = self.score(rows, output), predictions_of(rows, output, self.split).answers
        if self.task.kind == "classification":
            return Evidence(rows.input_ids, output, output.argmax(-1).tolist(), [], scores)
        best = [answer.score for answer in answers]
        return Evidence(rows.input_ids, output, [answer.text for answer in answers], best, scores)

    def padded_tokens(self, rows: Features) -> int:
        """Return the tokens of all forward passes."""
        return padded_tokens(evaluation_batches(rows.lengths, PREDICTION_TOKENS), rows.lengths)


@dataclass(frozen=True)
class Peer:
    """`Trainer.predict` on a plain BERT.

    Attributes:
        network: with the same weights as ours.
        tokenizer: the same as ours.
        task: of classification, or of questions that all have an answer.
        split: what is evaluated.
        max_length: tokens of a row.
        batch_size: rows in a batch.
        pad_to_max_length: whether tokenization pads each row to the longest allowed, as the example scripts do if
            not told otherwise; else `DataCollatorWithPadding` pads each batch to its longest row.
    """

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: bc.Task
    split: Dataset
    max_length: int
    batch_size: int
    pad_to_max_length: bool

    @property
    def _questions(self) -> bool:
        return self.task.kind == "question_answering"

    def tokenize(self) -> Dataset:
        """Make a data set of rows, in memory, as the examples do."""
        return self.split.map(
            _windows if self._questions else _sentences,
            batched=True,
            fn_kwargs={
                "tokenizer": self.tokenizer,
                "max_length": self.max_length,
                "padding": "max_length" if self.pad_to_max_length else False,
            },
            remove_columns=self.split.column_names if self._questions else None,
            load_from_cache_file=False,
        )

    def forward(self, rows: Dataset) -> Any:
        """Return what `Trainer.predict` returns; progress bars and trackers are off."""
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainingArguments(
                output_dir=folder,
                per_device_eval_batch_size=self.batch_size,
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            )
            collate = default_data_collator if self.pad_to_max_length else DataCollatorWithPadding(self.tokenizer)
            trainer = Trainer(model=self.network, args=settings, data_collator=collate, processing_class=self.tokenizer)
            return trainer.predict(rows)

    def score(self, rows: Dataset, output: Any) -> dict[str, float]:
        """Return accuracy, or exact match and F1 of the answers that the example's rule finds."""
        if not self._questions:
            return {"accuracy": float((output.predictions.argmax(-1) == output.label_ids).mean())}
        return self._score_answers(best_answers(self.split, rows, output.predictions))

    def _score_answers(self, found: list[tuple[str, float]]) -> dict[str, float]:
        gold = [answers["text"] for answers in self.split["answers"][:]]
        return squad_scores([text for text, _ in found], gold)

    def evidence(self, rows: Dataset, output: Any) -> Evidence:
        """Return tokens, logits, answers and scores; answers are chosen among tokens of the context alone."""
        real = [np.asarray(mask, dtype=bool) for mask in rows["attention_mask"][:]]
        ids = _without_padding(rows["input_ids"][:], real)
        logits = output.predictions
        if not self._questions:
            return Evidence(ids, logits, logits.argmax(-1).tolist(), [], self.score(rows, output))
        found = best_answers(self.split, rows, logits, context_only=True)
        texts, best = (list(each) for each in zip(*found, strict=True))
        sides = [_without_padding(side, real) for side in logits]
        return Evidence(ids, np.stack(sides, axis=-1), texts, best, self._score_answers(found))

    def padded_tokens(self, rows: Dataset) -> int:
        """Return the tokens of all forward passes."""
        lengths = [len(ids) for ids in rows["input_ids"][:]]
        parts = (lengths[at : at + self.batch_size] for at in range(0, len(lengths), self.batch_size))
        return sum(len(part) * max(part) for part in parts)


# Functions, not methods: `map` takes a fingerprint of what it calls, which would be that of the network as well.
def _sentences(examples: Any, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Any:
    return tokenizer(examples["text"], truncation=True, return_token_type_ids=True, **options)


def _windows(examples: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, padding: str | bool) -> Any:
    """Return windows with the example that each belongs to, and places of tokens, None outside the context."""
    special = tokenizer.num_special_tokens_to_add(pair=True)
    rows = tokenizer(
        [question.lstrip() for question in examples["question"]],
        examples["context"],
        truncation="only_second",
        max_length=max_length,
        padding=padding,
        stride=window_overlap(max_length, special, None),  # 128 at 384 tokens, as in run_qa
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,  # BERT's own tokenizer does without being told, plain fast ones do not
    )
    rows["example_id"] = [examples["id"][number] for number in rows.pop("overflow_to_sample_mapping")]
    for row, places in enumerate(rows["offset_mapping"]):
        texts = rows.sequence_ids(row)
        rows["offset_mapping"][row] = [place if text == 1 else None for place, text in zip(places, texts, strict=True)]
    return rows


def _without_padding(values: Any, real: list[Array]) -> Array:
    parts = [np.asarray(row)[: len(mask)][mask] for row, mask in zip(values, real, strict=True)]
    return np.concatenate(parts)


def best_answers(
    examples: Dataset, rows: Dataset, logits: tuple[Array, Array], *, context_only: bool = False
) -> list[tuple[str, float]]:
    """Return the best answer to each question and its score, by the rule of run_qa, in plain Python as there.

    Pairs of a window's best 20 starts and best 20 ends are candidates if both are of the context, in order and at
    most 30 tokens apart. Nothing is made of the candidates that are not best (run_qa also returns probabilities of
    20), and of the rows only the column that is needed is read, so that this takes less time than the original.

    Args:
        examples: with `id` and `context`.
        rows: their windows, with `example_id` and `offset_mapping`.
        logits: of starts and ends, (rows, length) each.
        context_only: choose the best 20 among tokens of the context, as ours does, where run_qa chooses them among
            all tokens and then drops those of the question.
    """
    windows = defaultdict(list)
    for row, name in enumerate(rows["example_id"][:]):
        windows[name].append(row)
    tokens = rows.select_columns(["offset_mapping"])
    found = []
    for example in examples.select_columns(["id", "context"]):
        candidates: list[tuple[float, int, int]] = []
        for row in windows[example["id"]]:
            candidates += _candidates(tokens[row]["offset_mapping"], logits[0][row], logits[1][row], context_only)
        if not candidates:
            found.append(("", -np.inf))
            continue
        score, start, end = sorted(candidates, key=lambda candidate: candidate[0], reverse=True)[0]
        found.append((example["context"][start:end], score))
    return found


def _candidates(places: list[Any], starts: Array, ends: Array, context_only: bool) -> list[tuple[float, int, int]]:
    """Return score, first character and end of every span that one window offers."""
    if context_only:
        visible = np.zeros(len(starts), dtype=bool)
        visible[: len(places)] = [place is not None for place in places]
        starts, ends = np.where(visible, starts, -np.inf), np.where(visible, ends, -np.inf)
    best_starts, best_ends = (np.argsort(side)[: -N_BEST - 1 : -1].tolist() for side in (starts, ends))
    start_logits, end_logits = starts.tolist(), ends.tolist()
    found = []
    for start in best_starts:
        for end in best_ends:
            if start >= len(places) or end >= len(places) or places[start] is None or places[end] is None:
                continue
            if end < start or end - start + 1 > LONGEST_ANSWER:
                continue
            found.append((start_logits[start] + end_logits[end], places[start][0], places[end][1]))
    return found
