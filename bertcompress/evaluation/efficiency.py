"""How fast models answer, measured against each other: latency, throughput and speed-up on real examples.

All models are timed in turn, in a seeded random order within each round, on the same example; so what disturbs the
machine disturbs all of them, and a speed-up is the median of ratios taken within rounds, with a bootstrap interval,
never a ratio of two separate runs. Latency is that of one example at its own length; throughput that of batches of
32 examples of similar length. Both are of the forward pass, as tokenization costs every model the same.

An example is answered once all its rows are: the parts of a long sentence, the windows over a context, the two texts
of an embedded pair. How many there are depends on the model's tokenizer and length, so models are only comparable by
the example.
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
from bertcompress.data.tokenize import ranges
from bertcompress.errors import ConfigError, allowed
from bertcompress.evaluation.hardware import isa_flags, load_average, usable_cores
from bertcompress.evaluation.intervals import bootstrap_interval
from bertcompress.model import WINDOW

if TYPE_CHECKING:
    from datasets import Dataset

    from bertcompress.encoder.spec import EncoderSpec

Batch: TypeAlias = dict[str, torch.Tensor]
Seconds: TypeAlias = npt.NDArray[np.float64]
Numbers: TypeAlias = npt.NDArray[np.int64]

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

    @property
    def spec(self) -> EncoderSpec:
        """The description of the network."""


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
        kind: "embedding" if it reads the texts of a pair apart; everything else is told by the data set's columns.
    """

    call: Callable[[Batch], object]
    tokenizer: Any
    max_length: int
    runtime: str = "torch"
    device: str = "cpu"
    kind: str | None = None


@dataclass(frozen=True)
class _Reader:
    """A runner with the rows that it reads, and where those of each example begin, (examples + 1,)."""

    runner: Runner
    features: Features
    begins: npt.NDArray[np.int64]

    def rows(self, examples: Numbers) -> Numbers:
        """Return how many rows each of some examples has."""
        return self.begins[examples + 1] - self.begins[examples]

    def tokens(self, examples: Numbers) -> Numbers:
        """Return how many tokens the rows of each of some examples have together."""
        ends = self.features.offsets[self.begins]
        return np.asarray(ends[examples + 1] - ends[examples])

    def batches(self, examples: Numbers, most: int) -> list[Batch]:
        """Return all rows of some examples, in several batches of similar length where they are more than `most`."""
        rows = ranges(self.begins[examples], self.rows(examples))
        parts = [rows]
        if len(rows) > most:
            rows = rows[np.argsort(self.features.lengths[rows], kind="stable")]
            parts = np.array_split(rows, -(-len(rows) // most))
        collated = [self.features.collate(part) for part in parts]
        return [{name: each[name].to(self.runner.device) for name in INPUTS} for each in collated]

    def answer(self, batches: Sequence[Batch]) -> None:
        """Answer them all, one after the other."""
        for batch in batches:
            self.runner.call(batch)


def torch_runner(model: Measurable) -> Runner:
    """Return the model as a runner; on a GPU it waits for the answer."""
    network = model.network
    device = next(iter(network.state_dict().values())).device  # int8 networks may have no parameters

    def call(batch: Batch) -> None:
        with torch.inference_mode():
            network(**batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    kind = "embedding" if model.spec.head.task == "none" else None  # as Model.featurize
    runtime = getattr(model, "runtime", "torch")  # an exported model says what runs it
    return Runner(call, model.tokenizer, model.max_length, runtime, str(device), kind)


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
    """Time models in turn on the same real examples, each with all the rows that a model makes of it.

    Args:
        models: by name; a `Runner` for another runtime than torch.
        dataset: examples of any kind of task; a seeded sample of them is used.
        baseline: name of the model that speed-ups are relative to; none are taken without it.
        rounds: examples answered by every model, one at a time, for the latency.
        throughput_batches: batches of similar length answered by every model for the throughput.
        batch_size: examples in each of these; one forward takes so many rows, or 32 if that is more.
        budget_seconds: after so long, either measurement ends early, but not before 20 rounds (2 batches).
        threads: of torch on the CPU; as set now by default.
        seed: of the sample and of the order.

    Returns:
        For each name: `p50_ms`, `p95_ms`, `throughput_examples_per_second`, with a baseline `speedup` and
        `throughput_speedup` with their 95% intervals, and the conditions: runtime, device, threads, instruction sets,
        batch sizes, `length` and `length_p95` in tokens of an example (in all its rows), rounds. Where examples have
        other than one row, `rows_per_example`, their mean number.

    Raises:
        ConfigError: there is nothing to measure, or no model has the baseline's name.
    """
    _check(models, baseline, rounds, throughput_batches, batch_size, len(dataset))
    random = np.random.default_rng(seed)
    sample = dataset.select(random.permutation(len(dataset))[: max(rounds, throughput_batches * batch_size)].tolist())
    load = load_average()
    with _quiet(models, threads):
        readers = [_reader(sample, each) for each in models.values()]
        tokens = readers[0].tokens(np.arange(len(sample)))
        singles = _plan(tokens, 1, rounds, random)
        grouped = _plan(tokens, batch_size, throughput_batches, random)
        most = max(batch_size, BATCH_SIZE)
        one = _time(readers, singles, most, MIN_ROUNDS, budget_seconds, random)
        many = _time(readers, grouped, most, 2, budget_seconds, random)
        used = torch.get_num_threads()
    rows = {}
    timed = np.concatenate(singles[: len(one)])
    for place, (name, reader) in enumerate(zip(models, readers, strict=True)):
        rows[name] = {
            **_conditions(reader, timed, used),
            "load_before": load,
            **_numbers(one[:, place], many[:, place], batch_size),
        }
        if baseline is not None:
            teacher = list(models).index(baseline)
            rows[name] |= _speedups(one[:, teacher] / one[:, place], many[:, teacher] / many[:, place], baseline, seed)
    return rows


def _reader(sample: Dataset, model: Measurable | Runner) -> _Reader:
    """Tokenize the sample as the model reads it: texts, parts of sentences, or windows of a usual length."""
    runner = model if isinstance(model, Runner) else torch_runner(model)
    longest = min(runner.max_length, WINDOW) if "question" in sample.column_names else runner.max_length
    features = featurize(sample, runner.tokenizer, max_length=longest, kind=runner.kind)
    return _Reader(runner, features, np.searchsorted(features.examples, np.arange(len(sample) + 1)).astype(np.int64))


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


def _plan(tokens: Numbers, batch_size: int, batches: int, random: np.random.Generator) -> list[Numbers]:
    """Return so many batches of examples of similar length, beginning anew where the examples do not suffice."""
    wanted = np.resize(np.arange(len(tokens)), batches * batch_size)
    wanted = wanted[np.argsort(tokens[wanted], kind="stable")]
    parts = np.split(wanted, batches)
    return [parts[place] for place in random.permutation(batches)]  # shuffled: the budget may end them early


def _time(
    readers: Sequence[_Reader],
    plan: Sequence[Numbers],
    most: int,
    least: int,
    budget: float,
    random: np.random.Generator,
) -> Seconds:
    """Return the seconds of each round and model, (rounds, models); the plan may be cut short by the budget."""
    for examples in plan[: least // 2]:  # warm-up: allocators, kernels and caches
        for reader in readers:
            reader.answer(reader.batches(examples, most))
    result: list[list[float]] = []
    started = time.perf_counter()
    for examples in plan:
        if len(result) >= least and time.perf_counter() - started > budget:
            break
        batches = [reader.batches(examples, most) for reader in readers]
        taken = [0.0] * len(readers)
        for place in random.permutation(len(readers)).tolist():
            before = time.perf_counter()
            readers[place].answer(batches[place])
            taken[place] = time.perf_counter() - before
        result.append(taken)
    return np.asarray(result, dtype=np.float64)


def _conditions(reader: _Reader, examples: Numbers, threads: int) -> dict[str, Any]:
    tokens, rows = reader.tokens(examples), reader.rows(examples)
    several = bool((rows != 1).any())
    mean = float(rows.mean())
    whole = f" of all rows of an example ({mean:.2f} on average)" if several else ""
    return {
        "runtime": reader.runner.runtime,
        "device": reader.runner.device,
        "threads": threads,
        "cores": usable_cores(),
        "isa": isa_flags(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "timed": f"forward pass{whole}, without tokenization",
        "batch": 1,
        "length": int(np.median(tokens)),
        "length_p95": int(np.percentile(tokens, 95)),
        **({"rows_per_example": mean} if several else {}),
        "rounds": len(examples),
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
