from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertcompress.data.base import Task, make_dataset
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.errors import BertCompressError, ConfigError, DataError
from bertcompress.evaluation.evaluate import available_metrics, check_metrics, evaluate
from bertcompress.evaluation.loyalty import label_loyalty, probability_loyalty
from bertcompress.evaluation.metrics import METRICS
from bertcompress.model import Model
from bertcompress.predictions import Predictions


class Scripted:
    """A model whose logits are given, so that every number in the evaluation can be worked out by hand."""

    def __init__(self, logits: np.ndarray, labels: Sequence[str], kind: str = "classification") -> None:
        self.logits, self.labels, self.asked = logits.astype(np.float32), tuple(labels), 0
        self.spec = EncoderSpec(Embeddings(50, 8), uniform_layers(1, 8, 2, 16), Head(kind, logits.shape[1]))
        self.network, self.tokenizer, self.max_length = None, None, 32

    def predict(self, dataset: Any) -> Predictions:
        self.asked += 1
        answers = self.logits[: len(dataset)]
        return Predictions(answers, offsets=np.arange(len(answers) + 1))

    def num_parameters(self, embeddings: bool = True) -> int:
        return self.spec.parameters(embeddings)

    def size_in_bytes(self) -> int:
        return self.spec.bytes()

    def macs(self, sequence_length: int) -> int:
        return self.spec.macs(sequence_length)

    def save_pretrained(self, folder: Path) -> None:
        raise AssertionError("nothing should be saved")


NLI = ("entailment", "neutral", "contradiction")


def toy(count: int = 200, labels: Sequence[str] = NLI, name: str = "toy", metric: str = "accuracy") -> Task:
    gold = np.random.default_rng(0).integers(len(labels), size=count).tolist()
    data = make_dataset({"text": [f"text {at}" for at in range(count)], "label": gold})
    return Task(name, "classification", tuple(labels), metric, test=data)


def logits_for(task: Task, right: float, seed: int) -> np.ndarray:
    """Return logits of a model that is right about that often."""
    random = np.random.default_rng(seed)
    gold = np.asarray(task.test["label"])
    logits = random.normal(size=(len(gold), len(task.labels)))
    logits[np.arange(len(gold)), gold] += np.where(random.random(len(gold)) < right, 4.0, -1.0)
    return logits


@pytest.fixture
def nli() -> Task:
    return toy()


@pytest.fixture
def pair(nli: Task) -> tuple[Scripted, Scripted]:
    teacher = logits_for(nli, 0.9, 1)
    student = teacher + np.random.default_rng(2).normal(size=teacher.shape)
    return Scripted(student, nli.labels), Scripted(teacher, nli.labels)


def test_scores_loyalty_and_sizes_are_those_of_the_functions(nli: Task, pair: tuple[Scripted, Scripted]) -> None:
    student, teacher = pair
    found = evaluate(student, nli, teacher=teacher, metrics=["accuracy", "loyalty"])
    gold = nli.test["label"][:]
    expected = METRICS["accuracy"](student.logits.argmax(-1), gold)
    assert found.scores == {"accuracy": expected}
    assert found.teacher.scores == {"accuracy": METRICS["accuracy"](teacher.logits.argmax(-1), gold)}
    low, high = found.model.score_intervals["accuracy"]
    assert low < expected < high
    assert found.loyalty == pytest.approx(
        {
            "label": label_loyalty(teacher.logits, student.logits),
            "probability": probability_loyalty(teacher.logits, student.logits),
            "probability_base_2": probability_loyalty(teacher.logits, student.logits, base=2),
        },
        abs=1e-12,
    )
    assert all(found.model.loyalty_intervals[name][0] < value for name, value in found.loyalty.items())
    assert found.model.parameters == student.spec.parameters()
    assert found.model.parameters_without_embeddings == student.spec.parameters(False) < found.model.parameters
    assert found.model.macs == student.spec.macs(128)
    assert found.model.bytes == student.spec.bytes()
    assert found.model.examples == 200


def test_the_teachers_own_row_is_one_hundred(nli: Task, pair: tuple[Scripted, Scripted]) -> None:
    found = evaluate(*pair[:1], nli, teacher=pair[1], metrics=["accuracy", "loyalty"])
    assert set(found.teacher.loyalty.values()) == {1.0}
    itself = evaluate(pair[1], nli, teacher=pair[1], metrics=["score", "loyalty"])
    assert set(itself.loyalty.values()) == {1.0}
    assert itself.differences["accuracy"].value == 0.0
    assert itself.differences["accuracy"].interval == (0.0, 0.0)
    assert itself.differences["accuracy"].preserved == 1.0
    rows = {row[0]: row for row in itself.rows()}
    assert rows["label loyalty"][1:3] == ("100.0 [100.0, 100.0]", "100.0 [100.0, 100.0]")
    assert pair[1].asked == 2  # once in each evaluation


def test_the_difference_to_the_teacher_is_paired(nli: Task) -> None:
    teacher = logits_for(nli, 0.8, 1)
    student = teacher.copy()
    wrong = np.flatnonzero(teacher.argmax(-1) == np.asarray(nli.test["label"]))[:4]
    student[wrong] = -student[wrong]
    found = evaluate(Scripted(student, nli.labels), nli, teacher=Scripted(teacher, nli.labels), metrics=["accuracy"])
    gap = found.differences["accuracy"]
    assert gap.value == pytest.approx(-4 / 200)
    assert gap.preserved == pytest.approx(found.scores["accuracy"] / found.teacher.scores["accuracy"])
    low, high = gap.interval
    assert low < gap.value < high <= 0  # four examples of 200, always in the same direction
    unpaired = found.model.score_intervals["accuracy"]
    assert high - low < (unpaired[1] - unpaired[0]) / 2


def test_glue_tasks_report_all_their_metrics_the_primary_one_first() -> None:
    task = toy(labels=("not_equivalent", "equivalent"), name="mrpc", metric="f1")
    found = evaluate(Scripted(logits_for(task, 0.7, 1), task.labels), task, metrics=["accuracy"])
    assert list(found.scores) == ["f1", "accuracy"]
    assert found.teacher is None
    assert found.differences == {}


def test_regression_is_scored_and_compared_by_concordance(rating: Task) -> None:
    gold = np.asarray(rating.test["label"])
    teacher, student = (gold + np.random.default_rng(seed).normal(size=50) for seed in (1, 2))
    models = [Scripted(each[:, None], (), "regression") for each in (student, teacher)]
    found = evaluate(models[0], rating, teacher=models[1], metrics=["accuracy"])
    assert list(found.scores) == ["pearson", "spearmanr"]
    assert found.scores["pearson"] == pytest.approx(np.corrcoef(student, gold)[0, 1], abs=1e-6)
    assert set(found.differences) == {"pearson", "spearmanr"}
    assert found.loyalty == {}
    loyalty = evaluate(models[0], rating, teacher=models[1], metrics=["loyalty"]).loyalty["label"]
    first, second = (np.asarray(each, np.float32).astype(float) for each in (teacher, student))
    covariance = ((first - first.mean()) * (second - second.mean())).mean()
    spread = first.var() + second.var() + (first.mean() - second.mean()) ** 2
    assert loyalty == pytest.approx(2 * covariance / spread)


def test_a_collapsed_student_gives_numbers_that_json_can_hold(rating: Task) -> None:
    flat = Scripted(np.full((50, 1), 0.3), (), "regression")
    found = evaluate(flat, rating, teacher=flat, metrics=["accuracy"])
    assert found.scores == {"pearson": 0.0, "spearmanr": 0.0}
    assert found.differences["pearson"].preserved is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_result_is_reproducible_and_depends_on_the_seed(nli: Task, pair: tuple[Scripted, Scripted]) -> None:
    texts = [
        json.dumps(
            evaluate(pair[0], nli, teacher=pair[1], metrics=["accuracy", "loyalty"], seed=seed).to_dict(),
            allow_nan=False,
        )
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_the_dictionary_has_the_fields_of_a_results_file(nli: Task, pair: tuple[Scripted, Scripted]) -> None:
    values = evaluate(pair[0], nli, teacher=pair[1], metrics=["accuracy", "loyalty"]).to_dict()
    wanted = {"parameters", "parameters_without_embeddings", "macs", "bytes", "file_bytes", "scores", "score_intervals"}
    assert wanted | {"loyalty", "loyalty_intervals", "examples", "measured"} <= set(values)
    assert wanted <= set(values["teacher"])
    assert values["macs_length"] == 128
    assert values["task"] == {
        "name": "toy",
        "kind": "classification",
        "metric": "accuracy",
        "split": "test",
        "labels": list(NLI),
    }
    assert set(values["score_differences"]["accuracy"]) == {"value", "interval", "preserved"}


def test_the_table_is_plain_text_and_the_page_is_escaped(pair: tuple[Scripted, Scripted]) -> None:
    task = toy(name="<b>&")
    found = evaluate(pair[0], task, teacher=pair[1], metrics=["accuracy", "loyalty"])
    text = str(found)
    lines = text.splitlines()
    assert lines[0] == "<b>& (classification), split test, 200 examples"
    assert any(line.startswith("accuracy") and "% kept" in line for line in lines)
    assert any(line.startswith("probability loyalty (base 2)") for line in lines)
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in text
    page = found._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "<td>label loyalty</td>" in page


def test_a_share_is_never_rounded_up_to_one_hundred(nli: Task) -> None:
    big = toy(5000)
    teacher = logits_for(big, 0.9, 1)
    student = teacher.copy()
    student[0] = -student[0]
    models = [Scripted(each, big.labels) for each in (student, teacher)]
    rows = {row[0]: row for row in evaluate(models[0], big, teacher=models[1], metrics=["loyalty"]).rows()}
    assert rows["label loyalty"][1].startswith("99.9 ")


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (["robustness"], "robustness .* not available yet.*'accuracy', 'loyalty', 'efficiency', 'score'"),
        (["accuracy", "bleu"], "'bleu', allowed are 'accuracy', 'loyalty', 'efficiency', 'score'"),
        ([], "no metric"),
        ("accuracy", "a list such as"),
    ],
)
def test_metrics_that_cannot_be_had_are_refused(nli: Task, metrics: Any, says: str) -> None:
    model = Scripted(logits_for(nli, 0.9, 1), nli.labels)
    with pytest.raises(ConfigError, match=says):
        evaluate(model, nli, metrics=metrics)
    assert model.asked == 0


def test_loyalty_asked_for_by_name_needs_a_teacher(nli: Task) -> None:
    with pytest.raises(ConfigError, match="give teacher="):
        evaluate(Scripted(logits_for(nli, 0.9, 1), NLI), nli, metrics=["loyalty"])
    assert check_metrics(["score", "accuracy"], "classification", has_teacher=False) == ("accuracy",)
    assert available_metrics(has_teacher=False) == ("accuracy", "efficiency")
    assert available_metrics(has_teacher=True) == ("accuracy", "loyalty", "efficiency")


def test_text_without_a_task_cannot_be_judged(nli: Task) -> None:
    task = Task("other", "unlabelled", (), "", test=nli.test)
    for metrics in (["accuracy"], ["efficiency", "loyalty"]):
        with pytest.raises(
            ConfigError, match="'unlabelled', which has nothing to score; allowed there are 'efficiency'"
        ):
            evaluate(
                Scripted(logits_for(nli, 0.9, 1), NLI),
                task,
                teacher=Scripted(logits_for(nli, 0.9, 1), NLI),
                metrics=metrics,
            )


def test_on_unlabelled_text_the_encoder_alone_is_measured(letters_tokenizer) -> None:
    texts = make_dataset({"text": ["abc", "defg", "hi"] * 3})
    task = Task("texts", "unlabelled", (), "", train=texts)
    spec = EncoderSpec(
        Embeddings(len(letters_tokenizer), 16, max_positions=32),
        uniform_layers(2, 16, 2, 32),
        Head("masked_lm", 0, "tanh"),
    )
    model = Model.from_spec(spec, letters_tokenizer, task)
    before = torch.get_rng_state()
    alone = model.without_head()
    assert torch.equal(torch.get_rng_state(), before)
    assert alone.spec.head == Head()
    assert torch.equal(alone.network.embeddings.word.weight, model.network.encoder.embeddings.word.weight)
    assert alone.network.embeddings.word.weight.data_ptr() == model.network.encoder.embeddings.word.weight.data_ptr()
    found = evaluate(model, task)
    assert found.task["split"] == "train"
    assert found.model.scores == {}
    assert found.model.parameters == model.without_head().num_parameters() < model.num_parameters()
    assert found.model.measured["latency"]["peak_memory_mib"] > 0


def test_another_label_order_is_refused_for_student_teacher_and_task(nli: Task) -> None:
    logits = logits_for(nli, 0.9, 1)
    ours, other = Scripted(logits, NLI), Scripted(logits, ("contradiction", "entailment", "neutral"))
    for student, teacher, says in (
        (ours, other, "the teacher has the labels .* the model has"),
        (other, ours, "the teacher has the labels .* the model has"),
        (other, other, "the model has the labels .* the task 'toy' has"),
        (other, None, "the model has the labels .* the task 'toy' has"),
    ):
        with pytest.raises(ConfigError, match=f"{says}.*same classes in another order"):
            evaluate(student, nli, teacher=teacher, metrics=["accuracy"])
    with pytest.raises(ConfigError, match="different classes"):
        evaluate(Scripted(logits, ("a", "b", "c")), nli, metrics=["accuracy"])
    unnamed = Scripted(logits, ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert evaluate(unnamed, nli, teacher=ours, metrics=["loyalty"]).loyalty["label"] == 1.0


def test_weights_in_another_label_order_than_their_names_are_noted(nli: Task) -> None:
    logits = logits_for(nli, 0.9, 1)
    found = evaluate(
        Scripted(logits[:, [1, 2, 0]], NLI), nli, teacher=Scripted(logits, NLI), metrics=["accuracy", "loyalty"]
    )
    assert "Suspicious" in found.notes[0]
    assert "100.0% with their classes renamed" in str(found)
    honest = evaluate(
        Scripted(logits_for(nli, 0.4, 5), NLI), nli, teacher=Scripted(logits, NLI), metrics=["accuracy", "loyalty"]
    )
    assert honest.notes == ()


def test_a_head_that_is_not_the_tasks_is_refused(nli: Task, rating: Task) -> None:
    two = Scripted(np.zeros((200, 2)), ())
    with pytest.raises(
        ConfigError, match="2 outputs, the task 'toy' is a classification task and needs classification with 3"
    ):
        evaluate(two, nli, metrics=["accuracy"])
    with pytest.raises(ConfigError, match="needs regression with 1"):
        evaluate(two, rating, metrics=["accuracy"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_model_is_refused(nli: Task, value: float) -> None:
    logits = logits_for(nli, 0.9, 1)
    logits[3, 1] = value
    with pytest.raises(BertCompressError, match="1 logits among them NaN or infinite"):
        evaluate(Scripted(logits, NLI), nli, metrics=["accuracy"])


def test_hidden_labels_are_refused(nli: Task) -> None:
    hidden = make_dataset({"text": ["a", "b"], "label": [-1, -1]})
    task = Task("hidden", "classification", NLI, "accuracy", test=hidden)
    with pytest.raises(DataError):
        evaluate(Scripted(np.zeros((2, 3)), NLI), task, metrics=["accuracy"])


def without_measured(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: without_measured(each) for name, each in values.items() if name != "measured"}
    return values


@pytest.fixture
def quick_memory(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the memory measurement, which takes seconds and has its own tests; returns the folders asked about."""
    folders: list[Path] = []

    def fake(folder: Path, dataset: Any, *, precision: str) -> dict[str, Any]:
        assert (folder / "config.json").is_file()
        assert precision == "fp32"
        folders.append(folder)
        return {"peak_memory_mib": 100.0 + len(folders), "libraries_memory_mib": 90.0, "memory_examples": 1}

    # The function `evaluate` hides its module of the same name from a dotted path.
    monkeypatch.setattr(sys.modules["bertcompress.evaluation.evaluate"], "measure_peak_memory", fake)
    return folders


@pytest.mark.usefixtures("quick_memory")
def test_everything_about_real_models(task: Task, tiny: Callable[..., Any]) -> None:
    teacher, student = tiny(task, layers=4, width=64), tiny(task, layers=1, width=32, seed=1)
    found = evaluate(student, task, teacher=teacher)
    ours, theirs = found.model, found.teacher
    assert ours.file_bytes >= ours.bytes
    assert 0.0 <= found.loyalty["label"] <= 1.0
    assert ours.latency["speedup"] > 1
    assert ours.latency["baseline"] == "teacher"
    assert theirs.latency["speedup"] == 1.0
    assert (ours.latency["peak_memory_mib"], theirs.latency["peak_memory_mib"]) == (101.0, 102.0)
    text = str(found)
    for phrase in ("speed-up", "latency p50", "throughput", "peak memory", "weight files", "Timed in turn"):
        assert phrase in text
    again = evaluate(student, task, teacher=teacher)
    assert again.to_dict() != found.to_dict()
    assert without_measured(again.to_dict()) == without_measured(found.to_dict())
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.usefixtures("quick_memory")
@pytest.mark.parametrize(("load", "busy"), [(0.1, False), (500.0, True), (None, False)])
def test_a_busy_machine_is_told(
    task: Task, tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, load: float | None, busy: bool
) -> None:
    monkeypatch.setattr("bertcompress.evaluation.efficiency.load_average", lambda: load)
    found = evaluate(tiny(task), task, metrics=["efficiency"])
    assert ("The machine was busy (load 500.0" in str(found)) is busy
    assert found.scores == {}


@pytest.mark.usefixtures("quick_memory")
def test_saving_to_measure_is_not_told(
    task: Task, tiny: Callable[..., Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    model = tiny(task)
    with caplog.at_level("INFO"):
        evaluate(model, task, metrics=["efficiency"])
        assert not any(message.startswith("saved ") for message in caplog.messages)
        model.save_pretrained(tmp_path)
    assert any(message.startswith("saved ") for message in caplog.messages)


def test_a_model_alone_and_as_its_own_teacher(task: Task, tiny: Callable[..., Any], quick_memory: list[Path]) -> None:
    model = tiny(task)
    alone = evaluate(model, task)
    assert alone.loyalty == {}
    assert "speedup" not in alone.model.latency
    assert [len(row) for row in alone.rows()] == [2] * len(alone.rows())
    own = evaluate(model, task, teacher=model)
    assert own.model.latency["speedup"] == 1.0
    assert own.model.to_dict() == own.teacher.to_dict()
    assert len(quick_memory) == 2  # once in each evaluation
    assert not any(folder.exists() for folder in quick_memory)
