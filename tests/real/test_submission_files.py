"""Submissions on the real test files: a line for every official example, in its order."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from bertcompress.data.glue import GLUE
from bertcompress.data.tasks import load_task
from bertcompress.model import Model, Predictions
from bertcompress.suite import submission

# file -> columns of its texts
TEXTS = {
    "CoLA.tsv": ("sentence",),
    "SST-2.tsv": ("sentence",),
    "MRPC.tsv": ("#1 String", "#2 String"),
    "STS-B.tsv": ("sentence1", "sentence2"),
    "QNLI.tsv": ("question", "sentence"),
    "RTE.tsv": ("sentence1", "sentence2"),
    "WNLI.tsv": ("sentence1", "sentence2"),
    "AX.tsv": ("sentence1", "sentence2"),
}


def number_of(texts: tuple[str, ...]) -> int:
    """Return a number that depends on all texts of an example."""
    return zlib.crc32("\t".join(texts).encode())


class Reader:
    """Answers every example by its texts alone, so that an answer tells which example it is for."""

    def predict(self, dataset):
        names = [name for name in ("text", "text_pair") if name in dataset.column_names]
        numbers = [number_of(texts) for texts in zip(*(dataset[name][:] for name in names), strict=True)]
        return Predictions(np.array([[number % 5000 / 1000] for number in numbers], np.float32))


class Classifier(Reader):
    """The same with as many classes as asked for."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def predict(self, dataset):
        numbers = np.rint(super().predict(dataset).logits[:, 0] * 1000).astype(int)
        return Predictions(np.eye(self.classes, dtype=np.float32)[numbers % self.classes])


@pytest.mark.parametrize("name", TEXTS)
def test_every_line_answers_the_official_example_of_its_index(name, data_root: Path, tmp_path, monkeypatch):
    file = submission.FILES[name]
    layout = GLUE[file.task]
    model = Classifier(len(layout.labels)) if layout.labels else Reader()
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(data_root))
    monkeypatch.setattr(Model, "from_pretrained", lambda *_, **__: model)
    source = submission._Source(tmp_path, "0-teacher", file.model, None)
    if not load_task(file.task).splits.get(file.split):
        pytest.skip(f"the test set of {file.task} is not among the data sets here.")
    answering = submission._Answering(source)
    text = submission.render(answering.answers(file, answering.data(file)))
    answers = [line.split("\t") for line in text.splitlines()]
    official = data_root / "glue" / layout.folders[0] / layout.candidates("test")[0]
    header, *lines = [line.split("\t") for line in official.read_text(encoding="utf-8-sig").split("\n") if line]
    assert answers[0] == ["index", "prediction"]
    assert len(answers) - 1 == len(lines) == layout.sizes[file.split]
    places = [header.index(column) for column in TEXTS[name]]
    for (index, answer), line in zip(answers[1:], lines, strict=True):
        assert index == line[header.index("index")]
        number = number_of(tuple(line[place].strip() for place in places)) % 5000
        if not layout.labels:
            assert answer == f"{number / 1000:.3f}"
        elif file.task in submission.IN_WORDS:
            assert answer == layout.labels[number % len(layout.labels)]
        else:
            assert answer == str(number % len(layout.labels))
