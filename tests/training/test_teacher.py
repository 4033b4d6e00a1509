from __future__ import annotations

import numpy as np
import pytest
import torch

from bertcompress.data.batching import evaluation_batches
from bertcompress.errors import ConfigError
from bertcompress.training.teacher import TeacherOutputs, run_network

from .conftest import make_features, make_network, make_spec

NEEDS = frozenset({"hidden_states", "attention_scores"})


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_a_batch_gets_what_the_teacher_says_to_it(cache_mib, tmp_path):
    features, network = make_features(), make_network(make_spec(dropout=0.3))
    outputs = TeacherOutputs(network, features, needs=NEEDS, precision="fp32", cache_mib=cache_mib, folder=tmp_path)
    indices = np.array([5, 0, 17])
    batch = features.collate(indices)
    taught = outputs.batch(indices, batch)
    assert outputs.live == (cache_mib == 0)
    with torch.no_grad():
        expected = run_network(network, batch, sorted(NEEDS))
    assert torch.allclose(taught.logits, expected.logits, atol=1e-5)
    mask = batch["attention_mask"].bool()
    for own, wanted in zip(taught.hidden_states, expected.hidden_states, strict=True):
        assert torch.allclose(own[mask], wanted[mask], atol=1e-5)
    pairs = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(expected.attention_scores[0])
    for own, wanted in zip(taught.attention_scores, expected.attention_scores, strict=True):
        assert torch.allclose(own[pairs], wanted[pairs], atol=1e-5)


def test_logits_are_computed_once():
    features, network = make_features(), make_network(make_spec())
    calls = []
    network.register_forward_hook(lambda module, inputs, output: calls.append(1))
    outputs = TeacherOutputs(network, features, max_tokens=60)
    for _ in range(3):
        for index in range(len(features)):
            outputs.batch(np.array([index]), features.collate([index]))
    assert len(calls) == len(evaluation_batches(features.lengths, 60)) + 1  # one more, to see what comes out


def test_only_what_is_read_is_kept(tmp_path):
    features, network = make_features(), make_network(make_spec(layers=4))
    places = {"hidden_states": {2, 4}}
    outputs = TeacherOutputs(network, features, needs={"hidden_states"}, places=places, folder=tmp_path)
    taught = outputs.batch(np.array([1]), features.collate([1]))
    assert [state is None for state in taught.hidden_states] == [True, True, False, True, False]
    assert len(list(tmp_path.rglob("hidden_states-*"))) == 2


def test_a_budget_that_is_too_small_means_computing_again():
    features, network = make_features(), make_network(make_spec())
    outputs = TeacherOutputs(network, features, needs=NEEDS, cache_mib=1e-4)
    outputs.prepare()
    assert outputs.live


def test_unknown_outputs_are_refused():
    with pytest.raises(ConfigError, match="'attentions'"):
        TeacherOutputs(make_network(make_spec()), make_features(), needs={"attentions"})


def kept_by(folder, network, features):
    return TeacherOutputs(network, features, needs=NEEDS, precision="fp32", folder=folder)


def counted(network):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_kept_outputs_serve_another_training(tmp_path):
    features, network = make_features(), make_network(make_spec())
    calls = counted(network)
    indices = np.arange(5)
    first = kept_by(tmp_path, network, features).batch(indices, features.collate(indices))
    before = len(calls)
    again = kept_by(tmp_path, network, features)
    second = again.batch(indices, features.collate(indices))
    assert len(calls) == before + 1  # only to see what comes out
    assert not again.live
    assert torch.equal(first.logits, second.logits)
    for need in NEEDS:
        for one, other in zip(first[need], second[need], strict=True):
            assert torch.equal(one, other)


def test_kept_outputs_that_are_damaged_are_computed_again(tmp_path, caplog):
    features, network = make_features(), make_network(make_spec())
    indices = np.arange(5)
    first = kept_by(tmp_path, network, features).batch(indices, features.collate(indices))
    damaged = next(tmp_path.rglob("hidden_states-2.*"))
    damaged.write_bytes(damaged.read_bytes()[:-8] + b"\x01" * 8)
    second = kept_by(tmp_path, network, features).batch(indices, features.collate(indices))
    assert "is damaged" in caplog.text
    assert torch.equal(first.hidden_states[2], second.hidden_states[2])


def test_outputs_of_another_teacher_are_kept_apart(tmp_path):
    features = make_features()
    indices = np.arange(5)
    taught = [
        kept_by(tmp_path, make_network(make_spec(), seed), features).batch(indices, features.collate(indices))
        for seed in (1, 2)
    ]
    assert not torch.equal(taught[0].logits, taught[1].logits)
    assert len(list(tmp_path.rglob("outputs.json"))) == 2


def test_where_no_term_reads_logits_the_head_does_not_run_and_outputs_are_kept(tmp_path):
    features, network = make_features(), make_network(make_spec(task="masked_lm", labels=0))
    calls = []
    network.transform.register_forward_hook(lambda module, inputs, output: calls.append(1))
    outputs = TeacherOutputs(network, features, needs=NEEDS, precision="fp32", logits=False, folder=tmp_path)
    indices = np.array([5, 0, 17])
    batch = features.collate(indices)
    taught = outputs.batch(indices, batch)
    assert not calls
    assert not outputs.live  # the logits of a vocabulary would not fit, but the states do
    with torch.no_grad():
        expected = run_network(network, batch, sorted(NEEDS))
        alone = run_network(network, batch, sorted(NEEDS), logits=False)
    assert "logits" not in taught
    assert "logits" not in alone
    for own, wanted, bare in zip(taught.hidden_states, expected.hidden_states, alone.hidden_states, strict=True):
        mask = batch["attention_mask"].bool()
        assert torch.allclose(own[mask], wanted[mask], atol=1e-5)
        assert torch.equal(bare, wanted)
    again = TeacherOutputs(network, features, needs=NEEDS, precision="fp32", logits=False, folder=tmp_path)
    calls.clear()
    network.encoder.register_forward_hook(lambda module, inputs, output: calls.append(1))
    assert torch.equal(again.batch(indices, batch).hidden_states[1], taught.hidden_states[1])
    assert len(calls) == 1  # to see what comes out; the rest was kept
