"""How fast models answer, measured against each other: latency, throughput and speed-up on real sentences.

All models are timed in turn, in a seeded random order within each round, on the same sentence; so what disturbs the
machine disturbs all of them, and a speed-up is the median of ratios taken within rounds, with a bootstrap interval,
never a ratio of two separate runs. Latency is that of one sentence at its own length; throughput that of batches of
32 sentences of similar length. Both are of the forward pass, as tokenization costs every model the same.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from bertcompress.data.features import Features, featurize
from bertcompress.errors import ConfigError, allowed
from bertcompress.evaluation.hardware import isa_flags, load_average, usable_cores
from bertcompress.evaluation.intervals import bootstrap_interval
from bertcompress.model import WINDOW

if TYPE_CHECKING:
    from datasets import Dataset

Batch: TypeAlias = dict[str, torch.Tensor]
Seconds: TypeAlias = npt.NDArray[np.float64]

ROUNDS = 200
MIN_ROUNDS = 20
BATCH_SIZE = 32
THROUGHPUT_BATCHES = 8
BUDGET_SECONDS = 30.0
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Measurable(Protocol):
    """What `measure_latency` needs of a model; `bertcompress.Model` has it."""

    @property
    def network(self) -> torch.nn.Module:
        """The torch module."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""

    @property
    def max_length(self) -> int:
        """Tokens of the longest input."""


@dataclass(frozen=True)
class Runner:
    """Something that answers batches, in any runtime.

    Attributes:
        call: takes a batch of int64 tensors `input_ids`, `attention_mask`, `token_type_ids`, each (B, L), and
            returns when the answer is there.
        tokenizer: that makes its inputs.
        max_length: tokens of the longest input.
        runtime: what executes it.
        device: where.
    """

    call: Callable[[Batch], object]
    tokenizer: Any
    max_length: int
    runtime: str = "torch"
    device: str = "cpu"


def torch_runner(model: Measurable) -> Runner:
    """Return the model as a runner; on a GPU it waits for the answer."""
    network = model.network
    device = next(iter(network.state_dict().values())).device  # int8 networks may have no parameters

    def call(batch: Batch) -> None:
        with torch.inference_mode():
            network(**batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return Runner(call, model.tokenizer, model.max_length, "torch", str(device))


def measure_latency(
    models: Mapping[str, Measurable | Runner],
    dataset: Dataset,
    *,
    baseline: str | None = None,
    rounds: int = ROUNDS,
    throughput_batches: int = THROUGHPUT_BATCHES,
    batch_size: int = BATCH_SIZE,
    budget_seconds: float = BUDGET_SECONDS,
    threads: int | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Time models in turn on the same real sentences.

    Args:
        models: by name; a `Runner` for another runtime than torch.
        dataset: sentences to answer, `text` (and `text_pair`); a seeded sample of them is used.
        baseline: name of the model that speed-ups are relative to; none are taken without it.
        rounds: sentences answered by every model, one at a time, for the latency.
        throughput_batches: batches of similar length answered by every model for the throughput.
        batch_size: sentences in each of these.
        budget_seconds: after so long, either measurement ends early, but not before 20 rounds (2 batches).
        threads: of torch on the CPU; as set now by default.
        seed: of the sample and of the order.

    Returns:
        For each name: `p50_ms`, `p95_ms`, `throughput_examples_per_second`, with a baseline `speedup` and
        `throughput_speedup` with their 95% intervals, and the conditions: runtime, device, threads, instruction sets,
        batch sizes, lengths in tokens, rounds.

    Raises:
        ConfigError: there is nothing to measure, or no model has the baseline's name.
    """
    _check(models, baseline, rounds, throughput_batches, batch_size, len(dataset))
    random = np.random.default_rng(seed)
    sample = dataset.select(random.permutation(len(dataset))[: max(rounds, throughput_batches * batch_size)].tolist())
    load = load_average()
    with _quiet(models, threads):
        runners = [each if isinstance(each, Runner) else torch_runner(each) for each in models.values()]
        features = [_featurized(sample, each) for each in runners]
        singles = _plan(features[0].lengths, 1, rounds, random)
        grouped = _plan(features[0].lengths, batch_size, throughput_batches, random)
        one = _time(runners, features, singles, MIN_ROUNDS, budget_seconds, random)
        many = _time(runners, features, grouped, 2, budget_seconds, random)
        used = torch.get_num_threads()
    rows = {}
    for place, (name, runner) in enumerate(zip(models, runners, strict=True)):
        lengths = features[place].lengths[np.concatenate(singles[: len(one)])]
        rows[name] = {
            **_conditions(runner, lengths, used),
            "load_before": load,
            **_numbers(one[:, place], many[:, place], batch_size),
        }
        if baseline is not None:
            teacher = list(models).index(baseline)
            rows[name] |= _speedups(one[:, teacher] / one[:, place], many[:, teacher] / many[:, place], baseline, seed)
    return rows


def _featurized(sample: Dataset, runner: Runner) -> Features:
    """Return the rows that are timed: texts, parts of sentences, or windows of a usual length."""
    longest = min(runner.max_length, WINDOW) if "question" in sample.column_names else runner.max_length
    return featurize(sample, runner.tokenizer, max_length=longest)


def _check(
    models: Mapping[str, object], baseline: str | None, rounds: int, batches: int, batch_size: int, examples: int
) -> None:
    if not models or not examples:
        raise ConfigError(f"measure_latency: got {len(models)} models and {examples} examples, needed is one of each.")
    if baseline is not None and baseline not in models:
        raise ConfigError(f"measure_latency: baseline is {baseline!r}, allowed are {allowed(models)}.")
    for name, value in (("rounds", rounds), ("throughput_batches", batches), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"measure_latency: {name} is {value}, allowed is a whole number of at least 1.")


@contextlib.contextmanager
def _quiet(models: Mapping[str, Measurable | Runner], threads: int | None) -> Iterator[None]:
    """Put networks in evaluation mode, set the threads, keep the garbage collector out, and restore all three."""
    networks = [each.network for each in models.values() if not isinstance(each, Runner)]
    training, threads_before, collecting = [each.training for each in networks], torch.get_num_threads(), gc.isenabled()
    try:
        for network in networks:
            network.eval()
        if threads is not None:
            torch.set_num_threads(threads)
        gc.collect()
        gc.disable()
        yield
    finally:
        if collecting:
            gc.enable()
        torch.set_num_threads(threads_before)
        for network, mode in zip(networks, training, strict=True):
            network.train(mode)


def _plan(
    lengths: npt.NDArray[np.int64], batch_size: int, batches: int, random: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Return so many batches of examples of similar length, beginning anew where the examples do not suffice."""
    wanted = np.resize(np.arange(len(lengths)), batches * batch_size)
    wanted = wanted[np.argsort(lengths[wanted], kind="stable")]
    parts = np.split(wanted, batches)
    return [parts[place] for place in random.permutation(batches)]  # shuffled: the budget may end them early


def _time(
    runners: Sequence[Runner],
    features: Sequence[Features],
    plan: Sequence[npt.NDArray[np.int64]],
    least: int,
    budget: float,
    random: np.random.Generator,
) -> Seconds:
    """Return the seconds of each round and model, (rounds, models); the plan may be cut short by the budget."""
    for rows in plan[: least // 2]:  # warm-up: allocators, kernels and caches
        for runner, tokens in zip(runners, features, strict=True):
            runner.call(_inputs(tokens, rows, runner.device))
    result: list[list[float]] = []
    started = time.perf_counter()
    for rows in plan:
        if len(result) >= least and time.perf_counter() - started > budget:
            break
        batches = [_inputs(tokens, rows, runner.device) for runner, tokens in zip(runners, features, strict=True)]
        taken = [0.0] * len(runners)
        for place in random.permutation(len(runners)).tolist():
            before = time.perf_counter()
            runners[place].call(batches[place])
            taken[place] = time.perf_counter() - before
        result.append(taken)
    return np.asarray(result, dtype=np.float64)


def _inputs(features: Features, rows: npt.NDArray[np.int64], device: str) -> Batch:
    collated = features.collate(rows)
    return {name: collated[name].to(device) for name in INPUTS}


def _conditions(runner: Runner, lengths: npt.NDArray[np.int64], threads: int) -> dict[str, Any]:
    return {
        "runtime": runner.runtime,
        "device": runner.device,
        "threads": threads,
        "cores": usable_cores(),
        "isa": isa_flags(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "timed": "forward pass, without tokenization",
        "batch": 1,
        "length": int(np.median(lengths)),
        "length_p95": int(np.percentile(lengths, 95)),
        "rounds": len(lengths),
    }


def _numbers(one: Seconds, many: Seconds, batch_size: int) -> dict[str, Any]:
    return {
        "p50_ms": float(1000 * np.median(one)),
        "p95_ms": float(1000 * np.percentile(one, 95)),
        "throughput_examples_per_second": float(len(many) * batch_size / many.sum()),
        "throughput_batch": batch_size,
        "throughput_batches": len(many),
    }


def _speedups(one: Seconds, many: Seconds, baseline: str, seed: int) -> dict[str, Any]:
    """Return the medians of the ratios within rounds, (rounds,) each, and their intervals."""
    return {
        "baseline": baseline,
        "speedup": float(np.median(one)),
        "speedup_interval": list(bootstrap_interval(np.median, one, seed=seed)),
        "throughput_speedup": float(np.median(many)),
        "throughput_speedup_interval": list(bootstrap_interval(np.median, many, seed=seed)),
    }
