"""Networks on disk and through transformers' doors: the same numbers in a fresh process, damage refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from bertcompress.encoder.convert import load_chain
from bertcompress.encoder.network import ChainForSequenceClassification, ChainModel, build, chain_config
from bertcompress.encoder.quantized import LEVELS, QuantizedLinear
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
from bertcompress.errors import CheckpointError, ConfigError

LAYERS = (
    Layer((Attention(2, 4), FeedForward(21)), 8),
    Layer((SeparableConvolution(3), Attention(3, 5), FeedForward(7)), 10),
)
QUANTIZATIONS = {
    "float": None,
    "int8": Quantization(),
    "tables": Quantization(32, 8, 32),
    **{f"{bits}-bit-rows": Quantization(bits, bits, 8) for bits in (1.58, 2, 3, 4, 5, 6, 7)},
    **{f"{bits}-bit-tensors": Quantization(bits, bits, 32, "tensor", "tensor", ("word",)) for bits in (1.58, 2, 5, 8)},
    "stored-steps": Quantization(4, 8, 8, "tensor", activation_steps="tensor", attention_bits=8),
    "three-inputs": Quantization(8, 2, 8, "row", activation_steps="tensor", shared_inputs=False, attention_bits=6),
}
HEADS = {
    "none": Head(pooler="tanh"),
    "classification": Head("classification", 3, "tanh"),
    "regression": Head("regression", 1, "relu"),
    "question_answering": Head("question_answering", 2),
    "tagging": Head("tagging", 4),
    "masked_lm": Head("masked_lm"),
}


def make_network(head="classification", quantization=None, labels=()):
    spec = EncoderSpec(Embeddings(33, 6, 16), LAYERS, HEADS[head], quantization=quantization)
    torch.manual_seed(0)
    network = build(spec, labels)
    for name, tensor in network.state_dict().items():
        if tensor.dtype == torch.int8:
            tensor.random_(-LEVELS, LEVELS + 1)
        elif tensor.dtype == torch.uint8:
            tensor.random_(1, 243)
        else:
            tensor.uniform_(1e-3, 1e-2) if name.endswith(".step") else tensor.normal_(0, 0.5)
    return network


def make_inputs():
    ids = torch.randint(1, 33, (3, 11), generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(11) < torch.tensor([11, 6, 2])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (torch.arange(11) > 3).long() * mask}


def said_by(network, inputs):
    with torch.no_grad():
        return {name: value.contiguous() for name, value in network(**inputs).items()}


FRESH = """
    import sys
    import bertcompress
    assert "torch" not in sys.modules and "transformers" not in sys.modules
    import torch
    from pathlib import Path
    from safetensors.torch import load_file, save_file
    import transformers
    from bertcompress.encoder.convert import load_chain
    CLASSES = {"none": "Model", "classification": "ModelForSequenceClassification",
               "regression": "ModelForSequenceClassification", "question_answering": "ModelForQuestionAnswering",
               "tagging": "ModelForTokenClassification", "masked_lm": "ModelForMaskedLM"}
    root = Path(sys.argv[1])
    inputs = load_file(root / "inputs.safetensors")
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        auto = getattr(transformers, "Auto" + CLASSES[folder.name.split("-")[0]])
        for way, network in (("auto", auto.from_pretrained(folder)), ("bc", load_chain(folder))):
            with torch.no_grad():
                said = network.eval()(**inputs)
            save_file({name: value.contiguous() for name, value in said.items()}, folder / f"said-{way}")
"""


def test_saved_models_say_the_same_in_a_fresh_process(tmp_path):
    """Equal to the last bit, through transformers' Auto classes after `import bertcompress` alone, and through ours."""
    inputs = make_inputs()
    save_file(inputs, tmp_path / "inputs.safetensors")
    expected = {}
    for head in HEADS:
        for kind, quantization in QUANTIZATIONS.items():
            network = make_network(head, quantization)
            network.save_pretrained(tmp_path / f"{head}-{kind}")
            expected[f"{head}-{kind}"] = said_by(network, inputs)
    command = [sys.executable, "-c", textwrap.dedent(FRESH), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for folder, outputs in expected.items():
        for way in ("auto", "bc"):
            said = load_file(tmp_path / folder / f"said-{way}")
            assert said.keys() == outputs.keys()
            assert all(torch.equal(said[name], outputs[name]) for name in said), (folder, way)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("quantization", ["float", "int8", "stored-steps", "2-bit-rows"])
def test_the_encoder_of_a_task_is_loaded_alone_with_its_weights(head, quantization, tmp_path):
    network = make_network(head, QUANTIZATIONS[quantization])
    network.save_pretrained(tmp_path)
    inputs = {"input_ids": torch.randint(0, 33, (3, 9), generator=torch.Generator().manual_seed(1))}
    with torch.no_grad():
        expected = getattr(network, "encoder", network)(**inputs).last_hidden_state
        for load in (AutoModel.from_pretrained, ChainModel.from_pretrained):
            assert torch.equal(load(tmp_path)(**inputs).last_hidden_state, expected)


def test_what_a_checkpoint_lacks_begins_with_numbers():
    """Transformers allocates it without setting it, and calls this."""
    module = QuantizedLinear(6, 4, 3, input_steps=1, input_offset=True, input_factors=True)
    with torch.no_grad():
        for buffer in module.buffers():
            buffer.fill_(7)
    module.reset_parameters()
    found = {name: set(buffer.flatten().tolist()) for name, buffer in module.named_buffers()}
    ones = {name: {1.0} for name in ("step", "input_step", "input_factor")}
    assert found == {"packed": {0}, "bias": {0.0}, "input_offset": {0.0}, **ones}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_quantized_network_in_another_type_is_refused(dtype, tmp_path):
    make_network(quantization=QUANTIZATIONS["int8"]).save_pretrained(tmp_path)
    for load in (ChainForSequenceClassification.from_pretrained, AutoModelForSequenceClassification.from_pretrained):
        with pytest.raises(ConfigError, match=rf"is quantized, .* got {dtype}, load it with dtype=torch.float32"):
            load(tmp_path, dtype=dtype)
        assert load(tmp_path, dtype="auto").dtype == torch.float32


@pytest.fixture
def saved(tmp_path):
    make_network().save_pretrained(tmp_path)
    return tmp_path


def load_both_ways(folder):
    """Our class and transformers' Auto class must refuse alike."""
    for load in (ChainForSequenceClassification.from_pretrained, AutoModelForSequenceClassification.from_pretrained):
        with pytest.raises(CheckpointError) as refused:
            load(folder)
    return str(refused.value)


def test_a_flipped_byte_anywhere_is_refused(saved):
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    chosen = random.Random(0)
    offsets = [0, 7, 8, 7 + header, 8 + header, len(whole) - 1]
    offsets += [chosen.randrange(8, 8 + header) for _ in range(3)]
    offsets += [chosen.randrange(8 + header, len(whole)) for _ in range(5)]
    for offset in offsets:
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << chosen.randrange(8)
        weights.write_bytes(damaged)
        assert "model.safetensors is damaged or truncated" in load_both_ways(saved), offset
    weights.write_bytes(whole)
    ChainForSequenceClassification.from_pretrained(saved)


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(saved, left):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    assert "damaged or truncated" in load_both_ways(saved)


def test_a_missing_file_and_a_damaged_configuration_are_refused(saved):
    (saved / "model.safetensors").rename(saved / "elsewhere")
    assert "model.safetensors is missing" in load_both_ways(saved)
    (saved / "config.json").write_text('{"model_type": "bertcompress", ')
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        ChainForSequenceClassification.from_pretrained(saved)


@pytest.mark.parametrize(
    ("field", "value"),
    [("activation_bits", 4), ("attention_bits", 4), ("weight_bits", 4), ("tables", ["word"]), ("shared_inputs", False)],
)
def test_an_edited_description_is_refused(field, value, tmp_path):
    """Some fields change what is computed and no tensor's shape."""
    make_network(quantization=Quantization(activation_steps="tensor", attention_bits=8)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    assert values["encoder_spec"]["quantization"][field] != value
    values["encoder_spec"]["quantization"][field] = value
    path.write_text(json.dumps(values))
    assert "its encoder_spec does not give the checksum encoder_sha256" in load_both_ways(tmp_path)
    with pytest.raises(CheckpointError, match="damaged or was edited"):
        load_chain(tmp_path)


@pytest.mark.parametrize(
    ("version", "message"), [(2, "install a newer bertcompress"), (0, "allowed are 1"), ("1", "allowed are 1")]
)
def test_a_format_that_is_not_known_is_refused(saved, version, message):
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": version}))
    assert message in load_both_ways(saved)
    with pytest.raises(CheckpointError):
        AutoConfig.from_pretrained(saved)


def test_labels_and_spec_survive(tmp_path):
    network = make_network(labels=("bad", "so so", "good"))
    network.save_pretrained(tmp_path)
    again = ChainForSequenceClassification.from_pretrained(tmp_path)
    assert again.spec == network.spec
    assert again.config.id2label == {0: "bad", 1: "so so", 2: "good"}
    assert again.config.label2id == {"bad": 0, "so so": 1, "good": 2}
    assert (again.config.hidden_size, again.config.num_hidden_layers, again.config.vocab_size) == (10, 2, 33)


def test_a_loaded_model_does_not_change_with_its_file(saved):
    network = ChainForSequenceClassification.from_pretrained(saved)
    inputs = make_inputs()
    before = said_by(network, inputs)["logits"]
    with (saved / "model.safetensors").open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff" * 2000)
    assert torch.equal(before, said_by(network, inputs)["logits"])


def test_hidden_states_attentions_and_scores_have_the_stated_shapes():
    network, inputs = make_network("tagging"), make_inputs()
    with torch.no_grad():
        plain = network(**inputs)
        full = network(**inputs, output_hidden_states=True, output_attentions=True, output_attention_scores=True)
    assert plain.hidden_states is plain.attentions is plain.attention_scores is None
    assert [tuple(each.shape) for each in full.hidden_states] == [(3, 11, 6), (3, 11, 8), (3, 11, 10)]
    assert [tuple(each.shape) for each in full.attentions] == [(3, 2, 11, 11), (3, 3, 11, 11)]
    assert (plain.logits - full.logits)[inputs["attention_mask"].bool()].abs().max() <= 1e-5
    masked = inputs["attention_mask"][:, None, None, :] == 0
    for scores, attention in zip(full.attention_scores, full.attentions, strict=True):
        expected = scores.masked_fill(masked, float("-inf")).softmax(-1)
        assert torch.allclose(attention, expected, atol=1e-6)
        assert bool((scores[masked.expand_as(scores)] != 0).any())  # scores are from before the mask


def test_losses_are_those_of_transformers_users():
    inputs = make_inputs()
    logits = make_network()(**inputs, labels=torch.tensor([0, 2, 1]))
    assert torch.equal(logits.loss, torch.nn.functional.cross_entropy(logits.logits, torch.tensor([0, 2, 1])))
    values = torch.tensor([0.5, -1.0, 2.0])
    regression = make_network("regression")(**inputs, labels=values)
    assert torch.allclose(regression.loss, ((regression.logits[:, 0] - values) ** 2).mean())
    tags = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"] % 4, -100)
    tagging = make_network("tagging")(**inputs, labels=tags)
    seen = tags != -100
    assert torch.allclose(tagging.loss, torch.nn.functional.cross_entropy(tagging.logits[seen], tags[seen]))
    starts, ends = torch.tensor([1, 4, 0]), torch.tensor([2, 99, 1])  # 99: the answer was cut off
    spans = make_network("question_answering")(**inputs, start_positions=starts, end_positions=ends)
    start = torch.nn.functional.cross_entropy(spans.start_logits, starts)
    end = torch.nn.functional.cross_entropy(spans.end_logits[[0, 2]], ends[[0, 2]])
    assert torch.allclose(spans.loss, (start + end) / 2)


def test_wrong_inputs_are_refused_with_the_fix():
    network = make_network()
    with pytest.raises(ConfigError, match=r"17 tokens, allowed are 16.*max_length=16"):
        network(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(ConfigError, match="exactly one of input_ids and inputs_embeds"):
        network()
    with pytest.raises(ConfigError, match="encoder_spec: got none"):
        ChainModel(type(network.config)())


def test_embedded_inputs_positions_and_tuples_work_as_in_transformers():
    network, inputs = make_network(), make_inputs()
    with torch.no_grad():
        logits = network(**inputs).logits
        embedded = network.get_input_embeddings()(inputs["input_ids"])
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        assert torch.equal(network(**rest, inputs_embeds=embedded).logits, logits)
        positions = torch.arange(11).expand(3, 11)
        assert torch.equal(network(**inputs, position_ids=positions).logits, logits)
        assert not torch.equal(network(**inputs, position_ids=positions.flip(1)).logits, logits)
        assert torch.equal(network(**inputs, return_dict=False)[0], logits)


def test_the_masked_lm_decoder_is_the_embedding_table():
    spec = EncoderSpec(Embeddings(33, 6, 16), uniform_layers(1, 6, 2, 5), Head("masked_lm"))
    network = build(spec)
    network(torch.arange(4)[None]).logits.sum().backward()
    used = network.encoder.embeddings.word.weight.grad
    assert bool((used.abs().sum(1) > 0).all())  # every row is an output, not only the four that were read


def test_building_twice_from_one_seed_gives_one_network():
    spec = EncoderSpec(Embeddings(33, 6, 16), LAYERS, HEADS["tagging"])
    torch.manual_seed(1)
    first = build(spec)
    torch.manual_seed(1)
    second = build(spec)
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.training
    std = float(first.encoder.embeddings.word.weight.detach().std())
    assert 0.015 < std < 0.025
    assert first.config.to_dict() == chain_config(spec).to_dict() | {"architectures": first.config.architectures}
