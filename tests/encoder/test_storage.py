"""The table of what a file holds: complete, and true to the bytes."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, Layer, SeparableConvolution, uniform_layers
from bertcompress.encoder.storage import storage_table, stored_parts
from bertcompress.encoder.tensors import Quantization

PLAIN = EncoderSpec(Embeddings(300, 16, 20), uniform_layers(2, 16, 2, 24), Head("classification", 3, "tanh"))
WIDTHS = st.sampled_from([1.58, 2, 3, 4, 8, 32])


@given(WIDTHS, WIDTHS, st.sampled_from(["row", "tensor"]), st.sampled_from([(), ("word",), ("word", "token_type")]))
@settings(max_examples=60, deadline=None)
def test_parts_add_up_to_the_file(weights, tables, steps, names):
    odd = (*PLAIN.layers, Layer((SeparableConvolution(3),), 12))
    spec = PLAIN.replace(layers=odd, quantization=Quantization(weights, tables, 32, steps, steps, names))
    parts = stored_parts(spec)
    assert sum(part.stored_bytes for part in parts) == spec.bytes()
    assert sum(part.weights for part in parts) == spec.parameters()
    assert all(bool(part.why) is (part.bits == 32) for part in parts)
    assert len({(part.name, part.bits) for part in parts}) == len(parts)


def test_the_table_says_what_and_why():
    quantization = Quantization(4, 2, 8, "tensor", "row", ("word",), "tensor", attention_bits=8)
    lines = storage_table(PLAIN.replace(quantization=quantization)).splitlines()
    words = {line.split("  ")[0]: line for line in lines}
    assert " 2  " in words["word embeddings"]
    assert words["word embeddings"].rstrip().endswith("16.00")
    assert " 4  " in words["linear maps"]
    assert words["position embeddings"].endswith("`tables` leaves it out")
    assert words["output layer"].endswith("its errors would be those of the logits")
    assert lines[-1].startswith("all")
    base = EncoderSpec(Embeddings(30522, 768), uniform_layers(12, 768, 12, 3072), Head(pooler="tanh"))
    rows = storage_table(base.replace(quantization=quantization)).splitlines()
    assert next(row for row in rows if row.startswith("word")).split()[2:] == [
        "2",
        "23,440,896",
        "89.42",
        "5.59",
        "16.00",
    ]
    whole = storage_table(PLAIN)
    assert "nothing else was asked for" in whole


@pytest.mark.parametrize("quantized", [True, False])
def test_saving_tells_what_is_in_few_bits(quantized, tmp_path, caplog, letters_tokenizer):
    from bertcompress.model import Model

    spec = PLAIN.replace(
        embeddings=Embeddings(len(letters_tokenizer), 16, 20),
        head=Head(),
        quantization=Quantization(4, 4) if quantized else None,
    )
    model = Model.from_spec(spec, letters_tokenizer)
    with caplog.at_level(logging.INFO, "bertcompress"):
        model.save_pretrained(tmp_path)
    assert ("linear maps" in caplog.text) is quantized
