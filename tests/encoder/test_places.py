"""Computing the real tokens only: the same outputs and gradients, in fewer places."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bertcompress.encoder.chain import ChainModel
from bertcompress.encoder.network import build
from bertcompress.encoder.operations import FeedForwardOperation
from bertcompress.encoder.places import Places, rounded
from bertcompress.encoder.spec import (
    Attention,
    Embeddings,
    EncoderSpec,
    FeedForward,
    Head,
    Layer,
    SeparableConvolution,
)

HEADS = {
    "none": Head(pooler="tanh"),
    "classification": Head("classification", 3, "tanh"),
    "question_answering": Head("question_answering", 2),
    "tagging": Head("tagging", 4),
    "masked_lm": Head("masked_lm"),
}
LAYERS = (
    Layer((Attention(2, 4), FeedForward(21)), 8),
    Layer((SeparableConvolution(3), Attention(3, 5), FeedForward(7)), 10),
)


def mask_of(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_every_token_is_packed_and_comes_back_to_its_place(lengths: list[int]) -> None:
    mask = mask_of(lengths)
    places = Places(mask, skip_pads=True)
    values = torch.arange(1, mask.numel() + 1).view(mask.shape)
    packed = places.pack(values)
    back = places.unpack(packed)
    assert torch.equal(back[mask], values[mask])
    assert torch.equal(back, back.clamp(max=values))  # a pad holds its own value, or zero
    assert packed.numel() == min(rounded(sum(lengths)), mask.numel())
    assert places.all == (packed.numel() == mask.numel())


@given(st.integers(1, 5000))
def test_sizes_are_rounded_to_few_by_little(tokens: int) -> None:
    size = rounded(tokens)
    assert tokens <= size < max(tokens + 16, 1.125 * tokens + 1)
    assert rounded(size) == size


def test_there_are_eight_sizes_between_powers_of_two() -> None:
    assert len({rounded(tokens) for tokens in range(513, 1025)}) == 8
    assert len({rounded(tokens) for tokens in range(1, 2049)}) == 40


def everything_said(network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    wanted = ("hidden_states", "attentions", "attention_scores", "projections")
    output = network(**batch, **{f"output_{name}": True for name in wanted})
    found = {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
    for name in wanted:
        found |= {f"{name}.{place}": value for place, value in enumerate(output[name])}
    return found


def at_tokens(name: str, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if "attention" in name:  # (B, h, L, L)
        return value.permute(0, 2, 3, 1)[mask[:, :, None] & mask[:, None]]
    return value[mask] if value.shape[:2] == mask.shape else value


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_outputs_and_gradients_are_those_of_the_padded_batch(head: str, embedded: bool) -> None:
    spec = EncoderSpec(
        Embeddings(40, 6, 48, 2),
        LAYERS,
        HEADS[head],
        hidden_dropout=0.0,
        attention_dropout=0.0,
        classifier_dropout=0.0,
        initializer_range=0.3,
    )
    network = build(spec, seed=0).train()
    encoder = network if isinstance(network, ChainModel) else network.encoder
    mask = mask_of([40, 3, 5, 17, 2])
    generator = torch.Generator().manual_seed(1)
    batch = {"attention_mask": mask.long(), "token_type_ids": (torch.arange(40) > 3).long() * mask}
    if embedded:
        batch["inputs_embeds"] = torch.randn(5, 40, 6, generator=generator, requires_grad=True)
    else:
        batch["input_ids"] = torch.randint(1, 40, (5, 40), generator=generator)
    rows = []
    counting = next(part for part in network.modules() if isinstance(part, FeedForwardOperation))
    counting.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[:2].numel()))
    said, gradients = {}, {}
    for encoder.skip_pads in (False, True):
        found = everything_said(network, batch)
        said[encoder.skip_pads] = {name: at_tokens(name, value, mask) for name, value in found.items()}
        network.zero_grad()
        weights = torch.Generator().manual_seed(2)
        sum(
            (each * torch.randn(each.shape, generator=weights)).sum() for each in said[encoder.skip_pads].values()
        ).backward()
        gradients[encoder.skip_pads] = {
            name: each.grad for name, each in network.named_parameters() if each.grad is not None
        }
    assert rows == [200, rounded(67)]
    assert said[True].keys() == said[False].keys()
    for name, value in said[False].items():
        torch.testing.assert_close(said[True][name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert gradients[True].keys() == gradients[False].keys()
    for name, value in gradients[False].items():
        torch.testing.assert_close(gradients[True][name], value, rtol=1e-4, atol=2e-4, msg=name)


def test_a_batch_that_is_too_long_is_still_refused_by_its_padded_length() -> None:
    network = build(EncoderSpec(Embeddings(40, 6, 16), LAYERS, HEADS["none"]), seed=0)
    network.skip_pads = True
    mask = mask_of([2] * 40)
    assert network(input_ids=torch.ones(40, 2, dtype=torch.long), attention_mask=mask).last_hidden_state.shape[1] == 2
    mask = mask_of([17, 2, 2])
    with pytest.raises(Exception, match="17 tokens, allowed are 16"):
        network(input_ids=torch.ones(3, 17, dtype=torch.long), attention_mask=mask)
