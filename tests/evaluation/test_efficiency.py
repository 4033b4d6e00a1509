from __future__ import annotations

import gc
import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from bertcompress.data.base import Task, make_dataset
from bertcompress.errors import ConfigError
from bertcompress.evaluation import efficiency
from bertcompress.evaluation.efficiency import Runner, measure_latency


class Clock:
    """A clock that only runners advance, so that what is measured is known exactly."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[str, tuple[int, ...], int]] = []

    def runner(
        self, name: str, tokenizer: PreTrainedTokenizerFast, seconds: Callable[[int], float], **settings: str
    ) -> Runner:
        def call(batch: dict[str, torch.Tensor]) -> None:
            self.calls.append((name, tuple(batch["input_ids"].shape), int(batch["input_ids"].sum())))
            self.now += seconds(len(self.calls)) * batch["input_ids"].numel()

        return Runner(call, tokenizer, 32, **settings)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(efficiency, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


@pytest.fixture
def data(task: Task) -> Dataset:
    return task.test


def test_times_lengths_and_throughput_are_those_of_the_sentences(
    clock: Clock, data: Dataset, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = measure_latency({"only": clock.runner("only", tokenizer, lambda _: 0.001)}, data, rounds=60)["only"]
    lengths = [len(ids) for ids in tokenizer(data["text"][:])["input_ids"]]
    assert found["p50_ms"] == pytest.approx(np.median(lengths))  # one ms a token
    assert found["p95_ms"] == pytest.approx(np.percentile(lengths, 95))
    assert found["length"] == int(np.median(lengths))
    assert (found["rounds"], found["batch"], found["throughput_batch"]) == (60, 1, 32)
    shapes = [shape for _, shape, _ in clock.calls if shape[0] == 32][-8:]
    expected = 8 * 32 / (0.001 * sum(rows * width for rows, width in shapes))
    assert found["throughput_examples_per_second"] == pytest.approx(expected)
    assert len({width for _, width in shapes}) > 3  # bucketed: batches of different lengths
    assert "speedup" not in found


def test_models_take_turns_on_the_same_sentence_in_a_seeded_order(
    clock: Clock, data: Dataset, tokenizer: PreTrainedTokenizerFast
) -> None:
    orders = []
    for seed in (0, 0, 1):
        clock.calls.clear()
        runners = {name: clock.runner(name, tokenizer, lambda _: 0.001) for name in "abc"}
        measure_latency(runners, data, rounds=40, throughput_batches=2, seed=seed)
        calls = clock.calls[3 * (efficiency.MIN_ROUNDS // 2) :][: 3 * 40]
        rounds = [calls[at : at + 3] for at in range(0, len(calls), 3)]
        assert all({name for name, _, _ in each} == set("abc") for each in rounds)
        assert all(len({content for _, _, content in each}) == 1 for each in rounds)
        orders.append(["".join(name for name, _, _ in each) for each in rounds])
    assert orders[0] == orders[1] != orders[2]
    assert len(set(orders[0])) > 3


def test_a_speed_up_survives_a_machine_that_slows_down(
    clock: Clock, data: Dataset, tokenizer: PreTrainedTokenizerFast
) -> None:
    # The machine gets slower with every call; one model timed after the other would be off by far.
    runners = {
        "teacher": clock.runner("teacher", tokenizer, lambda calls: 0.004 * 1.01**calls),
        "student": clock.runner("student", tokenizer, lambda calls: 0.001 * 1.01**calls),
    }
    found = measure_latency(runners, data, baseline="teacher", rounds=100, budget_seconds=1e9)
    assert found["student"]["speedup"] == pytest.approx(4.0, rel=0.02)
    low, high = found["student"]["speedup_interval"]
    assert 3.9 < low <= high < 4.1
    assert found["student"]["throughput_speedup"] == pytest.approx(4.0, rel=0.02)
    assert found["teacher"]["speedup"] == 1.0
    assert found["teacher"]["speedup_interval"] == [1.0, 1.0]
    assert found["student"]["baseline"] == "teacher"


def test_a_few_stalls_do_not_move_the_speed_up(clock: Clock, data: Dataset, tokenizer: PreTrainedTokenizerFast) -> None:
    runners = {
        "teacher": clock.runner("teacher", tokenizer, lambda _: 0.002),
        "student": clock.runner("student", tokenizer, lambda calls: 0.001 * (1000 if calls % 40 == 0 else 1)),
    }
    found = measure_latency(runners, data, baseline="teacher", rounds=100, budget_seconds=1e9)
    assert found["student"]["speedup"] == pytest.approx(2.0)
    assert found["student"]["speedup_interval"] == pytest.approx([2.0, 2.0])


def test_slow_models_end_at_the_budget_but_not_before_twenty_rounds(
    clock: Clock, data: Dataset, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = measure_latency({"slow": clock.runner("slow", tokenizer, lambda _: 10.0)}, data, rounds=60)["slow"]
    assert found["rounds"] == efficiency.MIN_ROUNDS
    assert found["throughput_batches"] == 2


def test_few_examples_are_used_again(clock: Clock, tokenizer: PreTrainedTokenizerFast) -> None:
    few = make_dataset({"text": ["good film", "bad"], "text_pair": ["the plot", "a film"]})
    found = measure_latency({"only": clock.runner("only", tokenizer, lambda _: 1e-3)}, few, rounds=30)["only"]
    assert found["rounds"] == 30
    assert found["throughput_batches"] == 8


def test_networks_are_timed_in_evaluation_mode_and_left_as_they_were(
    task: Task, tiny: Callable[..., object], data: Dataset
) -> None:
    model = tiny(task)
    model.network.train()
    seen = []
    model.network.register_forward_hook(lambda module, *_: seen.append((module.training, gc.isenabled())))
    threads = torch.get_num_threads()
    found = measure_latency({"model": model}, data, rounds=20, throughput_batches=2, threads=2)
    assert set(seen) == {(False, False)}
    assert model.network.training
    assert gc.isenabled()
    assert torch.get_num_threads() == threads
    assert found["model"]["threads"] == 2
    assert found["model"]["p95_ms"] >= found["model"]["p50_ms"] > 0
    assert (found["model"]["runtime"], found["model"]["device"]) == ("torch", "cpu")
    assert json.dumps(found)


def test_a_larger_model_is_measured_to_be_slower(task: Task, tiny: Callable[..., object], data: Dataset) -> None:
    models = {"teacher": tiny(task, layers=12), "student": tiny(task, layers=1)}
    found = measure_latency(models, data, baseline="teacher", rounds=60, throughput_batches=2)
    assert found["student"]["speedup_interval"][0] > 1.5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"baseline": "other"}, "'other', allowed are 'only'"),
        ({"rounds": 0}, "rounds"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_impossible_measurements_are_refused(
    clock: Clock, data: Dataset, tokenizer: PreTrainedTokenizerFast, change: dict, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        measure_latency({"only": clock.runner("only", tokenizer, lambda _: 1.0)}, data, **change)
    with pytest.raises(ConfigError, match="0 models"):
        measure_latency({}, data)
