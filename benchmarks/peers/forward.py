"""The encoder's forward pass against transformers' own `BertModel`, with the same weights, in fp32; int8 beside them.

    python -m benchmarks.peers.forward [--rounds N] [--output FILE]

All networks answer the same input in turn, in a random order within each round; ratios are taken within rounds.
`BertModel` runs as it is loaded: evaluation mode, its default attention, under `torch.inference_mode`. "int8" is ours
after post-training quantization; "peer_int8" is `BertModel` after torch's dynamic quantization of its linear maps.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import BertModel

import bertcompress as bc
from benchmarks.peers.common import RESULTS, machine, ratios, write
from bertcompress.data.sources import resolve_model
from bertcompress.encoder.convert import to_chain

MODEL = "minilm-l6"
SHAPES = ((1, 16), (1, 128), (32, 32))  # (sentences, tokens)
ROUNDS, WARM_UP, BUDGET_SECONDS = 300, 10, 25.0
TOLERANCE = 1e-4  # largest difference of hidden states in fp32, whose size is about 1
SEED = 0


def networks(name: str) -> dict[str, nn.Module]:
    """Return the peer, ours with the same weights, and both in int8 (the peer's where torch still has the tool)."""
    folder = resolve_model(name) or name
    peer = BertModel.from_pretrained(folder).eval()
    chain = to_chain(peer)
    model = bc.Model(chain, bc.Model.from_pretrained(folder).tokenizer)
    int8 = bc.PostTrainingQuantization().compress(model, None).network
    found: dict[str, nn.Module] = {"peer": peer, "ours": chain, "int8": int8}
    dynamic = getattr(torch.ao.quantization, "quantize_dynamic", None)
    if dynamic is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found["peer_int8"] = dynamic(BertModel.from_pretrained(folder).eval(), {nn.Linear}, dtype=torch.qint8)
    return {each: network.eval() for each, network in found.items()}


def inputs(batch: int, length: int, padded: bool, vocabulary: int, random: np.random.Generator) -> dict[str, Tensor]:
    """Return random ids, (batch, length); with padding, rows hold half the tokens or more, a batch's first all."""
    ids = random.integers(0, vocabulary, (batch, length))
    real = np.full(batch, length)
    if padded:
        real = random.integers(length // 2, length, batch)
        real[0] = length if batch > 1 else 3 * length // 4
    mask = np.arange(length) < real[:, None]
    ids[~mask] = 0
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "token_type_ids": torch.zeros(batch, length, dtype=torch.long),
    }


def differences(found: Mapping[str, nn.Module], batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest difference of each network's hidden states from the peer's, at real tokens.

    Raises:
        SystemExit: ours differs in fp32; then there would be nothing to compare.
    """
    real = batch["attention_mask"].bool()
    with torch.inference_mode():
        states = {name: network(**batch).last_hidden_state[real] for name, network in found.items()}
    result = {name: float((state - states["peer"]).abs().max()) for name, state in states.items()}
    if result["ours"] > TOLERANCE:
        raise SystemExit(f"ours differs from BertModel by {result['ours']:.2g}, allowed is {TOLERANCE}; no comparison.")
    return result


def interleaved(
    found: Mapping[str, nn.Module], batch: Mapping[str, Tensor], rounds: int, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return seconds, (rounds, networks): in each round every network answers once, in a random order."""
    order = list(found.values())
    taken: list[list[float]] = []
    until = time.perf_counter() + BUDGET_SECONDS
    gc.collect()
    gc.disable()
    try:
        with torch.inference_mode():
            while len(taken) < rounds + WARM_UP and (len(taken) < 3 * WARM_UP or time.perf_counter() < until):
                row = [0.0] * len(order)
                for place in random.permutation(len(order)).tolist():
                    before = time.perf_counter()
                    order[place](**batch)
                    row[place] = time.perf_counter() - before
                taken.append(row)
    finally:
        gc.enable()
    return np.asarray(taken[min(WARM_UP, len(taken) - 1) :])


def compare(found: Mapping[str, nn.Module], shape: Sequence[int], padded: bool, rounds: int) -> dict[str, Any]:
    """Measure one shape; return milliseconds of each network and ratios to the peer's, above 1 where ours is faster."""
    random = np.random.default_rng(SEED)
    batch = inputs(*shape, padded, found["peer"].config.vocab_size, random)
    apart = differences(found, batch)
    seconds = dict(zip(found, interleaved(found, batch, rounds, random).T, strict=True))
    speed = {name: 1.0 / values for name, values in seconds.items()}
    result: dict[str, Any] = {
        "batch": shape[0],
        "length": shape[1],
        "padded": padded,
        "rounds": len(seconds["peer"]),
        "ms": {name: _percentiles(values) for name, values in seconds.items()},
        "largest_difference_from_peer": apart,
        "faster_than_peer": {name: ratios(speed[name], speed["peer"]) for name in found if name != "peer"},
    }
    if "peer_int8" in found:
        result["int8_faster_than_peer_int8"] = ratios(speed["int8"], speed["peer_int8"])
    result["not_slower"] = result["faster_than_peer"]["ours"]["interval"][1] >= 1.0
    _report(result)
    return result


def _percentiles(seconds: npt.NDArray[np.float64]) -> dict[str, float]:
    return {f"p{share}": float(1000 * np.percentile(seconds, share)) for share in (10, 50, 95)}


def _report(result: Mapping[str, Any]) -> None:
    padding = "padded" if result["padded"] else "full"
    head = f"({result['batch']:2}, {result['length']:3}) {padding:6} peer {result['ms']['peer']['p50']:7.2f} ms"
    parts = [
        f"{name} {ratio['median']:.2f}x [{ratio['interval'][0]:.2f}, {ratio['interval'][1]:.2f}]"
        for name, ratio in result["faster_than_peer"].items()
    ]
    print(head, *parts, sep=" | ", flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.forward", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at most, for each shape")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--output", type=Path, default=RESULTS / "forward.json")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write the comparison."""
    options = parse(arguments)
    conditions, found = machine(), networks(options.model)
    conditions["attention_of_peer"] = found["peer"].config._attn_implementation
    result = {
        "benchmark": "forward",
        "machine": conditions,
        "setting": {"model": options.model, "precision": "fp32", "rounds": options.rounds, "baseline": "peer"},
        "shapes": [compare(found, shape, padded, options.rounds) for shape in SHAPES for padded in (False, True)],
    }
    write(options.output, result)
    return result


if __name__ == "__main__":
    main()
