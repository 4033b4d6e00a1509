"""Counts, tags and splits of the real question answering and tagging files against the official ones."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from bertcompress.data.base import Task
from bertcompress.data.conll import read_conll
from bertcompress.data.splits import normalised
from bertcompress.data.squad import read_squad
from bertcompress.data.tasks import load_task


@pytest.fixture(autouse=True)
def _data(data_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(data_root))
    monkeypatch.chdir(tmp_path)


def counts(task: Task) -> dict[str, int]:
    return {name: len(data) for name, data in task.splits.items()}


def spans(task: Task, split: str) -> int:
    """Number of spans, of a task in IOB2."""
    begins = {number for number, label in enumerate(task.labels) if label.startswith("B-")}
    return sum(tag in begins for tags in task.splits[split]["tags"][:] for tag in tags)


@pytest.mark.parametrize(
    ("name", "sizes", "types", "entities"),
    [
        ("bc5cdr", (4560, 4581, 4797), ("Chemical", "Disease"), (9385, 9593, 9809)),
        ("bc2gm", (12574, 2519, 5038), ("GENE",), (15197, 3061, 6325)),
        (
            "wnut17",
            (3394, 1009, 1287),
            ("corporation", "creative-work", "group", "location", "person", "product"),
            (1975, 836, 1079),
        ),
    ],
)
def test_entities(name: str, sizes: tuple[int, ...], types: tuple[str, ...], entities: tuple[int, ...]) -> None:
    task = load_task(name)
    assert counts(task) == dict(zip(("train", "validation", "test"), sizes, strict=True))
    assert task.labels == ("O", *itertools.chain.from_iterable((f"B-{kind}", f"I-{kind}") for kind in types))
    assert (task.scheme, task.metric, task.notes) == ("IOB2", "entity_f1", ())
    assert tuple(spans(task, split) for split in ("train", "validation", "test")) == entities
    assert task.scoring_split()[0] == "test"


def test_conll2000_chunks() -> None:
    task = load_task("conll2000")
    assert counts(task)["test"] == 2012
    assert len(task.train) + len(task.validation) == 8936
    assert 800 < len(task.validation) < 1000
    assert task.scheme == "IOB2"
    assert len(task.labels) == 23  # the 22 of train, and one that only the test set has
    assert task.labels[-1] == "I-LST"
    assert spans(task, "test") == 23852  # as counted by conlleval
    assert sum(map(len, task.test["words"])) == 47377
    assert sum(len(words) for split in (task.train, task.validation) for words in split["words"]) == 211727
    sides = [{normalised(" ".join(words)) for words in split["words"]} for split in (task.train, task.validation)]
    assert not sides[0] & sides[1]


def test_conll2000_parts_of_speech() -> None:
    task = load_task("conll2000-pos")
    assert (len(task.labels), task.scheme, task.metric) == (44, "", "token_accuracy")
    assert "#" in task.labels
    hashes = sum(words.count("#") for split in task.splits.values() for words in split["words"])
    assert hashes == 47  # none of these words is taken for a comment


def test_english_web_treebank() -> None:
    task = load_task("ud-ewt-pos")
    assert counts(task) == {"train": 12544, "validation": 2001, "test": 2077}
    assert (len(task.labels), task.scheme, task.metric, task.notes) == (17, "", "token_accuracy", ())
    assert sum(map(len, task.validation["words"])) == 25147
    assert sum(map(len, task.test["words"])) == 25094


@pytest.mark.parametrize(("file", "sentences"), [("dev", 1575), ("test", 1464)])
def test_gum(data_root: Path, file: str, sentences: int) -> None:
    path = data_root / f"ud/gum/en_gum-ud-{file}.conllu.gz"
    found = read_conll(path)
    assert len(found.words) == sentences
    assert len(found.first) == 17
    assert len(read_conll(path, tag="xpos").first) in (46, 47)


@pytest.mark.parametrize(
    ("file", "number", "paragraphs", "unanswerable"),
    [
        ("train_subset.merged-v1.1.json.gz", 11614, 4300, 0),
        ("squad-v1.1-20articles.json.gz", 4639, 920, 0),
        ("xquad.en.json", 1190, 240, 0),
        ("cs224n-dev-v2.0.json.gz", 6078, 646, 3168),
    ],
)
def test_questions(data_root: Path, file: str, number: int, paragraphs: int, unanswerable: int) -> None:
    found = read_squad(data_root / "squad" / file)
    assert len(found.rows) == number
    assert len(found.contexts) == paragraphs
    assert sum(not row["answers"]["text"] for row in found.rows) == unanswerable
    assert (found.hidden, found.notes) == (False, [])


def paragraphs_of(task: Task) -> dict[str, set[str]]:
    return {split: set(map(normalised, data["context"][:])) for split, data in task.splits.items()}


def test_squad_keeps_paragraphs_apart() -> None:
    task = load_task("squad")
    assert counts(task)["test"] == 1190
    assert len(task.train) + len(task.validation) == 11614
    assert 900 < len(task.validation) < 1400
    for first, second in itertools.combinations(paragraphs_of(task).values(), 2):
        assert not first & second
    assert not task.unanswerable
    assert task.scoring_split()[0] == "test"


def test_squad_v2_keeps_paragraphs_apart(data_root: Path) -> None:
    task = load_task("squad_v2")
    found = paragraphs_of(task)
    for first, second in itertools.combinations(found.values(), 2):
        assert not first & second
    xquad = {normalised(context) for context in read_squad(data_root / "squad/xquad.en.json").contexts}
    assert not found["train"] & xquad
    assert len(xquad & (found["validation"] | found["test"])) == 78
    assert sum(counts(task).values()) == 11614 + 6078
    assert task.unanswerable
    for split in ("validation", "test"):
        kinds = Counter(bool(answers["text"]) for answers in task.splits[split]["answers"])
        assert 0.4 < kinds[False] / len(task.splits[split]) < 0.6
    ids = [name for data in task.splits.values() for name in data["id"][:]]
    assert len(ids) == len(set(ids))
