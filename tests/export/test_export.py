"""Exported files: the model's own answers in another runtime, products in integers, damage refused."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

import bertcompress as bc
from bertcompress.cli import app
from bertcompress.config import checks
from bertcompress.encoder.bits import CodeRange, code_range
from bertcompress.encoder.lsq import to_codes
from bertcompress.encoder.network import build
from bertcompress.encoder.packing import pack
from bertcompress.encoder.quantized import AttentionSites, QuantizedLinear
from bertcompress.encoder.spec import (
    ACTIVATIONS,
    Attention,
    Embeddings,
    EncoderSpec,
    FeedForward,
    Head,
    Layer,
    SeparableConvolution,
)
from bertcompress.encoder.tensors import Quantization
from bertcompress.errors import CheckpointError, ConfigError
from bertcompress.export import onnx as onnx_graph
from bertcompress.export import openvino as openvino_graph
from bertcompress.export import runtime, seal, sessions, writing
from bertcompress.export.graph import INPUTS, Codes, Inputs
from bertcompress.export.writing import rounded_maps
from bertcompress.model import Model
from bertcompress.training.precision import native_bf16

LAYERS = (
    Layer((Attention(2, 4), FeedForward(21)), 8),
    Layer((SeparableConvolution(3), Attention(3, 5), FeedForward(7)), 10),
)
HEADS = {
    "none": Head(pooler="tanh"),
    "classification": Head("classification", 3, "tanh"),
    "regression": Head("regression", 1, "gelu"),
    "question_answering": Head("question_answering", 2),
    "tagging": Head("tagging", 4),
}
STORED = {"activation_steps": "tensor"}
QUANTIZATIONS = {
    "float": None,
    "int8": Quantization(**STORED),
    "2-4-8": Quantization(2, 4, 8, **STORED, attention_bits=8),
    "ternary-tensor": Quantization(1.58, 8, 8, "tensor", "tensor", ("word",), **STORED, attention_bits=8),
    "three-inputs": Quantization(4, 8, 8, **STORED, shared_inputs=False),
    "6-bit-activations": Quantization(8, 8, 6, **STORED, attention_bits=5),
    "offset": Quantization(**STORED, activation_offset=True),
    "offset-6": Quantization(4, 8, 6, **STORED, activation_offset=True),
    "smooth": Quantization(**STORED, activation_offset=True, smoothing=0.5),
    "weights-only": Quantization(3, 4, 32),
    "tables-only": Quantization(32, 8, 32),
}
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
SIGNS = np.random.default_rng(0).choice([-1.0, 1.0], 10_000)


@pytest.fixture(autouse=True)
def _packages():
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)


def make_model(tokenizer, head="classification", quantization=None, activation="gelu", dropout=0.1):
    """Return a model with random weights, and steps that a random network's values fit."""
    spec = EncoderSpec(
        Embeddings(len(tokenizer), 6, 32),
        LAYERS,
        HEADS[head],
        activation,
        quantization=quantization,
        hidden_dropout=dropout,
    )
    network = build(spec, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.dtype in (torch.int8, torch.uint8):
            tensor.random_(-100 if tensor.dtype == torch.int8 else 1, 101, generator=generator)
        elif not name.endswith("step"):
            tensor.normal_(0, 0.4, generator=generator)
    for part in network.modules():
        if isinstance(part, AttentionSites):
            part.step.copy_(torch.tensor([0.0311, 0.0287, 0.0293, 1.03 / 255]))  # no value is a tie
        elif hasattr(part, "whole"):
            part.step.uniform_(0.5, 1.5, generator=generator).mul_(0.5 / part.whole().float().std())
        if isinstance(part, QuantizedLinear) and part.input_steps:
            part.input_step.copy_(torch.linspace(0.0219, 0.0303, part.input_steps))
            if part.has_factors:
                part.input_factor.copy_(torch.linspace(0.2117, 1.0, part.in_features))
            if part.has_offset:
                part.input_offset.fill_(-0.1613)
    labels = {"classification": ("sad", "calm", "glad"), "tagging": ("O", "A", "B", "C")}.get(head, ())
    return Model(network.eval(), tokenizer, labels=labels)


def batch_of(tokenizer, lengths=(11, 6, 2, 9)):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1, len(tokenizer), (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return dict(zip(INPUTS, (ids * mask, mask, (torch.arange(max(lengths)) > 3).long() * mask), strict=True))


def said(model, batch):
    with torch.no_grad():
        output = model.network(**batch)
    found = output.get("logits", output.get("last_hidden_state"))
    if found is None:
        found = torch.stack((output.start_logits, output.end_logits), -1)
    return found[batch["attention_mask"].bool()] if found.ndim == 3 else found


def assert_alike(found, expected, quantized):
    """Assert equality up to rounding, and where values are rounded to codes, up to a few that were nearly ties.

    Runtimes add up in another order, so a value that is a tie but for the last bits of a float may go to the next code,
    which moves its own token most, and others that attend to it.
    """
    difference = (found - expected).abs().amax(-1)
    if not quantized:
        assert difference.max() < 1e-4
        return
    assert (difference < 1e-4).float().mean() >= 0.9
    assert difference.max() < 0.05


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize(
    ("head", "quantized"),
    [*itertools.product(HEADS, ("float", "2-4-8")), *(("tagging", each) for each in QUANTIZATIONS)],
)
def test_an_exported_model_says_what_the_model_says(head, quantized, to, letters_tokenizer, tmp_path):
    model = make_model(letters_tokenizer, head, QUANTIZATIONS[quantized])
    export = model.export(tmp_path / f"m{SUFFIXES[to]}")
    loaded = bc.runtime.load(export.path)
    assert export.to == to
    assert export.integer_products == rounded_maps(model)
    assert loaded.labels == model.labels
    for lengths in ((11, 6, 2, 9), (1,), (32, 32)):
        batch = batch_of(letters_tokenizer, lengths)
        expected = said(model, batch)
        assert head == "regression" or expected.std() > 0.05
        assert_alike(said(loaded, batch), expected, quantized not in ("float", "weights-only", "tables-only"))


ENDS = {  # chain -> layers, and how many of its maps are of the first token alone where a head reads that
    "attention": ((Layer((FeedForward(7), Attention(2, 4)), 8),), 2),  # queries, and the attention's output
    "convolution": ((*LAYERS[:1], Layer((SeparableConvolution(3), FeedForward(7)), 10)), 2),
    "maps": ((Layer((Attention(2, 4),), 8), Layer((FeedForward(7),), 10), Layer((FeedForward(5),), 6)), 8),
    "nothing mixed": ((Layer((FeedForward(7),), 8),), 3),  # and the map to width 8
}


def products_by_rank(path):
    """Return how many products of an ONNX file have weights and give (batch, length, size), and (batch, size)."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).graph
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.value_info}
    weights = {each.name for each in graph.initializer}
    found = [ranks[node.output[0]] for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    return found.count(3), found.count(2)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("head", ["classification", "regression", "tagging"])
def test_what_the_head_does_not_read_is_not_computed(head, end, letters_tokenizer, tmp_path, monkeypatch):
    layers, alone = ENDS[end]
    monkeypatch.setitem(globals(), "LAYERS", layers)
    model = make_model(letters_tokenizer, head)
    maps = [name for name, part in model.network.named_modules() if isinstance(part, nn.Linear)]
    model.export(tmp_path / "m.onnx")
    of_all, of_first = products_by_rank(tmp_path / "m.onnx")
    if head == "tagging":
        assert (of_all, of_first) == (len(maps), 0)
        return
    assert of_first == alone + 2  # pooler and classifier
    assert of_all + of_first == len(maps) + (end in ("attention", "maps"))  # queries apart from keys and values


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize("quantized", ["float", "int8", "2-4-8", "three-inputs", "smooth"])
@pytest.mark.parametrize("end", ENDS)
def test_the_first_token_says_the_same_however_a_chain_ends(
    end, quantized, to, letters_tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setitem(globals(), "LAYERS", ENDS[end][0])
    model = make_model(letters_tokenizer, "classification", QUANTIZATIONS[quantized])
    export = model.export(tmp_path / f"m{SUFFIXES[to]}")
    assert export.integer_products == rounded_maps(model)
    batch = batch_of(letters_tokenizer, (11, 6, 2, 9) * 8)
    expected = said(model, batch)
    assert expected.std() > 0.05
    assert_alike(said(bc.runtime.load(export.path), batch), expected, quantized != "float")


@pytest.mark.parametrize("to", SUFFIXES)
def test_the_same_model_is_the_same_file(to, letters_tokenizer, tmp_path):
    model = make_model(letters_tokenizer, "classification", QUANTIZATIONS["2-4-8"])
    for name in ("one", "two"):
        model.export(tmp_path / f"{name}{SUFFIXES[to]}")
    for suffix in (".onnx",) if to == "onnx" else (".xml", ".bin"):
        one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two


@pytest.mark.parametrize("codes", [CodeRange(-127, 127), CodeRange(0, 255), CodeRange(-7, 7)])
def test_openvino_rounds_to_the_same_codes(codes):
    """Also beside ties, four floats off; FakeQuantize alone, which adds 127 first, cannot tell the sides there."""
    import openvino

    step = np.float32(0.0237 if codes.low else 0.93 / 255)
    ties = (np.arange(codes.low - 2, codes.high + 2) + 0.5).astype(np.float32) * step
    values = np.stack([ties + side * 4 * np.spacing(np.abs(ties)) for side in (-1, 1)])
    size = values.shape[1]
    graph = openvino_graph.OpenvinoGraph()
    given = graph.ops.parameter([-1, size], np.float32)
    unit = Codes(np.eye(size, dtype=np.int8), np.ones(size, np.float32))
    product = graph.quantized_linear(given, unit, np.zeros(size, np.float32), Inputs(codes, float(step)))
    compiled = openvino.compile_model(openvino.Model([product], [given]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = np.rint(compiled(values)[0] / step)
    np.testing.assert_array_equal(found, to_codes(torch.tensor(values), torch.tensor(step), codes))


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize("operation", [Attention(2, 4), FeedForward(21), SeparableConvolution(3)])
def test_a_single_operation_is_the_same_at_every_token_but_for_ties(
    operation, to, letters_tokenizer, tmp_path, monkeypatch
):
    """What is no tie is equal to float32's accuracy: of 2,048 tokens, 1 in 50 may differ."""
    monkeypatch.setitem(globals(), "LAYERS", (Layer((operation,), 6),))
    model = make_model(letters_tokenizer, "tagging", QUANTIZATIONS["int8"])
    model.export(tmp_path / f"m{SUFFIXES[to]}")
    batch = batch_of(letters_tokenizer, (32,) * 64)
    difference = (said(bc.runtime.load(tmp_path / f"m{SUFFIXES[to]}"), batch) - said(model, batch)).abs().amax(-1)
    assert (difference < 1e-5).float().mean() > 0.98
    assert difference.median() < 2e-6


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("to", SUFFIXES)
def test_every_activation_is_exported(activation, to, letters_tokenizer, tmp_path):
    model = make_model(letters_tokenizer, "tagging", activation=activation)
    model.export(tmp_path / f"m{SUFFIXES[to]}")
    batch = batch_of(letters_tokenizer)
    torch.testing.assert_close(said(bc.runtime.load(tmp_path), batch), said(model, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_a_step_for_each_token_is_exported_to_onnx_and_refused_for_openvino(bits, letters_tokenizer, tmp_path):
    model = make_model(letters_tokenizer, "tagging", Quantization(activation_bits=bits))
    export = model.export(tmp_path / "m.onnx")
    assert export.integer_products == rounded_maps(model) > 0
    batch = batch_of(letters_tokenizer)
    torch.testing.assert_close(said(bc.runtime.load(export.path), batch), said(model, batch), rtol=1e-4, atol=2e-4)
    with pytest.raises(ConfigError, match=r"activation_steps='token'.*activation_steps='tensor'"):
        model.export(tmp_path / "m.xml")


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize("quantized", ["float", "2-4-8"])
def test_an_example_does_not_depend_on_its_batch(quantized, to, letters_tokenizer, tmp_path):
    """Also where scores are large, so that a pad that is only unlikely, and not impossible, would be seen."""
    model = make_model(letters_tokenizer, "classification", QUANTIZATIONS[quantized])
    for name, tensor in model.network.state_dict().items():
        if "qkv" in name and name.endswith((".step", ".weight")):
            tensor.mul_(12.0)
    model.export(tmp_path / f"m{SUFFIXES[to]}")
    loaded = bc.runtime.load(tmp_path)
    batch = batch_of(letters_tokenizer)
    together = said(loaded, batch)
    for row, length in enumerate((11, 6, 2, 9)):
        alone = said(loaded, {name: tensor[row : row + 1, :length] for name, tensor in batch.items()})
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        output = model.network(**batch, output_attention_scores=True)
    scores = [each.masked_select(batch["attention_mask"][:, None, None].bool()) for each in output.attention_scores]
    assert min(float(each.min()) for each in scores) < -10  # lower than what e^-10 could hide


@pytest.mark.parametrize("to", SUFFIXES)
def test_a_fresh_process_answers_the_same(to, letters_tokenizer, tmp_path):
    model = make_model(letters_tokenizer, "classification", QUANTIZATIONS["2-4-8"])
    path = tmp_path / f"m{SUFFIXES[to]}"
    model.export(path)
    texts = ["a b c", "d", "e f g h i j"]
    here = bc.runtime.load(path).predict(Dataset.from_dict({"text": texts})).logits
    script = """
        import json, sys
        from datasets import Dataset
        import bertcompress as bc
        model = bc.Model.from_pretrained(sys.argv[1])
        print(json.dumps(model.predict(Dataset.from_dict({"text": json.loads(sys.argv[2])})).logits.tolist()))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path), json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), here, atol=1e-6)
    np.testing.assert_allclose(here, model.predict(Dataset.from_dict({"text": texts})).logits, atol=2e-4)


def test_an_exported_model_is_evaluated_as_itself(letters_tokenizer, tmp_path):
    model = make_model(letters_tokenizer, "classification", QUANTIZATIONS["int8"])
    data = Dataset.from_dict({"text": ["a b", "c", "d e f", "g"] * 5, "label": [0, 1, 2, 0] * 5})
    task = bc.Task("moods", "classification", ("sad", "calm", "glad"), "accuracy", data, data, data)
    model.task = task
    model.export(tmp_path / "m.onnx")
    loaded = bc.Model.from_pretrained(tmp_path / "m.onnx", task)
    result = bc.evaluate(loaded, task, teacher=model, metrics=["accuracy", "loyalty", "efficiency"])
    assert result.loyalty["label"] == 1.0
    assert result.model.file_bytes == (tmp_path / "m.onnx").stat().st_size == loaded.size_in_bytes()
    assert "onnxruntime" in loaded.runtime
    assert "onnxruntime" in json.dumps(result.to_dict())


@pytest.mark.parametrize("exact", [False, True])
def test_processors_without_int8_dot_products_get_the_same_answers(exact, letters_tokenizer, tmp_path, monkeypatch):
    model = make_model(letters_tokenizer, "tagging", QUANTIZATIONS["int8"])
    monkeypatch.setattr(sessions, "exact_int8", lambda: exact)
    asked, load = [], sessions.OnnxSession._load
    monkeypatch.setattr(sessions.OnnxSession, "_load", lambda self, how: asked.append(how) or load(self, how))
    model.export(tmp_path / "m.onnx")
    batch = batch_of(letters_tokenizer)
    torch.testing.assert_close(said(bc.runtime.load(tmp_path), batch), said(model, batch), rtol=1e-4, atol=2e-4)
    for options in asked:  # sums of two products would be cut off at 16 bits without it
        if exact:
            with pytest.raises(RuntimeError):
                options.get_session_config_entry("session.x64quantprecision")
        else:
            assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_threads_follow_torch(letters_tokenizer, tmp_path):
    make_model(letters_tokenizer).export(tmp_path / "m.onnx")
    loaded, before = bc.runtime.load(tmp_path / "m.onnx"), torch.get_num_threads()
    first = loaded.runtime_network.session()
    try:
        torch.set_num_threads(before + 1)
        assert loaded.runtime_network.session() is not first
        assert loaded.runtime_network.session() is loaded.runtime_network.session()
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not native_bf16("cpu"), reason="the processor has no bfloat16")
def test_floats_between_products_may_be_bfloat16_where_the_processor_has_it(letters_tokenizer, tmp_path):
    make_model(letters_tokenizer, quantization=QUANTIZATIONS["int8"]).export(tmp_path / "m.xml")
    batch, fast = batch_of(letters_tokenizer), bc.runtime.load(tmp_path, precision="bf16")
    exact, before = bc.runtime.load(tmp_path), torch.get_num_threads()
    assert not any("bf16" in kernel for kernel in exact.kernels())
    difference = (said(fast, batch) - said(exact, batch)).abs().max()
    assert 0 < difference < 0.2
    assert (exact.runtime.endswith(")"), fast.runtime[-7:]) == (False, " (bf16)")  # reports say so
    try:
        torch.set_num_threads(before + 1)  # loads it again
        assert any("bf16" in kernel for kernel in fast.kernels())
    finally:
        torch.set_num_threads(before)


def test_a_precision_that_there_is_not_is_refused(letters_tokenizer, tmp_path, monkeypatch):
    model = make_model(letters_tokenizer)
    for suffix in SUFFIXES.values():
        model.export(tmp_path / f"m{suffix}")
    with pytest.raises(ConfigError, match=r"precision: got 'fp16', allowed are fp32 and bf16"):
        bc.runtime.load(tmp_path / "m.xml", precision="fp16")
    with pytest.raises(ConfigError, match=r"precision: got \['bf16'\], allowed are"):
        bc.runtime.load(tmp_path / "m.xml", precision=["bf16"])
    with pytest.raises(ConfigError, match=r"allowed for ONNX Runtime is 'fp32'; export to OpenVINO"):
        bc.runtime.load(tmp_path / "m.onnx", precision="bf16")
    monkeypatch.setitem(sessions.PRECISIONS, "bf16", "f32")  # what a processor without it makes of the wish
    with pytest.raises(ConfigError, match="does not compute in on this processor; use 'fp32'"):
        bc.runtime.load(tmp_path / "m.xml", precision="bf16")
    with pytest.raises(ConfigError, match=r"precision: got 'bf16', allowed for ONNX Runtime is 'fp32'"):
        model.export(tmp_path / "other.onnx", precision="bf16")
    assert not (tmp_path / "other.onnx").exists()


def test_a_processor_without_bfloat16_is_told_of_before_anything_is_made(letters_tokenizer, monkeypatch):
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    spec = make_model(letters_tokenizer).spec
    writing.check(spec, "openvino", "fp32")
    with pytest.raises(ConfigError, match="does not compute in on this processor; use 'fp32'"):
        writing.check(spec, "openvino", "bf16")


@pytest.mark.parametrize("to", SUFFIXES)
def test_damage_is_refused(to, letters_tokenizer, tmp_path):
    model = make_model(letters_tokenizer, quantization=QUANTIZATIONS["int8"])
    path = tmp_path / f"m{SUFFIXES[to]}"
    model.export(path)
    weights = path if to == "onnx" else path.with_suffix(".bin")
    whole = weights.read_bytes()
    word = model.network.encoder.embeddings.word.codes.numpy().tobytes()
    place = whole.index(word[:40]) + 7  # in the middle of a table
    weights.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(CheckpointError, match="graph or weights are damaged"):
        bc.runtime.load(path)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=str(path)):
        bc.runtime.load(path)
    weights.write_bytes(whole)
    text = path.read_bytes()
    path.write_bytes(text.replace(b"calm", b"cold"))
    with pytest.raises(CheckpointError, match="description is damaged"):
        bc.runtime.load(path)
    path.write_bytes(text)
    assert bc.runtime.load(path).labels == ("sad", "calm", "glad")


@pytest.mark.parametrize("to", SUFFIXES)
def test_a_flipped_bit_is_refused_or_changes_nothing(to, letters_tokenizer, tmp_path):
    """Also in the text of OpenVINO's graph, where a digit of a place is another weight."""
    path = tmp_path / f"m{SUFFIXES[to]}"
    make_model(letters_tokenizer, quantization=QUANTIZATIONS["int8"]).export(path)
    batch, text, chosen = batch_of(letters_tokenizer), path.read_bytes(), random.Random(0)
    expected = said(bc.runtime.load(path), batch)
    digits = [found.start(1) for found in re.finditer(rb'(?:offset|from-layer|levels)="\d*(\d)"', text)]
    places = [chosen.randrange(len(text)) for _ in range(40)] + (chosen.sample(digits, 20) if digits else [])
    refused = 0
    for place in places:
        bit = 1 << chosen.randrange(3 if place in digits else 8)
        path.write_bytes(text[:place] + bytes([text[place] ^ bit]) + text[place + 1 :])
        try:
            loaded = bc.runtime.load(path)
        except CheckpointError:
            refused += 1
        else:
            assert place not in digits
            assert torch.equal(said(loaded, batch), expected), place
    assert refused > len(places) - 10


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda logits: 3 - 50 * logits,
        lambda logits: logits * np.nan,
        lambda logits: (
            logits + (2.0 * logits.std() + 2e-3 * np.abs(logits).max()) * SIGNS[: logits.size].reshape(logits.shape)
        ),
    ],
    ids=["other", "nan", "off"],
)
def test_a_file_that_answers_otherwise_is_not_written(head, wrong, letters_tokenizer, tmp_path, monkeypatch):
    model, path = make_model(letters_tokenizer, head), tmp_path / "m.onnx"
    model.export(path)
    before, run = path.read_bytes(), sessions.OnnxSession.run
    monkeypatch.setattr(sessions.OnnxSession, "run", lambda self, batch: wrong(run(self, batch)))
    with pytest.raises(CheckpointError, match=r"answers otherwise than the model: .*; .*m.onnx is not written"):
        model.export(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("head", "same"), [(head, None if head in ("none", "regression") else 1.0) for head in HEADS])
def test_answers_are_compared_where_there_are_any(head, same, letters_tokenizer, tmp_path, monkeypatch):
    model = make_model(letters_tokenizer, head)
    found = model.export(tmp_path / "m.onnx")
    assert found.same_answers == same
    assert ("have the same answer" in str(found)) is (same is not None)
    run = sessions.OnnxSession.run

    def a_little_off(self, batch):
        logits = run(self, batch)
        nudge = np.random.default_rng(0).normal(size=logits.shape, scale=0.15 * logits.std())
        return logits + nudge.astype(np.float32)

    monkeypatch.setattr(sessions.OnnxSession, "run", a_little_off)
    found = model.export(tmp_path / "m.onnx")
    if head in ("tagging", "question_answering"):  # of many tokens, some are near another answer
        assert 0 < found.same_answers < 1


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize(
    ("low", "high", "bits"), [(-1, 1, 2), (-1, 2, 2), (-2, 1, 4), (-8, 7, 4), (-3, 8, 8), (-127, 127, 8)]
)
def test_codes_are_kept_in_as_few_bits_as_they_need(low, high, bits, to):
    """They are bytes again in what is executed; the numbers of rows and columns need not fill a byte."""
    values = np.random.default_rng(0).integers(low, high + 1, (37, 51)).astype(np.int8)
    values[0, :2] = low, high
    matrix = Codes(values, np.ones(37, np.float32))
    assert matrix.bits == bits
    if to == "onnx":
        found, size = unpacked_by_onnx(matrix)
    else:
        found, size = unpacked_by_openvino(matrix)
    np.testing.assert_array_equal(found, values)
    assert size == pytest.approx(values.size * bits / 8, abs=1)


@pytest.mark.parametrize("bits", [2, 4])
def test_rows_of_a_table_are_unpacked_as_they_are_looked_up(bits):
    """So that it is as small in memory as in the file."""
    values = np.random.default_rng(0).integers(-1 if bits == 2 else -7, 2, (40, 51)).astype(np.int8)
    table, ids = Codes(values, np.linspace(0.5, 1.5, 40).astype(np.float32)), np.array([[7, 0, 39], [3, 3, 1]])
    for look_up, rows in (("looked_up", ids), ("first_rows", np.arange(3))):
        graph = onnx_graph.OnnxGraph()
        found = executed_by_onnx(graph, getattr(graph, look_up)(table, graph.constant(ids)), np.float32)
        np.testing.assert_array_equal(found, values[rows] * table.steps[rows][..., None])
        assert max(len(each.raw_data) for each in graph.constants) == 40 * -(-51 * bits // 8)


def executed_by_onnx(graph, name, kind):
    import onnx
    import onnxruntime

    graph.nodes.append(onnx.helper.make_node("Identity", [name], ["found"]))
    output = onnx.helper.make_tensor_value_info("found", onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
    whole = onnx.helper.make_graph(graph.nodes, "codes", [], [output], graph.constants)
    versions = [onnx.helper.make_opsetid("", onnx_graph.OPSET)]
    file = onnx.helper.make_model(whole, opset_imports=versions, ir_version=onnx_graph.IR_VERSION).SerializeToString()
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {})[0]


def unpacked_by_onnx(matrix):
    graph = onnx_graph.OnnxGraph()
    found = executed_by_onnx(graph, graph._codes(matrix), np.int8)
    return found, max(len(each.raw_data) for each in graph.constants)


def unpacked_by_openvino(matrix):
    import openvino

    graph = openvino_graph.OpenvinoGraph()
    model = openvino.Model([graph._codes(matrix)], [], "codes")
    kept = next(each for each in model.get_ops() if each.get_type_name() == "Constant" and each.shape == [37, 51])
    return openvino.compile_model(model, "CPU")([])[0], kept.get_byte_size()


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize(("bits", "kept"), [(1.58, 2), (2, 2), (3, 4), (4, 4), (6, 8)])
def test_files_of_few_bits_are_small_and_execute_what_those_of_bytes_do(bits, kept, to, letters_tokenizer, tmp_path):
    layers = (Layer((Attention(4, 64), FeedForward(1024)), 256),) * 2
    spec = EncoderSpec(Embeddings(len(letters_tokenizer), 256, 32), layers, HEADS["classification"])
    exports, count = {}, 0
    for width in (bits, 8):
        network = build(spec.replace(quantization=Quantization(width, width, 8, "tensor", "tensor", **STORED)), seed=0)
        random, high = torch.Generator().manual_seed(0), min(100, code_range(width).high)
        parts = [part for part in network.modules() if hasattr(part, "whole")]
        for part in parts:
            codes = torch.randint(-high, high + 1, (part.rows, part.columns), generator=random, dtype=torch.int8)
            part.stored.copy_(codes if width == 8 else pack(codes, width, part.low))
            part.step.fill_(0.1 / high)
        count = sum(part.rows * part.columns for part in parts)
        model = Model(network.eval(), letters_tokenizer, labels=("sad", "calm", "glad"))
        exports[width] = model.export(tmp_path / f"m{width}{SUFFIXES[to]}")
    saved = exports[8].size_in_bytes - exports[bits].size_in_bytes
    assert count > 1_500_000
    assert saved == pytest.approx(count * (1 - kept / 8), abs=30_000)  # unpacking takes some operators
    assert exports[bits].integer_products == exports[8].integer_products == 10
    unpacking = ("BitShift", "BitwiseAnd", "Concat", "Slice", "Add") if to == "onnx" else ()  # of rows of tables
    executed = [{name: n for name, n in each.kernels.items() if name not in unpacking} for each in exports.values()]
    assert executed[0] == executed[1]


@pytest.mark.parametrize("to", SUFFIXES)
def test_what_an_export_says_of_its_file_is_so(to, letters_tokenizer, tmp_path):
    model = make_model(letters_tokenizer, "tagging", QUANTIZATIONS["6-bit-activations"])
    found = model.export(tmp_path / f"m{SUFFIXES[to]}")
    inputs = writing._random_inputs(model)
    ours, theirs = said(model, inputs), said(bc.runtime.load(found.path), inputs)
    assert found.size_in_bytes == sum(each.stat().st_size for each in tmp_path.iterdir())
    assert found.largest_difference == pytest.approx(float((ours - theirs).abs().max()), rel=1e-3, abs=1e-7)
    assert found.spread == pytest.approx(float(ours.std(correction=0)), rel=1e-4)
    assert found.same_answers == pytest.approx(float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()))


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize("name", ["int8", "three-inputs", "offset", "smooth"])
def test_a_thousand_inputs_get_the_models_answers(name, to, letters_tokenizer, tmp_path):
    model, path = make_model(letters_tokenizer, quantization=QUANTIZATIONS[name]), tmp_path / f"m{SUFFIXES[to]}"
    model.export(path)
    ids = torch.randint(1, len(letters_tokenizer), (1000, 12), generator=torch.Generator().manual_seed(3))
    batch = dict(zip(INPUTS, (ids, torch.ones_like(ids), torch.zeros_like(ids)), strict=True))
    expected, found = said(model, batch), said(bc.runtime.load(path), batch)
    assert_alike(found, expected, quantized=True)
    balanced = expected.mean(0)  # so that no class is the answer to all
    answers, wanted = (found - balanced).argmax(-1), (expected - balanced).argmax(-1)
    assert wanted.bincount(minlength=3).sort().values[-2] > 100
    assert (answers == wanted).float().mean() >= 0.997  # the logits of this network spread by 0.003 to 0.03


def test_a_file_of_another_format_is_refused_with_the_remedy(letters_tokenizer, tmp_path, monkeypatch):
    for number, remedy in ((seal.FORMAT - 1, "export the model again"), (seal.FORMAT + 1, "pip install -U")):
        with monkeypatch.context() as patch:
            patch.setattr(seal, "FORMAT", number)
            make_model(letters_tokenizer).export(tmp_path / "m.onnx")
        with pytest.raises(CheckpointError, match=rf"has format {number}, .* reads format {seal.FORMAT}; {remedy}"):
            bc.runtime.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("to", SUFFIXES)
def test_an_older_file_stays_whole_where_the_disk_takes_no_more(to, letters_tokenizer, tmp_path, longest_file):
    path = tmp_path / f"m{SUFFIXES[to]}"
    make_model(letters_tokenizer).export(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with (
        longest_file(min(map(len, before.values())) // 2),
        pytest.raises(CheckpointError, match=r"export: .* cannot be written: .*; what was there before is unchanged"),
    ):
        make_model(letters_tokenizer, "tagging").export(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("to", SUFFIXES)
def test_an_exported_model_is_copied_whole_or_not_at_all(to, letters_tokenizer, tmp_path, longest_file):
    path = tmp_path / f"m{SUFFIXES[to]}"
    make_model(letters_tokenizer).export(path)
    loaded = bc.runtime.load(path)
    with longest_file(1000), pytest.raises(CheckpointError, match="the exported model cannot be written"):
        loaded.save_pretrained(tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []
    for _ in range(2):  # over itself as well
        loaded.save_pretrained(tmp_path / "copy")
    assert {file.name for file in (tmp_path / "copy").iterdir()} == {file.name for file in loaded.files()}
    bc.runtime.load(tmp_path / "copy").save_pretrained(tmp_path / "copy")


def test_a_run_can_export_to_all_that_there_is():
    assert set(checks.EXPORTS) == set(writing.TARGETS)
    assert {kind for kind, _ in writing.TARGETS.values()} == set(writing.WRITERS) == set(writing.FILES)


def test_what_cannot_be_loaded_is_said(letters_tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        bc.runtime.load(tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match=r"end in \.onnx or \.xml"):
        bc.runtime.load(tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="has none that end in"):
        bc.runtime.load(tmp_path)
    model = make_model(letters_tokenizer)
    model.export(tmp_path / "m.xml")
    (tmp_path / "m.bin").unlink()
    with pytest.raises(CheckpointError, match=r"m\.bin, are not beside it"):
        bc.runtime.load(tmp_path / "m.xml")
    import onnx

    tensor = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "other", [tensor], [tensor])
    other = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "other.onnx").write_bytes(other.SerializeToString())
    with pytest.raises(CheckpointError, match="not written by bertcompress"):
        bc.runtime.load(tmp_path / "other.onnx")


def test_what_cannot_be_exported_is_said(letters_tokenizer, tmp_path):
    model = make_model(letters_tokenizer)
    with pytest.raises(ConfigError, match=r"end in \.onnx or \.xml"):
        model.export(tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=r"end in \.xml"):
        model.export(tmp_path / "model.onnx", "openvino")
    with pytest.raises(ConfigError, match="to='tflite', allowed are onnx, openvino"):
        model.export(tmp_path / "model.onnx", "tflite")
    spec = EncoderSpec(Embeddings(len(letters_tokenizer), 6, 32), LAYERS, Head("masked_lm"))
    with pytest.raises(ConfigError, match="'masked_lm', allowed are"):
        Model(build(spec, seed=0), letters_tokenizer).export(tmp_path / "m.onnx")


def test_a_runtime_that_is_not_installed_is_named_with_the_remedy(letters_tokenizer, tmp_path, monkeypatch):
    make_model(letters_tokenizer).export(tmp_path / "m.onnx")

    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it fails
    with pytest.raises(ConfigError, match=r"onnxruntime is needed.*pip install 'bertcompress\[onnx\]'"):
        bc.runtime.load(tmp_path / "m.onnx")


def test_products_that_fall_back_to_float_are_not_passed_over(letters_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(sessions.OnnxSession, "integer_products", lambda self: 2)
    with pytest.raises(ConfigError, match="executes 2 of the model's 14 integer products"):
        make_model(letters_tokenizer, quantization=QUANTIZATIONS["int8"]).export(tmp_path / "m.onnx")


def test_an_exported_model_cannot_be_compressed_further(letters_tokenizer, tmp_path):
    make_model(letters_tokenizer).export(tmp_path / "m.onnx")
    loaded = bc.runtime.load(tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="exported model, which cannot be"):
        bc.PostTrainingQuantization().compress(loaded, None)
    with pytest.raises(ConfigError, match="cannot be exported again"):
        loaded.export(tmp_path / "m.xml")
    with pytest.raises(ConfigError, match="cannot be used without its head"):
        loaded.without_head()
    with pytest.raises(ConfigError, match="allowed are 32"):
        loaded.network(torch.ones(1, 33, dtype=torch.long))


def test_labels_of_another_order_are_refused(letters_tokenizer, tmp_path):
    make_model(letters_tokenizer).export(tmp_path / "m.onnx")
    data = Dataset.from_dict({"text": ["a"], "label": [0]})
    task = bc.Task("moods", "classification", ("glad", "calm", "sad"), "accuracy", data, data, data)
    with pytest.raises(ConfigError, match="its labels are"):
        bc.runtime.load(tmp_path / "m.onnx", task)


def test_the_command_line_exports_and_evaluates(letters_tokenizer, tmp_path):
    from typer.testing import CliRunner

    make_model(letters_tokenizer, quantization=QUANTIZATIONS["int8"]).save_pretrained(tmp_path / "model")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "model"), "--to", "openvino"])
    assert done.exit_code == 0, done.output
    assert "14 integer products" in done.output
    assert runtime.is_exported(tmp_path / "model.xml")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "model"), "-o", str(tmp_path / "other.xml")])
    assert done.exit_code == 0, done.output
    assert runtime.is_exported(tmp_path / "other.xml")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "model"), "--to", "coreml"])
    assert done.exit_code != 0
