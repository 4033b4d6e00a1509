"""The picture of the chain: areas in proportion to weights, origins, int8 marks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from bertcompress.encoder.spec import (
    Attention,
    Embeddings,
    EncoderSpec,
    FeedForward,
    Operation,
    SeparableConvolution,
    uniform_layers,
)
from bertcompress.report import Run, chain, describe
from bertcompress.report.runs import Entry

Fictional = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize(
    "operation", [Attention(6, 64), Attention(3, 17), FeedForward(1536), SeparableConvolution(5)], ids=str
)
def test_area_is_the_number_of_weights(operation: Operation) -> None:
    hidden = 384
    matrices = [each for each in operation.tensors("x", hidden, None) if each.name.endswith(("weight", "codes"))]
    weights = sum(each.weights for each in matrices if "norm" not in each.name)
    assert chain.operation_height(operation, hidden) * hidden == weights


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [("last_of_block", (2, 4, 6)), ("first_of_block", (1, 3, 5)), ("first", (1, 2, 3)), ("unheard_of", None)],
)
def test_origins_from_settings(fictional: Fictional, layers: str, wanted: tuple[int, ...] | None) -> None:
    results = fictional("quickstart")
    results["models"][1]["settings"]["layers"] = layers
    entries = Run(results).entries
    assert describe.origins(entries[1], entries[0]) == wanted
    assert describe.origins(entries[2], entries[1]) == (1, 2, 3)
    assert describe.origins(entries[0], None) is None


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [([1, None, 6], (1, None, 6)), ([[1, 5], [3, 6]], (5, None, 6)), ([7, 8, 9], None), ("junk", (2, 4, 6))],
)
@pytest.mark.parametrize("inside", [False, True])
def test_recorded_origin_is_believed_first(fictional: Fictional, origin: object, wanted: object, inside: bool) -> None:
    results = fictional("quickstart")
    results["models"][1] |= {"facts": {"origin": origin}} if inside else {"origin": origin}
    entries = Run(results).entries
    assert describe.origins(entries[1], entries[0]) == wanted


def test_picture_has_one_block_per_operation_and_marks_what_is_int8(fictional: Fictional) -> None:
    run = Run(fictional("nas"))
    specs = [entry.spec for entry in run.entries if entry.spec is not None]
    wide, narrow = chain.pictures(run, chain.scale_of(specs))
    blocks = sum(len(layer.operations) for spec in specs for layer in spec.layers) + len(specs)
    assert len(wide) == 1
    assert "".join(wide).count('class="op ') == blocks
    assert "".join(narrow).count('class="op ') == blocks
    # Only the last chain is int8, and its embeddings are not.
    assert "".join(wide).count('class="int8"') == len(specs[-1].layers)
    assert "".join(wide).count('class="link"') == 2 * 4
    assert "embeddings: 30,522 words of width 256, int8" not in wide[0]


def test_widths_are_proportional_to_the_stream(fictional: Fictional) -> None:
    run = Run(fictional("bert_base"))
    specs = [entry.spec for entry in run.entries if entry.spec is not None]
    wide, _ = chain.pictures(run, chain.scale_of(specs))
    found = [float(width) for width in re.findall(r'class="op attention"[^>]*? width="([\d.]+)"', wide[0])]
    assert len(found) == 24
    assert found[0] / found[12] == pytest.approx(768 / 384)


def test_groups_of_equal_layers(fictional: Fictional) -> None:
    spec = Run(fictional("bert_base")).entries[0].spec
    assert spec is not None
    assert describe.groups(spec) == [(0, 12)]
    assert "12 layers of width 768: attention 12 heads" in " ".join(describe.chain(spec))


def test_a_student_of_random_weights_came_from_nowhere():
    def made(layers, **values):
        spec = EncoderSpec(Embeddings(30, 8, max_positions=16), uniform_layers(layers, 8, 2, 16))
        return Entry("run", {"method": "extract_then_distill", "spec": spec.to_dict(), **values}, {}, None)

    teacher = made(4)
    for start in ("random", "embeddings"):
        random = made(2, settings={"initialization": start, "layers": "last_of_block"})
        assert describe.origins(random, teacher) is None
    assert describe.origins(made(2, settings={"layers": "last_of_block"}), teacher) == (2, 4)
