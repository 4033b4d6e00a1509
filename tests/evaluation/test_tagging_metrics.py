from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import seqeval.metrics
import seqeval.scheme
from seqeval.metrics.sequence_labeling import get_entities

from bertcompress import metrics as public
from bertcompress.data.base import SCHEMES as TASK_SCHEMES
from bertcompress.errors import ConfigError
from bertcompress.evaluation.metrics.tagging import (
    SCHEMES,
    entity_report,
    f1_from_counts,
    precision_from_counts,
    recall_from_counts,
    span_counts,
    spans,
    token_counts,
)

SEQEVAL = {name: getattr(seqeval.scheme, name) for name in SCHEMES}
Sentences = list[list[str]]
Span = tuple[str, int, int]
# Neighbours of one type that conlleval.pl joins and seqeval's default mode keeps apart.
JOINED = {"EB", "SB", "BS", "IS", "ES", "SS", "SI", "SE"}


def inventory(prefixes: str, types: Sequence[str] = ("X", "Y-Z")) -> list[str]:
    return ["O", *(f"{prefix}-{kind}" for kind in types for prefix in prefixes if prefix != "O")]


def numbered(sentences: Sentences, labels: list[str]) -> tuple[np.ndarray, np.ndarray]:
    tags = np.array([labels.index(tag) for sentence in sentences for tag in sentence], dtype=np.int32)
    return tags, np.cumsum([0, *(len(sentence) for sentence in sentences)])


def decoded(sentences: Sentences, labels: list[str], **convention: object) -> list[set[Span]]:
    found: list[set[Span]] = [set() for _ in sentences]
    for sentence, start, end, kind in spans(*numbered(sentences, labels), labels, **convention).tolist():
        found[sentence].add((kind, start, end))
    return found


def lenient(sentence: list[str]) -> set[Span]:
    return {(kind, start, end + 1) for kind, start, end in get_entities(sentence)}


def strict(sentence: list[str], scheme: str) -> set[Span]:
    entities = seqeval.scheme.Tokens(sentence, SEQEVAL[scheme]).entities
    return {(entity.tag, entity.start, entity.end) for entity in entities}


def random_sentences(random: np.random.Generator, labels: list[str], count: int) -> Sentences:
    return [random.choice(labels, size=random.integers(0, 12)).tolist() for _ in range(count)]


def well_formed(random: np.random.Generator, scheme: str, count: int) -> Sentences:
    """Draw spans of two types, often next to each other, and write them in the scheme."""
    sentences = []
    for _ in range(count):
        sentence: list[str] = []
        last = ""  # type of the span that ends here
        for _ in range(random.integers(0, 6)):
            kind, size = random.choice(["", "X", "Y-Z"]), int(random.integers(1, 4))
            inner = ["I"] * size
            if kind and (scheme == "IOB2" or (scheme == "IOB1" and kind == last)):
                inner[0] = "B"
            elif scheme == "IOBES":
                inner = ["S"] if size == 1 else ["B", *["I"] * (size - 2), "E"]
            sentence += [f"{prefix}-{kind}" for prefix in inner] if kind else ["O"] * size
            last = kind
        sentences.append(sentence)
    return sentences


def every_sentence(labels: list[str], longest: int) -> Sentences:
    return [list(tags) for size in range(longest + 1) for tags in itertools.product(labels, repeat=size)]


def conlleval(lines: Iterable[tuple[str, str] | None]) -> tuple[int, int, int]:
    """Count correct, predicted and gold chunks in one pass over (gold, predicted) lines, None between sentences.

    It follows conlleval.pl's own procedure: no chunk is ever put together, the counts come from the changes between
    one line and the next.
    """

    def split(tag: str) -> tuple[str, str]:
        prefix, _, kind = tag.partition("-")
        return prefix, kind

    def ended(last: tuple[str, str], now: tuple[str, str]) -> bool:
        pairs = {"BB", "BO", "IB", "IO", "EE", "EI", "EO"}
        return last[0] + now[0] in pairs or (last[0] != "O" and last[1] != now[1])

    def started(last: tuple[str, str], now: tuple[str, str]) -> bool:
        pairs = {"BB", "IB", "OB", "OI", "OE", "EE", "EI"}
        return last[0] + now[0] in pairs or (now[0] != "O" and last[1] != now[1])

    correct = predicted = gold = 0
    last_gold = last_predicted = ("O", "")
    matching = False
    for line in [*lines, None]:
        now_gold, now_predicted = (split(tag) for tag in line or ("O", "O"))
        if matching:
            ends = ended(last_gold, now_gold), ended(last_predicted, now_predicted)
            if all(ends) and last_gold[1] == last_predicted[1]:
                correct, matching = correct + 1, False
            elif ends[0] != ends[1] or now_gold[1] != now_predicted[1]:
                matching = False
        starts = started(last_gold, now_gold), started(last_predicted, now_predicted)
        matching |= all(starts) and now_gold[1] == now_predicted[1]
        gold, predicted = gold + starts[0], predicted + starts[1]
        last_gold, last_predicted = now_gold, now_predicted
    return correct, predicted, gold


def conlleval_counts(predictions: Sentences, references: Sentences) -> list[tuple[int, int, int]]:
    pairs = zip(references, predictions, strict=True)
    return [conlleval(zip(gold, predicted, strict=True)) for gold, predicted in pairs]


def joined(sentences: Sentences) -> Iterable[str]:
    """Yield the prefixes of all neighbours of one type."""
    for sentence in sentences:
        for first, second in itertools.pairwise(sentence):
            if first[1:] == second[1:] and first != "O":
                yield first[0] + second[0]


# --- Decoding, against seqeval -----------------------------------------------------------------------------------


def test_every_short_sentence_is_decoded_as_by_seqeval() -> None:
    labels = inventory("BIES", ("X", "Y"))
    sentences = every_sentence(labels, 4)
    assert decoded(sentences, labels) == [lenient(sentence) for sentence in sentences]


@pytest.mark.parametrize(("scheme", "longest"), [("IOB1", 5), ("IOB2", 5), ("IOBES", 4)])
def test_every_short_sentence_is_decoded_strictly_as_by_seqeval(scheme: str, longest: int) -> None:
    labels = inventory(SCHEMES[scheme], ("X", "Y"))
    sentences = every_sentence(labels, longest)
    found = decoded(sentences, labels, strict=True, scheme=scheme)
    assert found == [strict(sentence, scheme) for sentence in sentences]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("formed", [False, True])
def test_random_sentences_are_decoded_as_by_seqeval(scheme: str, formed: bool) -> None:
    random = np.random.default_rng(0)
    labels = inventory(SCHEMES[scheme])
    sentences = well_formed(random, scheme, 1000) if formed else random_sentences(random, labels, 1000)
    found = decoded(sentences, labels)
    assert found == [lenient(sentence) for sentence in sentences]
    found_strictly = decoded(sentences, labels, strict=True, scheme=scheme)
    assert found_strictly == [strict(sentence, scheme) for sentence in sentences]
    # What is well-formed leaves nothing to repair, so that only then every convention reads the same.
    assert (found == found_strictly) == formed


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("strictly", [False, True])
def test_scores_and_reports_equal_seqeval(scheme: str, strictly: bool) -> None:
    random = np.random.default_rng(1)
    labels = inventory(SCHEMES[scheme], ("X", "Y-Z", "never"))
    references = well_formed(random, scheme, 300)
    predictions = [
        [tag if random.random() < 0.8 else random.choice(labels[:-2]).item() for tag in sentence]
        for sentence in references
    ]
    (tags, offsets), (gold, _) = numbered(predictions, labels), numbered(references, labels)
    counts = span_counts(tags, gold, offsets, labels, scheme, strictly).sum(0, keepdims=True)
    settings = {"mode": "strict", "scheme": SEQEVAL[scheme]} if strictly else {}
    for name, function in (
        ("precision", precision_from_counts),
        ("recall", recall_from_counts),
        ("f1", f1_from_counts),
    ):
        expected = getattr(seqeval.metrics, f"{name}_score")(references, predictions, **settings)
        assert function(counts)[0] == pytest.approx(expected, abs=1e-12)
        assert 0.1 < expected < 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a type that is never predicted
        report = seqeval.metrics.classification_report(references, predictions, output_dict=True, **settings)
    found = entity_report(tags, gold, offsets, labels, scheme, strictly)
    expected_rows = {name: row for name, row in report.items() if not name.endswith(" avg")}
    assert list(found) == list(expected_rows)
    for name, row in expected_rows.items():
        assert list(found[name].values()) == pytest.approx(
            [row["precision"], row["recall"], row["f1-score"], row["support"]], abs=1e-12
        )


# --- Counting, against conlleval.pl's procedure ------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("formed", [False, True])
def test_counts_equal_conlleval(scheme: str, formed: bool) -> None:
    random = np.random.default_rng(2)
    labels = inventory(SCHEMES[scheme])
    references = well_formed(random, scheme, 1000) if formed else random_sentences(random, labels, 1000)
    predictions = [
        [tag if random.random() < 0.8 else random.choice(labels).item() for tag in sentence] for sentence in references
    ]
    (tags, offsets), (gold, _) = numbered(predictions, labels), numbered(references, labels)
    expected = conlleval_counts(predictions, references)
    literal = span_counts(tags, gold, offsets, labels, scheme, False, conlleval=True)
    assert literal.tolist() == [list(row) for row in expected]
    same = (span_counts(tags, gold, offsets, labels, scheme, False) == literal).all()
    # With B- and I- alone seqeval's default mode is conlleval; with E- and S- it is not.
    assert same == (scheme != "IOBES")


def test_where_conlleval_and_seqeval_differ() -> None:
    labels = inventory("BIES", ("X", "Y"))
    sentences = every_sentence(labels, 4)
    one, other = decoded(sentences, labels), decoded(sentences, labels, conlleval=True)
    differ = [first != second for first, second in zip(one, other, strict=True)]
    assert differ == [any(pair in JOINED for pair in joined([sentence])) for sentence in sentences]
    # In well-formed IOBES that is where spans of one type are next to each other.
    assert decoded([["B-X", "E-X", "S-X"], ["S-X", "S-Y"]], labels, conlleval=True) == [
        {("X", 0, 3)},
        {("X", 0, 1), ("Y", 1, 2)},
    ]


# --- By hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "found", "found_strictly"),
    [
        ("B-X I-X O", {("X", 0, 2)}, {("X", 0, 2)}),
        ("I-X I-X O", {("X", 0, 2)}, set()),  # without a B-
        ("B-X I-Y", {("X", 0, 1), ("Y", 1, 2)}, {("X", 0, 1)}),  # the type changes
        ("B-X B-X", {("X", 0, 1), ("X", 1, 2)}, {("X", 0, 1), ("X", 1, 2)}),
        ("O B I", {("_", 1, 3)}, {("_", 1, 3)}),  # without any type
    ],
)
def test_sentences_by_hand(tags: str, found: set[Span], found_strictly: set[Span]) -> None:
    sentence = tags.split()
    labels = ["O", "B", "I", "B-X", "I-X", "B-Y", "I-Y"]
    assert decoded([sentence], labels) == [found]
    assert decoded([sentence], labels, strict=True, scheme="IOB2") == [found_strictly]


def test_a_span_ends_with_its_sentence() -> None:
    labels = inventory("BI", ("X",))
    sentences = [["B-X"], [], ["I-X", "I-X"], []]
    assert decoded(sentences, labels) == [{("X", 0, 1)}, set(), {("X", 0, 2)}, set()]
    tags, offsets = numbered(sentences, labels)
    assert spans(tags, offsets, labels)["sentence"].tolist() == [0, 2]
    assert span_counts(tags, tags, offsets, labels, "IOB2", True).tolist() == [
        [1, 1, 1],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_counts_by_hand() -> None:
    labels = inventory("BI", ("X", "Y"))
    references = [["B-X", "I-X", "O", "B-Y"], ["O", "O"], ["B-X", "O"]]
    predictions = [["B-X", "I-X", "O", "B-X"], ["O", "B-Y"], ["B-X", "I-X"]]
    (tags, offsets), (gold, _) = numbered(predictions, labels), numbered(references, labels)
    counts = span_counts(tags, gold, offsets, labels, "IOB2", False)
    assert counts.tolist() == [[1, 2, 2], [0, 1, 0], [0, 1, 1]]
    assert counts.dtype == np.int64
    assert f1_from_counts(counts).tolist() == [0.5, 0.0, 0.0]
    assert precision_from_counts(counts).tolist() == [0.5, 0.0, 0.0]
    assert recall_from_counts(counts).tolist() == [0.5, 0.0, 0.0]
    assert f1_from_counts(counts.sum(0, keepdims=True)).tolist() == [2 / 7]
    assert f1_from_counts(np.zeros((1, 3))).tolist() == [0.0]
    assert token_counts(tags, gold, offsets).tolist() == [[3, 4], [1, 2], [1, 2]]
    assert entity_report(tags, gold, offsets, labels) == {
        "X": {"precision": 1 / 3, "recall": 0.5, "f1": 0.4, "support": 2},
        "Y": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    }


def test_no_words_at_all() -> None:
    none, offsets = np.zeros(0, dtype=np.int64), np.zeros(3, dtype=np.int64)
    labels = inventory("BI")
    assert not len(spans(none, offsets, labels))
    assert span_counts(none, none, offsets, labels, "IOB1", True).tolist() == [[0, 0, 0]] * 2
    assert token_counts(none, none, offsets).tolist() == [[0, 0]] * 2
    assert entity_report(none, none, offsets, labels) == {}


def test_many_words_take_no_loop_over_them() -> None:
    random = np.random.default_rng(3)
    labels = inventory("BIES")
    tags, gold = random.integers(len(labels), size=(2, 1_000_000))
    offsets = np.arange(0, 1_000_001, 20)
    spent = time.process_time()  # of this process alone, so that other work on the machine does not count
    counts = span_counts(tags, gold, offsets, labels, "IOBES", False)
    assert time.process_time() - spent < 3.0  # a loop over two million tags takes longer
    assert counts.sum(0)[0] > 0


# --- Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["", "L-X", "BX", "O-X", "X"])
def test_labels_that_are_no_tags_are_refused(label: str) -> None:
    with pytest.raises(ConfigError, match="'O', 'B-X', 'I-X', 'E-X', 'S-X'"):
        spans(np.array([0]), np.array([0, 1]), ["O", label])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": inventory("BIE")}, "tag 'E-X': allowed are 'O', 'B-X', 'I-X', with X"),
        ({"scheme": ""}, "scheme ''"),
        ({"scheme": "BILOU"}, "allowed are 'IOB1', 'IOB2', 'IOBES'"),
        ({"conlleval": True}, "conlleval=True"),
        ({"gold": np.array([0, -1])}, "hidden"),
        ({"tags": np.array([0, 9])}, "from 0 to 9, allowed are 0 to 4"),
        ({"gold": np.array([0])}, r"shape \(1,\), the offsets speak of 2 words"),
        ({"offsets": np.array([0, 3, 2])}, "never fall"),
        ({"offsets": np.array([1, 2])}, "never fall"),
    ],
)
def test_unusable_input_is_refused(change: dict, says: str) -> None:
    given = {"tags": np.array([0, 1]), "gold": np.array([0, 1]), "offsets": np.array([0, 2]), "labels": inventory("BI")}
    with pytest.raises(ConfigError, match=says):
        span_counts(**{**given, "scheme": "IOB2", "strict": True, **change})


def test_hidden_tags_have_no_accuracy() -> None:
    with pytest.raises(ConfigError, match="hidden"):
        token_counts(np.array([0, 1]), np.array([0, -1]), np.array([0, 2]))


# --- The module --------------------------------------------------------------------------------------------------


def test_the_module_gives_every_number() -> None:
    references = [["B-X", "E-X", "S-X", "O"], [], ["S-Y"]]
    predictions = [["B-X", "E-X", "S-X", "I-X"], [], ["S-Y"]]
    found = public.Entities("IOBES").compute(predictions=predictions, references=references)
    assert found == pytest.approx(
        {
            "entity_f1": 6 / 7,  # three of the three gold spans, and one too many
            "entity_precision": 3 / 4,
            "entity_recall": 1.0,
            "entity_f1_strict": 1.0,  # I-X alone is none
            "entity_precision_strict": 1.0,
            "entity_recall_strict": 1.0,
            "entity_f1_conlleval": 0.5,  # the first two gold spans are one, and the prediction's is longer
            "entity_precision_conlleval": 0.5,
            "entity_recall_conlleval": 0.5,
            "token_accuracy": 4 / 5,
        }
    )


def test_the_module_is_of_iob2_unless_it_is_told() -> None:
    metric = public.Entities()
    metric.add_batch(predictions=[["B-X", "O"]], references=[["B-X", "B-Y"]])
    metric.add(prediction=["I-X"], reference=["B-X"])
    found = metric.compute()
    assert {name: found[name] for name in ("entity_f1", "entity_f1_strict", "token_accuracy")} == pytest.approx(
        {"entity_f1": 4 / 5, "entity_f1_strict": 1 / 2, "token_accuracy": 1 / 3}
    )
    assert not any("conlleval" in name for name in found)


def test_the_module_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="differ in sentences or words"):
        public.Entities().compute(predictions=[["O", "O"]], references=[["O"]])
    with pytest.raises(ConfigError, match="'BILOU', allowed are 'IOB1', 'IOB2', 'IOBES'"):
        public.Entities("BILOU")


def test_schemes_are_those_of_tasks() -> None:
    assert sorted(SCHEMES) == sorted(TASK_SCHEMES)
