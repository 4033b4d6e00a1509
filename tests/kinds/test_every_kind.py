from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

import bertcompress as bc
from bertcompress.data.base import make_dataset
from bertcompress.evaluation.evaluate import evaluate
from bertcompress.evaluation.judges import judge_for
from bertcompress.model import Model

from .conftest import make_model, make_task

SHORT = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 8, "precision": "fp32", "max_length": 32}


def per_example(found, count):
    """The answers of each example, whatever the kind."""
    if found.answers:
        rows = found.features.offsets[np.searchsorted(found.features.examples, np.arange(count + 1))]
    else:
        rows = found.offsets
    return [found.logits[start:stop] for start, stop in pairwise(rows)]


@pytest.mark.parametrize("max_tokens", [1, 70, 4096])
def test_predictions_come_back_in_order_one_for_each_example_whatever_the_batches(task, model, max_tokens):
    found = per_example(model.predict(task.test, max_length=24, max_tokens=max_tokens), len(task.test))
    assert len(found) == len(task.test)
    for place in (0, 7, len(task.test) - 1):
        alone = model.predict(task.test.select([place]), max_length=24)
        np.testing.assert_allclose(found[place], per_example(alone, 1)[0], atol=1e-5)


def test_what_is_to_be_predicted_is_never_read(task, model):
    hidden = [name for name in ("label", "tags", "answers") if name in task.test.column_names]
    bare = task.test.remove_columns(hidden)
    np.testing.assert_array_equal(model.predict(bare).logits, model.predict(task.test).logits)


@pytest.fixture(scope="module")
def chain(task, letters_tokenizer):
    """A fine-tuned teacher (an embedding has none to tune), and a student of half its layers."""
    base = make_model(task, letters_tokenizer)
    teacher = (
        base
        if task.kind == "embedding"
        else bc.FineTune(**SHORT | {"epochs": 12, "learning_rate": 3e-3}).compress(base, task)
    )
    return teacher, bc.ExtractThenDistill(num_layers=2, **SHORT).compress(teacher, task)


def test_a_student_comes_back_from_disk_as_it_was_saved(task, chain, tmp_path):
    student = chain[1]
    student.save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path, task)
    assert again.null_threshold == student.null_threshold
    np.testing.assert_array_equal(again.predict(task.test).logits, student.predict(task.test).logits)
    assert Model.from_pretrained(tmp_path).labels == student.labels


def test_integers_take_the_place_of_floats_in_every_kind(task, chain):
    student = chain[1]
    small = bc.PostTrainingQuantization().compress(student, None)
    assert small.null_threshold == student.null_threshold
    assert small.predict(task.test).logits.shape == student.predict(task.test).logits.shape


@pytest.mark.parametrize("method", [bc.KDLSQ, bc.QuantizationAwareTraining])
def test_steps_are_learned_in_every_kind(task, chain, tmp_path, method):
    teacher, student = chain
    if method is bc.QuantizationAwareTraining and task.kind == "embedding":
        pytest.skip("sentence embeddings have no labels to train on")
    small = method(**SHORT, weight_bits=4, embedding_bits=4).compress(student, task, teacher=teacher)
    small.save_pretrained(tmp_path)
    ours, again = (each.predict(task.test).logits for each in (small, Model.from_pretrained(tmp_path, task)))
    np.testing.assert_array_equal(ours, again)
    assert np.isfinite(ours).all()
    assert small.size_in_bytes() < student.size_in_bytes() / 2


def test_a_model_is_wholly_loyal_to_itself(task, chain):
    teacher = chain[0]
    found = evaluate(teacher, task, teacher=teacher, metrics=["accuracy", "loyalty"])
    assert found.loyalty
    assert set(found.loyalty.values()) == {1.0}
    assert not found.model.breakdown


def test_a_student_is_scored_and_compared(task, chain, letters_tokenizer):
    teacher, student = chain[0], make_model(task, letters_tokenizer, seed=3)
    found = evaluate(student, task, teacher=teacher, metrics=["accuracy", "loyalty"])
    assert next(iter(found.scores)) == task.metric
    for name, value in found.loyalty.items():
        low, high = found.model.loyalty_intervals[name]
        assert low - 1e-9 <= value <= high + 1e-9
    assert found.loyalty["label"] < 1
    shown = json.loads(json.dumps(found.to_dict(), allow_nan=False))["breakdown"]
    units = sum(group["units"] for group in shown["by_group"])
    assert units >= len(task.test)
    if task.kind != "regression":
        mean = sum(group["label"] * group["units"] for group in shown["by_group"]) / units
        assert mean == pytest.approx(found.loyalty["label"])
    assert shown["departures"]
    assert str(found)


def test_scores_are_those_of_the_judge_and_improve_by_training(task, letters_tokenizer, chain):
    if task.kind == "embedding":
        pytest.skip("a sentence encoder is not fine-tuned")
    judge = judge_for(task, task.train)
    untrained = make_model(task, letters_tokenizer)
    before, after = (judge.selection_score(each.predict(task.train, max_length=32)) for each in (untrained, chain[0]))
    assert after > before


def test_micro_batches_do_not_change_what_is_learnt(task, model):
    settings = SHORT | {"objective": {"embedding": 1.0} if task.kind == "embedding" else None, "max_grad_norm": 0.0}
    few = dataclasses.replace(task, train=task.train.select(range(24)), validation=None)
    teacher = make_model(task, model.tokenizer, seed=8)
    whole, split = (
        bc.Distill(**settings, max_tokens=tokens).compress(model, few, teacher=teacher) for tokens in (4096, 40)
    )
    for name, tensor in whole.network.state_dict().items():
        if task.kind == "question_answering" and name == "classifier.bias":
            continue  # a softmax over tokens does not see it: its gradient is rounding noise, which Adam makes steps of
        np.testing.assert_allclose(tensor.numpy(), split.network.state_dict()[name].numpy(), atol=2e-5, err_msg=name)


def test_training_refuses_hidden_labels(task, model):
    if task.kind in ("embedding", "question_answering"):
        pytest.skip("has none to hide")
    column = "tags" if task.kind == "tagging" else "label"
    rows = task.train.to_dict()
    hidden = -1 if task.labels else float("nan")
    rows[column][3] = [hidden] * len(rows[column][3]) if column == "tags" else hidden
    broken = dataclasses.replace(task, train=make_dataset(rows))
    with pytest.raises(bc.errors.DataError, match="needs labels"):
        bc.FineTune(**SHORT).compress(model, broken)


def test_a_long_example_is_read_whole(letters_tokenizer):
    """Words beyond a row, and answers beyond a window, are found."""

    tagging = make_task("tagging")
    words = ["abc"] * 200
    model = make_model(tagging, letters_tokenizer)
    found = model.predict(make_dataset({"words": [words]}))
    assert [len(tags) for tags in found.tags(tagging.labels)] == [200]
    answering = make_task("question_answering")
    context = "bc " * 150 + "42 " + "de " * 150
    row = {"id": ["1"], "question": ["where?"], "context": [context]}
    predictions = make_model(answering, letters_tokenizer).predict(make_dataset(row))
    assert len(predictions.answers) == 1
    covered = np.zeros(len(context), bool)
    for start, end in zip(predictions.features.starts, predictions.features.ends, strict=True):
        if start >= 0:
            covered[start:end] = True
    assert covered[[place for place, sign in enumerate(context) if sign != " "]].all()


def test_wrong_columns_are_refused_by_name(task, model):
    other = make_dataset({"text": ["a"]}) if task.kind in ("tagging", "question_answering") else None
    if other is None:
        other = make_dataset({"words": [["a"]], "tags": [[0]]})
    with pytest.raises(bc.errors.DataError, match="needs the column"):
        model.predict(other)


def test_wrong_answers_do_not_keep_a_question_from_being_answered(letters_tokenizer):
    task = make_task("question_answering")
    rows = task.test.to_dict()
    rows["answers"][0]["answer_start"] = [3]
    model = make_model(task, letters_tokenizer)
    assert len(model.predict(make_dataset(rows)).answers) == len(task.test)


def test_where_every_question_has_an_answer_none_is_withheld(letters_tokenizer, tmp_path):
    hard, easy = make_task("unanswerable"), make_task("question_answering")
    model = make_model(hard, letters_tokenizer)
    model.null_threshold = -100.0
    model.save_pretrained(tmp_path)
    assert Model.from_pretrained(tmp_path, hard).null_threshold == -100.0
    assert Model.from_pretrained(tmp_path).null_threshold == -100.0
    assert Model.from_pretrained(tmp_path, easy).null_threshold is None
    assert bc.FineTune(**SHORT).compress(model, easy).null_threshold is None


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_exported_files_withhold_answers_as_the_model_does(suffix, letters_tokenizer, tmp_path):
    for package in ("onnx", "onnxruntime") if suffix == ".onnx" else ("openvino",):
        pytest.importorskip(package)
    hard, easy = make_task("unanswerable"), make_task("question_answering")
    model, path = make_model(hard, letters_tokenizer), tmp_path / f"m{suffix}"
    for threshold in (-100.0, 100.0, None):
        model.null_threshold = threshold
        model.save_pretrained(tmp_path / "saved")
        model.export(path)
        for task in (hard, easy, None):
            saved, exported = Model.from_pretrained(tmp_path / "saved", task), bc.runtime.load(path, task)
            assert exported.null_threshold == saved.null_threshold
            assert exported.predict(hard.test).answer_texts() == saved.predict(hard.test).answer_texts()


def test_a_threshold_chosen_on_what_is_scored_is_noted(letters_tokenizer):
    task = make_task("unanswerable")
    model = make_model(task, letters_tokenizer)
    model.null_threshold = 1.5
    assert "best-case" in evaluate(model, task, split="validation", metrics=["accuracy"]).notes[0]
    assert not evaluate(model, task, split="test", metrics=["accuracy"]).notes


def test_spans_that_neither_model_names_are_agreed_on(letters_tokenizer):
    task = make_task("tagging")
    model = make_model(task, letters_tokenizer)
    found = model.predict(task.test)
    nothing = dataclasses.replace(found, logits=np.eye(3, dtype=np.float32)[np.zeros(len(found.logits), int)])
    assert judge_for(task, task.test).loyalty(nothing, nothing)["entity"].total() == 1


@pytest.mark.parametrize("place", [0, 1])
def test_what_cannot_be_learnt_is_refused_before_anything_is(letters_tokenizer, place, monkeypatch):
    task = make_task("embedding")
    model = make_model(task, letters_tokenizer)
    steps = [bc.ExtractThenDistill(num_layers=2, **SHORT), bc.FineTune(**SHORT)]
    monkeypatch.setattr("bertcompress.compressors.fitting.fit", lambda *options, **more: pytest.fail("trained"))
    with pytest.raises(bc.errors.ConfigError, match=rf"compress\[{place}\] fine_tune: .*'hard'"):
        bc.Pipeline(steps[1 - place :]).compress(model, task)


def test_without_a_place_to_write_tokens_are_kept_in_memory(letters_tokenizer, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BERTCOMPRESS_CACHE", str(tmp_path / "file"))
    task = make_task("classification")
    bc.FineTune(**SHORT).compress(make_model(task, letters_tokenizer), task)
    assert "kept in memory" in caplog.text


def test_no_epochs_take_a_teacher_as_it_is(task, model):
    untrained = dataclasses.replace(task, train=None)
    taken = bc.FineTune(epochs=0).compress(model, untrained)
    np.testing.assert_array_equal(taken.predict(task.test).logits, model.predict(task.test).logits)
    assert taken.history[-1].method == "fine_tune"
