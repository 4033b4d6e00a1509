"""The suite that every compressor must pass."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from bertcompress.compressors import (
    KDLSQ,
    METHODS,
    Context,
    Distill,
    ExtractThenDistill,
    FineTune,
    LayerMappingSearch,
    PostTrainingQuantization,
    QuantizationAwareTraining,
)
from bertcompress.errors import ConfigError
from bertcompress.pipeline import Pipeline

QUICK = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16, "max_length": 32, "precision": "fp32"}
SEARCH = {"population": 3, "generations": 2, "proxy_share": 0.3, "finalists": 2, "finalist_seeds": 1}
CASES = {
    "fine_tune": FineTune(**QUICK),
    "distill-all-terms": Distill(**QUICK, objective={"hard": 1, "soft": 1, "hidden": 1, "attention": 1}),
    "distill-pairs": Distill(**QUICK, objective="hidden", mapping=((1, 2), (4, 4))),
    "extract-only": ExtractThenDistill(epochs=0, num_layers=2, hidden_size=12, head_size=4, intermediate_size=20),
    "extract-depth": ExtractThenDistill(**QUICK, num_layers=2),
    "extract-width": ExtractThenDistill(**QUICK, hidden_size=10, num_heads=1, intermediate_size=8),
    "extract-random-weights": ExtractThenDistill(**QUICK, num_layers=2, hidden_size=10, initialization="random"),
    "extract-embeddings": ExtractThenDistill(**QUICK, num_layers=2, hidden_size=10, initialization="embeddings"),
    "mapping-search": LayerMappingSearch(**QUICK, **SEARCH, num_layers=2, objective={"hidden": 1, "soft": 1}),
    "quantization": PostTrainingQuantization(),
    "quantization-weights-float": PostTrainingQuantization(weight_bits=32, activation_bits=32),
    "quantization-4-bits": PostTrainingQuantization(weight_bits=4, embedding_bits=3),
    "quantization-ternary": PostTrainingQuantization(
        weight_bits=1.58, embedding_bits=2, activation_bits=32, weight_steps="tensor", tables=["word"]
    ),
    "quantization-stored-steps": PostTrainingQuantization(
        activation_steps="tensor", attention=True, calibration_examples=8, weight_steps="tensor"
    ),
    "aware": QuantizationAwareTraining(**QUICK),
    "aware-4-bits": QuantizationAwareTraining(
        **QUICK, weight_bits=4, embedding_bits=4, objective="soft", attention=True, weight_steps="row",
        activation_offset=True,
    ),
    "kdlsq": KDLSQ(**QUICK, weight_bits=4, embedding_bits=4),
    "kdlsq-as-released": KDLSQ(
        **QUICK, weight_bits=2, embedding_bits=2, embedding_steps="tensor", tables=["word", "position"],
        shared_inputs=False, ground_truth=True,
    ),
    "kdlsq-offset": KDLSQ(
        **QUICK, activation_offset=True, smoothing=0.85, attention=False, weight_steps="row", dropout=0.0
    ),
    "kdlsq-tokens": KDLSQ(**QUICK, weight_bits=1.58, weight_steps="row", activation_steps="token", own_teacher=True),
}  # fmt: skip
everyone = pytest.mark.parametrize("compressor", CASES.values(), ids=CASES.keys())


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def same_weights(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_no_compressor_is_left_out():
    assert {type(each) for each in CASES.values()} == set(METHODS.values())


@everyone
def test_plan_is_what_comes_out(compressor, model, task):
    planned = compressor.plan(model.spec, task)
    assert compressor.compress(model, task).spec == planned


@everyone
def test_network_has_the_planned_tensors(compressor, model, task):
    compressed = compressor.compress(model, task)
    found = {name: tuple(tensor.shape) for name, tensor in compressed.network.state_dict().items()}
    assert found == {tensor.name: tensor.shape for tensor in compressed.spec.tensors()}


@everyone
def test_input_and_teacher_are_untouched(compressor, model, task):
    teacher = model.copy()
    before, history = weights_of(model), model.history
    compressed = compressor.compress(model, task, teacher=teacher)
    assert same_weights(before, weights_of(model))
    assert same_weights(before, weights_of(teacher))
    assert model.history == history
    assert not model.network.training
    mine = {tensor.data_ptr() for tensor in model.network.state_dict().values()}
    assert not mine & {tensor.data_ptr() for tensor in compressed.network.state_dict().values()}


@everyone
def test_same_settings_give_the_same_weights(compressor, model, task):
    torch.manual_seed(1)
    first = compressor.compress(model, task)
    torch.manual_seed(2)
    assert same_weights(weights_of(first), weights_of(compressor.compress(model, task)))


@everyone
def test_the_caller_s_random_numbers_go_on_as_if_nothing_had_been(compressor, model, task):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    compressor.compress(model, task)
    assert torch.equal(before, torch.get_rng_state())


@everyone
def test_history_tells_what_was_done(compressor, model, task):
    step = compressor.compress(model, task).history[-1]
    assert step.method == compressor.method
    again = METHODS[step.method](**{name: value for name, value in step.settings.items()})
    assert again.plan(model.spec, task) == compressor.plan(model.spec, task)
    json.dumps([step.settings, step.curves, step.facts, step.measured])


LOAD = """
import json, sys
import numpy as np
import bertcompress as bc
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, texts = sys.argv[1], json.loads(sys.argv[2])
model = bc.Model.from_pretrained(folder)
ours = model.predict(Dataset.from_dict({"text": texts})).logits
network = AutoModelForSequenceClassification.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
batch = tokenizer(texts, return_tensors="pt", padding=True)
same = model.network(**batch).logits.equal(network(**batch).logits)
answers = pipeline("text-classification", model=network, tokenizer=tokenizer)(texts)
print(json.dumps([ours.tolist(), bool(same), [a["label"] for a in answers]]))
"""


@everyone
def test_fresh_process_loads_the_same_logits(compressor, model, task, tmp_path):
    compressed = compressor.compress(model, task)
    compressed.save_pretrained(tmp_path)
    texts = list(task.test["text"])
    command = [sys.executable, "-c", LOAD, str(tmp_path), json.dumps(texts)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    logits, same, labels = json.loads(printed.splitlines()[-1])
    expected = compressed.predict(task.test).logits
    np.testing.assert_array_equal(np.array(logits, np.float32), expected)
    assert same
    assert labels == [task.labels[place] for place in expected.argmax(-1)]


@everyone
def test_file_is_as_small_as_planned(compressor, model, task, tmp_path):
    compressed = compressor.compress(model, task)
    compressed.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    header = 200 * len(compressed.spec.tensors())  # names, shapes and offsets as JSON
    assert compressed.size_in_bytes() <= file.stat().st_size <= compressed.size_in_bytes() + header
    assert not [path.name for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


@everyone
def test_checkpoints_change_nothing(compressor, model, task, tmp_path):
    plain = compressor.compress(model, task)
    kept = compressor.compress(model, task, context=Context(tmp_path / "checkpoint"))
    assert same_weights(weights_of(plain), weights_of(kept))


@everyone
def test_quantization_comes_last(compressor, model, task):
    with pytest.raises(ConfigError, match=r"compress\[1\] .*quantized"):
        Pipeline([PostTrainingQuantization(), compressor]).plan(model.spec, task)


def test_int8_file_is_a_quarter(model, task, tmp_path):
    compressed = PostTrainingQuantization().compress(model, task)
    float_tables = sum(tensor.size_in_bytes for tensor in model.spec.tensors() if len(tensor.shape) == 2)
    int8_tables = sum(tensor.size_in_bytes for tensor in compressed.spec.tensors() if tensor.dtype == "I8")
    classifier = 2 * 16 * 4
    assert int8_tables == (float_tables - classifier) / 4
    assert {tensor.dtype for tensor in compressed.network.state_dict().values()} == {torch.int8, torch.float32}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("compressor", [PostTrainingQuantization(), QuantizationAwareTraining(**QUICK), KDLSQ(**QUICK)])
def test_a_broken_model_is_not_rounded_to_a_whole_one(compressor, value, model, task):
    model.network.state_dict()["encoder.layers.1.operations.1.intermediate.weight"][3, 2] = value
    with pytest.raises(ConfigError, match=r"intermediate\.weight of the model has numbers that"):
        compressor.compress(model, task)


def test_fine_tuning_for_no_epochs_takes_a_quantized_model_as_it_is(model, task):
    small = PostTrainingQuantization().compress(model, None)
    again = FineTune(epochs=0).compress(small, task)
    assert same_weights(weights_of(small), weights_of(again))
    with pytest.raises(ConfigError, match=r"fine_tune: the model is quantized \(int8\)"):
        FineTune(**QUICK).compress(small, task)
    tables = PostTrainingQuantization(weight_bits=32, activation_bits=32, embedding_bits=4).compress(model, None)
    with pytest.raises(ConfigError, match=r"is quantized \(4-bit\)"):
        FineTune(**QUICK).compress(tables, task)


def test_quantization_needs_no_task(model):
    assert PostTrainingQuantization().compress(model, None).spec.quantization is not None
