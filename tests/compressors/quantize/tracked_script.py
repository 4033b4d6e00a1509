"""Run in several processes: trains a network whose steps follow the values, and saves it, a file for each process.

Arguments: the folder to write to, the largest number of tokens in a micro-batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from bertcompress.compressors.quantize.learned import activation_steps, calibrating, prepare, quantized_state
from bertcompress.data.features import Features
from bertcompress.encoder.network import build
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.encoder.tensors import Quantization
from bertcompress.training.loop import train
from bertcompress.training.objectives import build_objective
from bertcompress.training.settings import TrainingSettings

HOW = Quantization(8, 8, 8, "tensor", activation_steps="tensor", attention_bits=8, activation_offset=True)
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}


def main(folder: Path, max_tokens: int) -> None:
    """Train, and write the state of the quantized network."""
    torch.set_num_threads(1)
    layers = uniform_layers(2, 16, 2, 32)
    spec = EncoderSpec(Embeddings(60, 16, 32), layers, Head("classification", 3, "tanh"), **NO_DROPOUT)
    wanted, random = spec.replace(quantization=HOW), np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(random.integers(3, 13, 40))]).astype(np.int64)
    ids = random.integers(1, 60, int(offsets[-1])).astype(np.int32)
    features = Features(ids, np.zeros(len(ids), np.int8), offsets, random.integers(0, 3, 40), 0)
    network = build(spec, seed=0).eval()
    prepare(network, wanted, "max", learned=False)
    with torch.no_grad(), calibrating(network, "max"):
        network(torch.arange(1, 13).view(2, 6))
    # Weights hardly move: one between two codes that goes either way would move the steps behind it.
    sizes = {"batch_size": 10, "max_tokens": max_tokens, "max_grad_norm": 0.0}
    settings = TrainingSettings(epochs=3, learning_rate=1e-5, precision="fp32", **sizes)
    result = train(network, build_objective({"hard": 1}, student=spec, teacher=None), features, settings)
    assert len(list(activation_steps(network))) == 2 * (4 + 4) + 1
    rank = torch.distributed.get_rank() if result.processes > 1 else 0
    save_file(quantized_state(network, wanted), folder / f"{result.processes}-{max_tokens}-{rank}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
