"""The named tasks, from small files in the layouts that the data sets are published in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from bertcompress.data.base import Task
from bertcompress.data.corpora import CORPORA
from bertcompress.data.kinds import METRICS
from bertcompress.data.splits import position
from bertcompress.data.tasks import TASKS, load_task
from bertcompress.errors import DataError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def questions(*contexts: str, prefix: str = "", impossible: bool = False) -> dict[str, Any]:
    """One question on each context; with `impossible` a second one without an answer."""
    paragraphs = []
    for context in contexts:
        first = {"text": context.split()[0], "answer_start": 0}
        qas: list[dict[str, Any]] = [{"id": f"{prefix}{context}", "question": "What?", "answers": [first]}]
        if impossible:
            qas[0]["is_impossible"] = False
            qas.append({"id": f"{prefix}{context}!", "question": "Why?", "answers": [], "is_impossible": True})
        paragraphs.append({"context": context, "qas": qas})
    return {"data": [{"paragraphs": paragraphs}]}


def contexts(task: Task) -> dict[str, set[str]]:
    return {split: set(data["context"]) for split, data in task.splits.items()}


NUMBERED = [f"Paragraph {number}" for number in range(80)]


def test_squad_from_the_official_files(root: Path) -> None:
    write(root / "squad/train-v1.1.json", questions("a b", "c d"))
    write(root / "squad/dev-v1.1.json", questions("e f"))
    write(root / "squad/xquad.en.json", questions("e f"))
    squad = load_task("squad")
    assert contexts(squad) == {"train": {"a b", "c d"}, "validation": {"e f"}}
    assert (squad.kind, squad.metric, squad.unanswerable) == ("question_answering", "f1", False)
    assert "train: 2 examples from train-v1.1.json, the official set has 87599" in squad.notes
    assert load_task("squad").fingerprint() == load_task(root / "squad").fingerprint()


def test_squad_from_the_subset_and_xquad(root: Path) -> None:
    write(root / "squad/train_subset.merged-v1.1.json", questions(*NUMBERED))
    write(root / "squad/xquad.en.json", questions("e f"))
    squad = load_task("squad")
    found = contexts(squad)
    assert found["train"] | found["validation"] == set(NUMBERED)
    assert not found["train"] & found["validation"]
    assert found["test"] == {"e f"}
    assert any("train_subset.merged-v1.1.json, the official set has 87599" in note for note in squad.notes)
    assert any("xquad.en.json, English XQuAD" in note for note in squad.notes)


def test_squad_v2_from_the_official_files(root: Path) -> None:
    write(root / "squad/train-v2.0.json", questions("a b", impossible=True))
    write(root / "squad/dev-v2.0.json", questions("e f"))
    write(root / "squad/cs224n-dev-v2.0.json", questions("g h"))
    task = load_task("squad_v2")
    assert contexts(task) == {"train": {"a b"}, "validation": {"e f"}}
    assert task.unanswerable


def test_squad_v2_with_the_official_training_set_and_the_sample(root: Path) -> None:
    write(root / "squad/train-v2.0.json", questions("a b", impossible=True))
    write(root / "squad/cs224n-dev-v2.0.json", questions(*NUMBERED, impossible=True))
    found = contexts(load_task("squad_v2"))
    assert found["train"] == {"a b"}
    assert found["validation"] | found["test"] == set(NUMBERED)
    assert not found["validation"] & found["test"]
    assert found["validation"] == {context for context in NUMBERED if position(context) < 0.5}


def test_squad_v2_from_the_sample_and_the_subset(root: Path) -> None:
    shared = NUMBERED[:20]
    write(root / "squad/cs224n-dev-v2.0.json", questions(*NUMBERED, impossible=True))
    write(root / "squad/train_subset.merged-v1.1.json", questions("new one", NUMBERED[70] + ".", prefix="s"))
    write(root / "squad/xquad.en.json", questions(*shared, prefix="x"))
    task = load_task("squad_v2")
    found = contexts(task)
    assert "new one" in found["train"]
    assert NUMBERED[70] + "." not in found["train"]  # but for the full stop it is one of the sample
    assert set(NUMBERED) == (found["train"] | found["validation"] | found["test"]) - {"new one"}
    assert not found["train"] & (found["validation"] | found["test"] | set(shared))
    assert not found["validation"] & found["test"]
    without = [context for context in NUMBERED if context not in shared]
    assert found["train"] - {"new one"} == {context for context in without if position(context) < 0.5}
    assert any("none of the 20 that XQuAD has is trained on" in note for note in task.notes)
    assert task.unanswerable
    # each paragraph's two questions stay together
    assert sum(len(data) for data in task.splits.values()) == 2 * len(NUMBERED) + 1


def test_squad_v2_from_the_sample_alone(root: Path) -> None:
    write(root / "squad/cs224n-dev-v2.0.json", questions(*NUMBERED, impossible=True))
    found = contexts(load_task("squad_v2"))
    assert sorted(found) == ["test", "train", "validation"]
    assert set.union(*found.values()) == set(NUMBERED)


@pytest.mark.parametrize("names", [("eng.train", "eng.testa", "eng.testb"), ("train.txt", "valid.txt", "test.txt")])
def test_conll2003_and_its_variants(root: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        rows = (
            f"-DOCSTART- -X- -X- O\n\nEU{number} NNP I-NP I-ORG\nUN NNP B-NP B-ORG\nsaid VBD I-VP O\n\nhe PRP I-NP O\n"
        )
        write(root / "conll2003" / name, rows)
    task = load_task("conll2003")
    assert (task.labels, task.scheme, task.metric) == (("O", "B-ORG"), "IOB2", "entity_f1")
    assert task.test[:] == {"words": [["EU2", "UN", "said"], ["he"]], "tags": [[1, 1, 0], [0]]}
    assert "train: 2 examples from " + names[0] + ", the official set has 14041" in task.notes
    chunks = load_task("conll2003-chunk")
    assert [chunks.labels[tag] for tag in chunks.train["tags"][0]] == ["B-NP", "B-NP", "B-VP"]
    parts = load_task("conll2003-pos")
    assert (parts.labels, parts.scheme, parts.metric) == (("NNP", "PRP", "VBD"), "", "token_accuracy")
    assert load_task(root / "conll2003").name == "conll2003"


def test_conll2000_has_no_validation_file(root: Path) -> None:
    write(root / "conll2000/train.txt", "".join(f"word{n} NN B-NP\nruns VBZ B-VP\n\n" for n in range(50)))
    task = load_task("conll2000")
    assert len(task.train) + len(task.validation) == 50
    assert "train: 50 examples from train.txt, the official set has 8936" in task.notes
    assert "test: not there (looked for test.txt)" in task.notes
    assert load_task("conll2000-pos").labels == ("NN", "VBZ")


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_what_is_wanted_and_where(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(root / "cache"))
    corpus = CORPORA[name]
    for unset in (False, True):
        if unset:
            monkeypatch.delenv("BERTCOMPRESS_DATA")
        with pytest.raises(DataError, match=rf"task {name}: its files are not in \$BERTCOMPRESS_DATA/") as caught:
            load_task(name)
        assert "\n" not in str(caught.value)
        for names in corpus.files.values():
            assert names[0] in str(caught.value)
    assert ("did not load" in str(caught.value)) == (corpus.kind == "question_answering")


def test_squad_from_the_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*names: str) -> dict[str, datasets.Dataset]:
        asked.append(names)
        answers = [{"text": ["a"], "answer_start": [0]}, {"text": [], "answer_start": []}]
        columns = {
            "id": ["1", "2"],
            "title": ["t"] * 2,
            "context": ["a b"] * 2,
            "question": ["q"] * 2,
            "answers": answers,
        }
        return {"train": datasets.Dataset.from_dict(columns), "validation": datasets.Dataset.from_dict(columns)}

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = load_task("squad_v2")
    assert asked == [("rajpurkar/squad_v2",)]
    assert task.unanswerable
    assert task.train.column_names == ["id", "question", "context", "answers"]
    assert task.validation["answers"][1] == {"text": [], "answer_start": []}


def test_the_table_lists_them_with_their_own_metrics() -> None:
    for name, corpus in CORPORA.items():
        assert TASKS[name][:3] == (name, corpus.kind, corpus.metric)
        assert corpus.metric in METRICS[corpus.kind]
        assert TASKS[name].source.startswith("$BERTCOMPRESS_DATA/")


def test_a_folder_called_like_a_task_does_not_hide_it(root: Path) -> None:
    write(root / "wnut17/results.json", "{}")
    write(root / "emerging_entities_17/wnut17train.conll", "a\tB-person\nb\tO\n")
    assert load_task("wnut17").train["words"][:] == [["a", "b"]]
    write(root / "wnut17/wnut17train.conll", "c\tB-person\nd\tO\n")
    assert load_task("wnut17").train["words"][:] == [["c", "d"]]
