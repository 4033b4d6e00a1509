"""Tiny networks and examples that the training tests share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertcompress.data.features import Features
from bertcompress.encoder.network import build
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers


def make_spec(layers=2, hidden=16, heads=2, dropout=0.0, labels=3, task="classification", vocab=60):
    return EncoderSpec(
        Embeddings(vocab, hidden, max_positions=32),
        uniform_layers(layers, hidden, heads, 2 * hidden),
        Head(task, labels, "tanh"),
        hidden_dropout=dropout,
        attention_dropout=dropout,
        classifier_dropout=dropout,
        initializer_range=0.2,
    )


def make_network(spec, seed=0):
    torch.manual_seed(seed)
    return build(spec)


def make_features(count=24, classes=3, seed=0, vocab=60, longest=12, regression=False):
    """Examples whose label is written in their second token, so that it can be learnt."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, longest + 1, count)
    labels = random.integers(0, classes, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = random.integers(10, vocab, int(offsets[-1])).astype(np.int32)
    ids[offsets[:-1]] = 1
    ids[offsets[:-1] + 1] = 2 + labels
    targets = labels.astype(np.float32) if regression else labels.astype(np.int64)
    return Features(ids, np.zeros(len(ids), np.int8), offsets, targets, 0)


@pytest.fixture
def spec():
    return make_spec()


@pytest.fixture
def features():
    return make_features()
