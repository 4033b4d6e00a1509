"""Scores of tagging: spans decoded from tags, counted per sentence, all words of a data set at once.

Three conventions say which spans tags stand for:

- lenient, `entity_f1`: every word whose tag is not O belongs to a span; what is not well-formed is repaired. B- and
  S- begin a span, as does any tag after O, E-, S- or a tag of another type. It is seqeval's default mode, with any
  scheme.
- conlleval, `entity_f1_conlleval`: the script of the CoNLL shared tasks (conlleval.pl, 2004-01-26). With the tags of
  IOB1 and IOB2 it is the lenient convention. The script does not know S-, and begins no span at B- after E- of the
  same type; with IOBES it therefore joins neighbours of one type (E-X B-X, E-X S-X, S-X S-X, S-X B-X, and in what is
  not well-formed also B-X S-X, I-X S-X, S-X I-X and S-X E-X), which the lenient convention keeps apart. A bare S,
  without a type, is a span here and none in the script.
- strict, `entity_f1_strict`: only spans that the scheme allows count; seqeval's `mode="strict"`. IOB2: B-X, then I-X.
  IOBES: S-X, or B-X, I-X, E-X. IOB1: I-X; B-X only directly after a span of type X, so that B-X elsewhere is skipped.

F1 is micro-averaged over spans: `2 * correct / (predicted + gold)`, 0 where nothing is correct.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Features, List, Value

from bertcompress.errors import ConfigError, allowed
from bertcompress.evaluation.metrics.base import MetricModule

Integers = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]
SCHEMES = {"IOB1": "OBI", "IOB2": "OBI", "IOBES": "OBIES"}  # the prefixes of each
O, B, I, E, S = (1 << bit for bit in range(5))  # noqa: E741  # bits, so that one & asks for several prefixes
_PREFIXES = {"O": O, "B": B, "I": I, "E": E, "S": S}


@dataclass(frozen=True)
class _Tags:
    """What the tags of all words say; beyond the ends of a sentence stands O."""

    prefixes: npt.NDArray[np.int8]
    types: Integers  # number of the type, -1 for O
    before: npt.NDArray[np.int8]  # prefix of the word before
    same: Mask  # whether the word before has the same type


@dataclass(frozen=True)
class _Spans:
    """Spans of all sentences in order: words `starts` up to but without `ends`, counted over all sentences."""

    starts: Integers
    ends: Integers
    types: Integers


def spans(
    tags: Integers,
    offsets: Integers,
    labels: Sequence[str],
    strict: bool = False,
    scheme: str = "",
    *,
    conlleval: bool = False,
) -> npt.NDArray[np.void]:
    """Return the spans that tags stand for, in order.

    Args:
        tags: number of each word's tag in `labels`, (words,), sentence after sentence.
        offsets: sentence i is `tags[offsets[i]:offsets[i + 1]]`, (sentences + 1,).
        labels: names of the tags: O, and a prefix with a type such as B-PER; a prefix alone has the type "_".
        strict: whether only spans that the scheme allows count.
        scheme: "IOB1", "IOB2" or "IOBES"; only the strict convention asks for it.
        conlleval: whether to follow conlleval.pl to the letter; the other conventions are described above.

    Returns:
        A structured array (spans,) with the fields `sentence`, `start` and `end` (words of the sentence, without the
        one at `end`) and `type` (text).

    Raises:
        ConfigError: a tag has no label, a label is no tag of the scheme, or the offsets do not divide the words.
    """
    offsets = _checked_offsets(offsets, tags)
    found, names = _decode(tags, offsets, labels, strict, scheme, conlleval), _types(labels)
    text = np.array(names or ("",))
    fields = [("sentence", np.int64), ("start", np.int64), ("end", np.int64), ("type", text.dtype)]
    result = np.empty(len(found.starts), dtype=fields)
    result["sentence"] = _sentence_of(offsets)[found.starts]
    result["start"] = found.starts - offsets[result["sentence"]]
    result["end"] = found.ends - offsets[result["sentence"]]
    result["type"] = text[found.types]
    return result


def span_counts(
    tags: Integers,
    gold: Integers,
    offsets: Integers,
    labels: Sequence[str],
    scheme: str,
    strict: bool,
    *,
    conlleval: bool = False,
) -> npt.NDArray[np.int64]:
    """Return how many spans of each sentence are correct, predicted and gold, (sentences, 3).

    A span is correct if start, end and type are. Arguments and errors are those of `spans`.
    """
    offsets = _checked_offsets(offsets, tags, gold)
    found, right = (_decode(each, offsets, labels, strict, scheme, conlleval) for each in (tags, gold))
    owner = _sentence_of(offsets)
    starts = (found.starts[_correct(found, right, len(owner))], found.starts, right.starts)
    return np.stack([np.bincount(owner[each], minlength=len(offsets) - 1) for each in starts], axis=1)


def token_counts(tags: Integers, gold: Integers, offsets: Integers) -> npt.NDArray[np.int64]:
    """Return how many words of each sentence have the right tag and how many there are, (sentences, 2).

    Raises:
        ConfigError: the offsets do not divide the words, or tags are hidden.
    """
    offsets = _checked_offsets(offsets, tags, gold)
    if len(tags) and min(tags.min(), gold.min()) < 0:
        raise ConfigError("tags: some are negative, which means hidden; score only sentences whose tags are known.")
    correct = np.bincount(_sentence_of(offsets)[tags == gold], minlength=len(offsets) - 1)
    return np.stack([correct, np.diff(offsets)], axis=1)


def precision_from_counts(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the share of predicted spans that are correct, (R,) of counts (R, 3); 0 where none is predicted."""
    return _ratio(counts[:, 0], counts[:, 1])


def recall_from_counts(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the share of gold spans that are found, (R,) of counts (R, 3); 0 where there is none."""
    return _ratio(counts[:, 0], counts[:, 2])


def f1_from_counts(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the F1 of spans, (R,) of counts (R, 3); 0 where nothing is correct."""
    return _ratio(2 * counts[:, 0], counts[:, 1] + counts[:, 2])


def entity_report(
    tags: Integers,
    gold: Integers,
    offsets: Integers,
    labels: Sequence[str],
    scheme: str = "",
    strict: bool = False,
    *,
    conlleval: bool = False,
) -> dict[str, dict[str, float]]:
    """Return `precision`, `recall`, `f1` and `support` (gold spans) of every type that occurs, by the type's name.

    Arguments and errors are those of `spans`.
    """
    offsets = _checked_offsets(offsets, tags, gold)
    found, right = (_decode(each, offsets, labels, strict, scheme, conlleval) for each in (tags, gold))
    names = _types(labels)
    numbers = (found.types[_correct(found, right, len(tags))], found.types, right.types)
    counts = np.stack([np.bincount(each, minlength=len(names)) for each in numbers], axis=1)  # (types, 3)
    columns = precision_from_counts(counts), recall_from_counts(counts), f1_from_counts(counts), counts[:, 2]
    rows = zip(names, *(column.tolist() for column in columns), strict=True)
    keys = ("precision", "recall", "f1", "support")
    seen = {names[number] for number in np.flatnonzero(counts.sum(1)).tolist()}
    return {name: dict(zip(keys, values, strict=True)) for name, *values in rows if name in seen}


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
    return result


def _types(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({label[2:] or "_" for label in labels if label != "O"}))


def _sentence_of(offsets: Integers) -> Integers:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _checked_offsets(offsets: Integers, *columns: Integers) -> Integers:
    offsets = np.asarray(offsets, dtype=np.int64)
    if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise ConfigError(
            "offsets: they must begin at 0 and never fall; sentence i is words offsets[i]:offsets[i + 1]."
        )
    for column in columns:
        if column.shape != (offsets[-1],):
            raise ConfigError(f"tags: got the shape {column.shape}, the offsets speak of {offsets[-1]} words.")
    return offsets


def _read(tags: Integers, offsets: Integers, labels: Sequence[str], scheme: str) -> _Tags:
    """Look the tags up; `scheme` is empty where every prefix is allowed."""
    prefixes = SCHEMES.get(scheme, "OBIES")
    for label in labels:
        if label[:1] not in prefixes or not label or label[1:2] not in ("", "-") or (label[0] == "O" and label != "O"):
            raise ConfigError(f"tag {label!r}: allowed are {allowed(_shapes(prefixes))}, with X any type.")
    if len(tags) and not (0 <= tags.min() and tags.max() < len(labels)):
        raise ConfigError(
            f"tags: got numbers from {tags.min()} to {tags.max()}, allowed are 0 to {len(labels) - 1}; negative ones "
            "are hidden and cannot be scored."
        )
    names = _types(labels)
    prefix = np.array([_PREFIXES[label[0]] for label in labels], dtype=np.int8)[tags]
    kinds = np.array([-1 if label == "O" else names.index(label[2:] or "_") for label in labels], dtype=np.int64)[tags]
    first = offsets[:-1][np.diff(offsets) > 0]
    before, kind_before = np.roll(prefix, 1), np.roll(kinds, 1)
    before[first], kind_before[first] = O, -1
    return _Tags(prefix, kinds, before, kinds == kind_before)


def _shapes(prefixes: str) -> list[str]:
    return [prefix if prefix == "O" else f"{prefix}-X" for prefix in prefixes]


def _decode(
    tags: Integers, offsets: Integers, labels: Sequence[str], strict: bool, scheme: str, conlleval: bool
) -> _Spans:
    """Cut the words into runs where one does not continue the one before; spans are runs that open and close well."""
    if strict and (conlleval or scheme not in SCHEMES):
        raise ConfigError(
            f"strict spans: got the scheme {scheme!r} and conlleval={conlleval}, allowed are {allowed(SCHEMES)} "
            "and conlleval=False."
        )
    words = _read(tags, offsets, labels, scheme if strict else "")
    convention = _STRICT[scheme] if strict else _conlleval if conlleval else _lenient
    continues, opens, closes = convention(words)
    starts = np.flatnonzero(~continues)
    ends = np.append(starts[1:], len(tags))[: len(starts)]
    good = opens[starts] & closes[ends - 1]
    return _Spans(starts[good], ends[good], words.types[starts[good]])


def _among(prefixes: npt.NDArray[np.int8], asked: int) -> Mask:
    result: Mask = (prefixes & asked) != 0
    return result


# Each convention says of every word (words,): whether it continues the run of the word before, whether a run that
# begins at it may be a span, and whether a run that ends at it may be one.


def _lenient(words: _Tags) -> tuple[Mask, Mask, Mask]:
    inside = ~_among(words.prefixes, O)
    return _among(words.prefixes, I | E) & _among(words.before, B | I) & words.same, inside, inside


def _conlleval(words: _Tags) -> tuple[Mask, Mask, Mask]:
    inside = ~_among(words.prefixes, O)
    begins = _among(words.before, O) | ~words.same
    begins |= _among(words.prefixes, B) & _among(words.before, B | I)
    begins |= _among(words.prefixes, I | E) & _among(words.before, E)
    return inside & ~begins, inside, inside


def _iob1(words: _Tags) -> tuple[Mask, Mask, Mask]:
    b, i, previous_b = _among(words.prefixes, B), _among(words.prefixes, I), _among(words.before, B)
    leads = b & _among(words.before, B | I) & words.same  # B-X has a meaning only after X; seqeval skips it elsewhere
    continues = i & words.same & (_among(words.before, I) | (previous_b & np.roll(leads, 1)))
    # A run of B-X alone that B-Y follows is not closed: seqeval's patterns know no such end.
    cut = np.roll(b & previous_b & ~words.same, -1)
    return continues, leads | i, ~(b & cut)


def _iob2(words: _Tags) -> tuple[Mask, Mask, Mask]:
    continues = _among(words.prefixes, I) & _among(words.before, B | I) & words.same
    return continues, _among(words.prefixes, B), np.ones_like(continues)


def _iobes(words: _Tags) -> tuple[Mask, Mask, Mask]:
    continues = _among(words.prefixes, I | E) & _among(words.before, B | I) & words.same
    return continues, _among(words.prefixes, B | S), _among(words.prefixes, E | S)


_STRICT = {"IOB1": _iob1, "IOB2": _iob2, "IOBES": _iobes}


def _correct(found: _Spans, right: _Spans, words: int) -> Mask:
    """Return which of the found spans are among the right ones; at most one of each begins at a word."""
    ends, types = np.zeros(words, dtype=np.int64), np.zeros(words, dtype=np.int64)  # no span ends before word 1
    ends[right.starts], types[right.starts] = right.ends, right.types
    result: Mask = (ends[found.starts] == found.ends) & (types[found.starts] == found.types)
    return result


class Entities(MetricModule):
    """Scores of spans as an `evaluate.Metric`: `Entities("IOBES").compute(predictions=..., references=...)`.

    Predictions and references are the tags of each sentence, lists of texts. The numbers are `entity_f1`,
    `entity_precision` and `entity_recall` by the lenient convention, the same with `_strict` at their end, and
    `token_accuracy`; with IOBES also with `_conlleval`, which with the other schemes is the lenient one.
    """

    about = "F1, precision and recall of tagged spans, lenient and strict, and the share of words tagged right."
    inputs = "predictions, references: the tags of each sentence, a list of texts such as B-PER, (n,)."

    def __init__(self, config_name: str = "IOB2", **settings: Any) -> None:
        """Take the scheme of the tags: "IOB1", "IOB2" or "IOBES".

        Raises:
            ConfigError: there is no such scheme.
        """
        if config_name not in SCHEMES:
            raise ConfigError(f"Entities: got the scheme {config_name!r}, allowed are {allowed(SCHEMES)}.")
        super().__init__(config_name=config_name, **settings)

    def columns(self) -> Features:
        """Return the types of `predictions` and `references`."""
        return Features({"predictions": List(Value("string")), "references": List(Value("string"))})

    def scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
        """Return the numbers by name."""
        scheme = self.config_name
        tags, gold, offsets, labels = _numbered(predictions, references)
        conventions = {"": (False, False), "_strict": (True, False)}
        if scheme == "IOBES":
            conventions["_conlleval"] = (False, True)
        result = {}
        for name, (strict, conlleval) in conventions.items():
            counts = span_counts(tags, gold, offsets, labels, scheme, strict, conlleval=conlleval).sum(0, keepdims=True)
            result[f"entity_f1{name}"] = float(f1_from_counts(counts)[0])
            result[f"entity_precision{name}"] = float(precision_from_counts(counts)[0])
            result[f"entity_recall{name}"] = float(recall_from_counts(counts)[0])
        correct, words = token_counts(tags, gold, offsets).sum(0).tolist()
        return {**result, "token_accuracy": correct / words if words else 0.0}


def _numbered(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> tuple[Integers, Integers, Integers, list[str]]:
    """Return both columns as numbers of the labels that occur, the sentences' offsets, and those labels."""
    sizes = [np.fromiter(map(len, column), np.int64, len(column)) for column in (predictions, references)]
    if not np.array_equal(sizes[0], sizes[1]):
        raise ConfigError("Entities: predictions and references differ in sentences or words; give one tag per word.")
    labels = sorted({"O"}.union(*predictions, *references))
    numbers = {label: number for number, label in enumerate(labels)}
    tags, gold = (
        np.fromiter(map(numbers.__getitem__, chain.from_iterable(column)), np.int64, int(sizes[0].sum()))
        for column in (predictions, references)
    )
    return tags, gold, np.concatenate([[0], np.cumsum(sizes[0])]), labels
