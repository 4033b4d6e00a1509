from __future__ import annotations

import pytest
import torch

from bertcompress.compressors import Context, Distill, ExtractThenDistill, FineTune, PostTrainingQuantization
from bertcompress.data.tasks import load_task
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.errors import ConfigError
from bertcompress.model import Model
from bertcompress.pipeline import Pipeline

from .toy_run import COUNTS, TRAINING, write_task

SPEC = EncoderSpec(Embeddings(99, 16, max_positions=32), uniform_layers(4, 16, 2, 32), Head("classification", 2))
SMALLER = ExtractThenDistill(num_layers=2, objective={"soft": 1.0, "hidden": 1.0}, **TRAINING)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    write_task(folder)
    files = {name: f"{name}.csv" for name in COUNTS}
    columns = {"text": "text", "label": "label", "labels": ["later", "earlier"]}
    return load_task({"kind": "classification", **files, **columns}, relative_to=folder)


def make_model(letters_tokenizer, task, seed=7):
    spec = SPEC.replace(embeddings=Embeddings(len(letters_tokenizer), 16, max_positions=32))
    return Model.from_spec(spec, letters_tokenizer, task, seed=seed)


@pytest.fixture
def model(letters_tokenizer, task):
    return make_model(letters_tokenizer, task)


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_plan_follows_the_chain():
    chain = Pipeline([ExtractThenDistill(num_layers=3), ExtractThenDistill(num_layers=2), PostTrainingQuantization()])
    planned = chain.plan(SPEC)
    assert [name for name, _ in planned] == [name for name, _ in chain.named_steps]
    assert [name for name, _ in planned] == [
        "1-extract_then_distill",
        "2-extract_then_distill",
        "3-post_training_quantization",
    ]
    assert [spec.num_layers for _, spec in planned] == [3, 2, 2]
    assert [spec.quantization is not None for _, spec in planned] == [False, False, True]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [ExtractThenDistill(num_layers=2), ExtractThenDistill(num_layers=3)],
            r"^compress\[1\] extract_then_distill: .*3",
        ),
        ([PostTrainingQuantization(), Distill()], r"^compress\[1\] distill: the model is quantized"),
        ([Distill(), PostTrainingQuantization(), PostTrainingQuantization()], r"^compress\[2\] post_training_quant"),
        ([ExtractThenDistill(num_layers=2), Distill(mapping=(1, 5), objective="hidden")], r"^compress\[1\] distill: "),
    ],
)
def test_what_cannot_work_is_refused_and_the_step_named(steps, message):
    with pytest.raises(ConfigError, match=message):
        Pipeline(steps).plan(SPEC)


def test_nothing_is_trained_before_the_whole_chain_is_planned(model, task, monkeypatch):
    monkeypatch.setattr(FineTune, "compress", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(ConfigError, match=r"^compress\[1\]"):
        Pipeline([FineTune(), ExtractThenDistill(num_layers=9)]).compress(model, task)


def test_layers_are_mapped_to_the_teacher_that_came_in_not_to_the_step_before():
    four_layers = Distill(mapping=(2, 4), objective="hidden")
    chain = Pipeline([ExtractThenDistill(num_layers=2), four_layers])
    assert chain.plan(SPEC)[-1][1].num_layers == 2
    with pytest.raises(ConfigError, match=r"^compress\[1\] distill"):
        chain.plan(SPEC, teacher=SPEC.replace(layers=SPEC.layers[:3]))


@pytest.mark.parametrize("wrong", [Distill, "distill", None, Pipeline([Distill()])])
def test_only_compressors_are_steps(wrong):
    with pytest.raises(ConfigError, match="step 2 is"):
        Pipeline([Distill(), wrong])


def test_a_chain_is_its_steps_by_hand_and_all_learn_from_the_model_that_came_in(model, task):
    second = Distill(objective={"soft": 1.0, "hidden": 1.0}, **TRAINING)
    quantize = PostTrainingQuantization()
    chained = Pipeline([SMALLER, second, quantize]).compress(model, task)
    small = SMALLER.compress(model, task, teacher=model)
    by_hand = quantize.compress(second.compress(small, task, teacher=model), task, teacher=model)
    assert same(weights_of(chained), weights_of(by_hand))
    assert [step.method for step in chained.history] == ["extract_then_distill", "distill", quantize.method]
    otherwise = quantize.compress(second.compress(small, task, teacher=small), task)
    assert not same(weights_of(chained), weights_of(otherwise))


def test_another_teacher_can_be_given(letters_tokenizer, model, task):
    other = make_model(letters_tokenizer, task, seed=8)
    chained = Pipeline([SMALLER]).compress(model, task, teacher=other)
    assert same(weights_of(chained), weights_of(SMALLER.compress(model, task, teacher=other)))
    assert not same(weights_of(chained), weights_of(Pipeline([SMALLER]).compress(model, task)))


def test_what_came_in_is_untouched(letters_tokenizer, model, task):
    teacher = make_model(letters_tokenizer, task, seed=8)
    before = weights_of(model), weights_of(teacher), model.history, model.network.training
    chained = Pipeline([SMALLER, PostTrainingQuantization()]).compress(model, task, teacher=teacher)
    assert same(before[0], weights_of(model))
    assert same(before[1], weights_of(teacher))
    assert before[2:] == (model.history, model.network.training)
    theirs = {tensor.data_ptr() for each in (model, teacher) for tensor in each.network.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in chained.network.state_dict().values()}


def test_every_step_keeps_its_checkpoints_apart(model, task, tmp_path, monkeypatch):
    from bertcompress.training import checkpoint

    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    chain = Pipeline([SMALLER, Distill(**TRAINING)])
    kept = chain.compress(model, task, context=Context(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-extract_then_distill", "2-distill"]
    assert same(weights_of(kept), weights_of(chain.compress(model, task)))
