"""The int8 benchmark's arithmetic, on sides that only wait; the sides themselves need packages that CI has not."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.peers import int8
from benchmarks.peers.int8_sides import SIDES


def waiting(seconds):
    def answer(batch):
        time.sleep(seconds)
        return np.eye(2, dtype=np.float32)[batch["input_ids"][:, 0] % 2]

    return answer


def test_sides_are_held_against_the_baseline_and_the_best_peer():
    seconds = {name: 0.004 for name in SIDES} | {"torch_bf16": 0.002, "ours_openvino": 0.001}
    found = int8.timed({name: waiting(each) for name, each in seconds.items()}, (2, 4), 1, 6)
    assert found["best_peer"] == "torch_bf16"
    assert 1.2 < found["ours_faster_than_best_peer"]["ours_openvino"]["median"] < 2.1
    assert 2 < found["faster_than_torch_fp32"]["ours_openvino"]["median"] < 4.2
    assert found["ms"].keys() == SIDES.keys()


def test_rounds_hold_every_side_once_in_changing_order():
    seen = []
    sides = {name: (lambda batch, name=name: seen.append(name)) for name in "abc"}
    taken = int8.interleaved(sides, int8.batch_of(1, 3), 5)
    assert taken.shape == (5, 3)
    rounds = [seen[at : at + 3] for at in range(0, len(seen), 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
