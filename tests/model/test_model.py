"""The wrapper: prediction in order, labels in the task's order, history, copies."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification

from bertcompress.compressors import ExtractThenDistill, PostTrainingQuantization
from bertcompress.data.tasks import Task
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.errors import CheckpointError, ConfigError, ConversionError, DataError
from bertcompress.model import Model

TEXTS = ["a", "a much longer text than the others", "bc d", "of medium length", "x y z"]


@pytest.fixture
def task():
    data = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 2, 0, 1]})
    return Task("moods", "classification", ("sad", "calm", "glad"), "accuracy", data, data, data)


@pytest.fixture
def checkpoint(letters_tokenizer, tmp_path):
    """A plain transformers checkpoint that names its classes in an order of its own."""
    torch.manual_seed(0)
    names = dict(enumerate(("glad", "sad", "calm")))
    config = BertConfig(
        vocab_size=len(letters_tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        id2label=names,
        label2id={name: number for number, name in names.items()},
        initializer_range=0.3,
    )
    network = BertForSequenceClassification(config).eval()
    network.save_pretrained(tmp_path / "bert")
    letters_tokenizer.save_pretrained(tmp_path / "bert")
    return network, tmp_path / "bert"


def expected_logits(network, tokenizer):
    with torch.no_grad():
        return np.stack([network(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in TEXTS])


def test_texts_are_answered_without_a_data_set(letters_tokenizer):
    spec = EncoderSpec(Embeddings(len(letters_tokenizer), 8), uniform_layers(1, 8, 2, 16), Head("classification", 2))
    model = Model.from_spec(spec, letters_tokenizer)
    texts = ["ab", "c"]
    expected = model.predict(Dataset.from_dict({"text": texts})).logits
    np.testing.assert_array_equal(model.predict(texts).logits, expected)
    for wrong in ("ab", [1, 2], [["ab", "c"]]):
        with pytest.raises(DataError, match=r"predict: got \w+, allowed are a datasets.Dataset and a list of texts"):
            model.predict(wrong)


def test_predictions_are_in_the_data_sets_order(checkpoint, letters_tokenizer):
    network, folder = checkpoint
    model = Model.from_pretrained(folder)
    found = model.predict(Dataset.from_dict({"text": TEXTS}), max_tokens=20)
    np.testing.assert_allclose(found.logits, expected_logits(network, letters_tokenizer), atol=1e-5)
    assert found.labels is None
    assert model.labels == ("glad", "sad", "calm")


def test_other_order_of_classes_is_brought_into_the_tasks(checkpoint, letters_tokenizer, task):
    network, folder = checkpoint
    model = Model.from_pretrained(folder, task=task)
    expected = expected_logits(network, letters_tokenizer)[:, [1, 2, 0]]
    np.testing.assert_allclose(model.predict(task.test).logits, expected, atol=1e-5)
    assert model.labels == ("sad", "calm", "glad")


def test_other_classes_get_a_new_output_layer(checkpoint, task):
    _, folder = checkpoint
    others = dataclasses.replace(task, labels=("red", "green", "blue"))
    first, again, other = (Model.from_pretrained(folder, task=others, seed=seed) for seed in (0, 0, 1))
    weights = [each.network.classifier.weight for each in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    saved = Model.from_pretrained(folder).network.classifier.weight
    assert not torch.equal(weights[0], saved)


def test_history_survives_saving(checkpoint, task, tmp_path):
    _, folder = checkpoint
    model = ExtractThenDistill(epochs=0, num_layers=1).compress(Model.from_pretrained(folder, task=task), task)
    model = PostTrainingQuantization().compress(model, None)
    model.save_pretrained(tmp_path / "small")
    loaded = Model.from_pretrained(tmp_path / "small")
    assert [step.method for step in loaded.history] == ["extract_then_distill", "post_training_quantization"]
    assert loaded.history[0].facts["origin"] == [2]
    assert loaded.labels == task.labels
    assert "int8" in repr(loaded)
    assert "<table>" in loaded._repr_html_()


def test_plain_bert_comes_out_again(checkpoint, letters_tokenizer, tmp_path):
    network, folder = checkpoint
    model = Model.from_pretrained(folder)
    model.to_bert().save_pretrained(tmp_path / "out")
    plain = BertForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    np.testing.assert_allclose(
        expected_logits(plain, letters_tokenizer), expected_logits(network, letters_tokenizer), atol=1e-5
    )


def test_what_bert_cannot_express_is_refused_with_the_reason(checkpoint):
    _, folder = checkpoint
    model = PostTrainingQuantization().compress(Model.from_pretrained(folder), None)
    with pytest.raises(ConversionError, match="quantized"):
        model.to_bert()


def test_damaged_history_is_noticed(checkpoint, tmp_path):
    _, folder = checkpoint
    Model.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "history.json").write_text('{"labels": [')
    with pytest.raises(CheckpointError, match=r"history\.json is damaged"):
        Model.from_pretrained(tmp_path / "saved")


def test_missing_tokenizer_is_named(checkpoint):
    _, folder = checkpoint
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer; put one of"):
        Model.from_pretrained(folder)


def test_words_that_are_masked_are_no_task(letters_tokenizer):
    spec = EncoderSpec(Embeddings(len(letters_tokenizer), 8), uniform_layers(1, 8, 2, 8), Head("masked_lm"))
    with pytest.raises(ConfigError, match=r"Model\.from_pretrained"):
        Model.from_spec(spec, letters_tokenizer).predict(Dataset.from_dict({"text": TEXTS}))


def test_random_models_leave_the_global_generator_alone(letters_tokenizer):
    spec = EncoderSpec(Embeddings(len(letters_tokenizer), 8), uniform_layers(1, 8, 2, 8), Head())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Model.from_spec(spec, letters_tokenizer, seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_what_was_tokenized_leaves_no_trace_in_a_saved_model(letters_tokenizer, tmp_path):
    spec = EncoderSpec(Embeddings(len(letters_tokenizer), 8), uniform_layers(1, 8, 2, 8), Head())
    model = Model.from_spec(spec, letters_tokenizer)
    for name, options in (("cut", {"truncation": True, "max_length": 5}), ("whole", {"padding": True})):
        model.tokenizer(TEXTS, **options)
        model.save_pretrained(tmp_path / name)
    for path in sorted((tmp_path / "cut").iterdir()):
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes(), path.name


def test_a_saved_model_stays_whole_where_the_disk_takes_no_more(letters_tokenizer, tmp_path, longest_file):
    spec = EncoderSpec(Embeddings(len(letters_tokenizer), 8), uniform_layers(1, 8, 2, 8), Head())
    place = tmp_path / "model"
    Model.from_spec(spec, letters_tokenizer).save_pretrained(place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with (
        longest_file(len(before["model.safetensors"]) - 1),
        pytest.raises(CheckpointError, match=r"model: the model cannot be written: .*before is unchanged"),
    ):
        Model.from_spec(spec, letters_tokenizer, seed=1).save_pretrained(place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    Model.from_spec(spec, letters_tokenizer, seed=1).save_pretrained(place)
    assert (place / "model.safetensors").read_bytes() != before["model.safetensors"]
    assert {path.name for path in place.iterdir()} == before.keys()


def test_a_quantized_encoder_gets_no_head_that_nothing_could_teach_it(letters_tokenizer):
    spec = EncoderSpec(Embeddings(len(letters_tokenizer), 8), uniform_layers(1, 8, 2, 16), Head("tagging", 3))
    model = PostTrainingQuantization(weight_bits=4).compress(Model.from_spec(spec, letters_tokenizer), None)
    task = Task("other", "classification", ("x", "y"), "", train=Dataset.from_dict({"text": ["ab"]}))
    with pytest.raises(ConfigError, match=r"for_task: the model is quantized \(4/8-bit\)"):
        model.for_task(task)


@pytest.mark.parametrize(
    "head", [Head("none"), Head("none", 0, "tanh"), Head("classification", 2, "tanh"), Head("masked_lm")]
)
@pytest.mark.parametrize("kind", ["classification", "tagging", "embedding"])
def test_another_task_gets_the_same_encoder_with_a_new_head(head, kind, letters_tokenizer):
    spec = EncoderSpec(Embeddings(len(letters_tokenizer), 8, max_positions=16), uniform_layers(2, 8, 2, 16), head)
    model = Model.from_spec(spec, letters_tokenizer, seed=1)
    columns = {"words": [["a", "b"]], "tags": [[0, 2]]} if kind == "tagging" else {"text": ["ab"]}
    labels = () if kind == "embedding" else ("x", "y", "z")
    task = Task("other", kind, labels, "", train=Dataset.from_dict(columns))
    first, again = (model.for_task(task, seed=3) for _ in range(2))
    encoder = {name.removeprefix("encoder."): each for name, each in model.network.state_dict().items()}
    new = {name.removeprefix("encoder."): each for name, each in first.network.state_dict().items()}
    kept = [name for name in encoder if name.startswith(("embeddings.", "layers."))]
    assert kept
    assert all(torch.equal(encoder[name], new[name]) for name in kept)
    if head.pooler != "none" and kind == "classification":
        assert torch.equal(encoder["pooler.weight"], new["pooler.weight"])
    assert first.labels == labels
    assert first.spec.head.num_labels == len(labels)
    assert all(torch.equal(each, again.network.state_dict()[name]) for name, each in first.network.state_dict().items())
    pointers = {each.data_ptr() for each in model.network.state_dict().values()}
    assert not pointers & {each.data_ptr() for each in first.network.state_dict().values()}
