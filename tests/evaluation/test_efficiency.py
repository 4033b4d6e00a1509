from __future__ import annotations

import copy
import gc
import json
import string
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from bertcompress.data.base import Task, make_dataset
from bertcompress.data.features import featurize
from bertcompress.encoder.spec import Embeddings, EncoderSpec, uniform_layers
from bertcompress.errors import ConfigError
from bertcompress.evaluation import efficiency
from bertcompress.evaluation.efficiency import Runner, measure_latency
from bertcompress.evaluation.result import Evaluation, ModelResult
from bertcompress.model import Model, head_for


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


LETTERS = string.ascii_lowercase


def words_of(number: int, count: int) -> list[str]:
    """Return words that no other number gives, so that even a part of them tells the number."""
    return [LETTERS[number // 26] + LETTERS[number % 26] + LETTERS[at] * 2 for at in range(count)]


def data_of(kind: str, count: int = 40) -> Dataset:
    """Return examples of different lengths, none twice; some are longer than a row of 24 tokens."""
    texts = [" ".join(words_of(number, 1 + number % 8)) for number in range(2 * count)]
    if kind == "tagging":
        return make_dataset({"words": [words_of(number, 1 + number % 19) for number in range(count)]})
    if kind == "question_answering":
        contexts = [" ".join(words_of(number, 1 + number % 15)) for number in range(count)]
        return make_dataset({"id": [*map(str, range(count))], "question": ["where?"] * count, "context": contexts})
    if kind in ("pair", "embedding"):
        return make_dataset({"text": texts[:count], "text_pair": texts[: count - 1 : -1]})
    return make_dataset({"text": texts[:count]})


def model_of(kind: str, data: Dataset, tokenizer: PreTrainedTokenizerFast, positions: int) -> Model:
    name = "classification" if kind == "pair" else kind
    labels = {"classification": ("no", "yes"), "tagging": ("O", "X")}.get(name, ())
    task = Task("toy", name, labels, "", test=data)
    table = Embeddings(len(tokenizer), 8, max_positions=positions)
    spec = EncoderSpec(table, uniform_layers(1, 8, 1, 16), head_for(task, "tanh"))
    return Model.from_spec(spec, tokenizer, task)


def rows_of(input_ids: torch.Tensor, mask: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(ids[kept.bool()].tolist()) for ids, kept in zip(input_ids, mask, strict=True)]


def examples_of(model: Model, data: Dataset) -> dict[tuple[int, ...], int]:
    """Return the example of every row that `predict` reads; the rows are told apart by their tokens."""
    features = model.predict(data).features
    assert features is not None
    rows = [tuple(features.input_ids[a:b].tolist()) for a, b in pairwise(features.offsets)]
    assert len(set(rows)) == len(rows)
    return dict(zip(rows, features.examples.tolist(), strict=True))


@pytest.mark.parametrize("kind", ["classification", "pair", "regression", "tagging", "question_answering", "embedding"])
def test_models_that_cut_and_tokenize_differently_answer_the_same_examples(
    kind: str, letters_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = data_of(kind)
    doubled = copy.deepcopy(letters_tokenizer)
    doubled.add_tokens([letter * 2 for letter in LETTERS])  # one token here, two there
    models = {"whole": model_of(kind, data, doubled, 64), "cut": model_of(kind, data, letters_tokenizer, 24)}
    answered = {}
    for name, model in models.items():
        known, calls = examples_of(model, data), []
        hook = model.network.register_forward_pre_hook(
            lambda _module, _args, inputs, calls=calls: calls.append(
                rows_of(inputs["input_ids"], inputs["attention_mask"])
            ),
            with_kwargs=True,
        )
        answered[name] = (known, calls, hook)
    found = measure_latency(models, data, rounds=30, throughput_batches=3, batch_size=4, budget_seconds=1e9)
    seen = {}
    for name, (known, calls, hook) in answered.items():
        hook.remove()
        warm = efficiency.MIN_ROUNDS // 2
        units = [*calls[warm : warm + 30], *calls[warm + 30 + 1 :]]  # one batch warms up for the throughput
        seen[name] = [sorted({known[row] for row in unit}) for unit in units]
        assert [len(each) for each in seen[name]] == [1] * 30 + [4] * 3
        every = Counter(known.values())
        for unit, examples in zip(units, seen[name], strict=True):
            assert Counter(known[row] for row in unit) == {number: every[number] for number in examples}
        shares = [len(unit) for unit in units[:30]]
        tokens = [sum(map(len, unit)) for unit in units[:30]]
        assert found[name]["length"] == int(np.median(tokens))
        assert found[name].get("rows_per_example", 1.0) == pytest.approx(np.mean(shares))
    assert seen["whole"] == seen["cut"]
    several = kind in ("tagging", "question_answering", "embedding")
    assert ("rows_per_example" in found["cut"]) == several
    assert (kind == "embedding") == ("rows_per_example" in found["whole"])


def test_what_is_counted_are_examples_and_not_their_rows(
    clock: Clock, letters_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = make_dataset({"text": ["ab cd"] * 40, "text_pair": ["ef gh"] * 40})
    runners = {
        "apart": clock.runner("apart", letters_tokenizer, lambda _: 0.001, kind="embedding"),
        "joined": clock.runner("joined", letters_tokenizer, lambda _: 0.001),
    }
    found = measure_latency(runners, data, baseline="joined", rounds=20, throughput_batches=2, batch_size=8)
    # [CLS] a b c d [SEP] twice, and [CLS] a b c d [SEP] e f g h [SEP] once, one ms a token.
    assert found["apart"]["p50_ms"] == pytest.approx(12.0)
    assert found["apart"]["throughput_examples_per_second"] == pytest.approx(1000 / 12)
    assert (found["apart"]["length"], found["apart"]["rows_per_example"]) == (12, 2.0)
    assert found["joined"]["p50_ms"] == pytest.approx(11.0)
    assert found["apart"]["speedup"] == pytest.approx(11 / 12)
    assert found["apart"]["timed"] == "forward pass of all rows of an example (2.00 on average), without tokenization"
    assert found["joined"]["timed"] == "forward pass, without tokenization"
    assert "rows_per_example" not in found["joined"]
    assert json.dumps(found)


def test_the_table_tells_what_was_timed_of_models_that_read_the_examples_differently(
    clock: Clock, letters_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = make_dataset({"text": ["ab cd"] * 40, "text_pair": ["ef gh"] * 40})
    runners = {
        "apart": clock.runner("apart", letters_tokenizer, lambda _: 0.001, kind="embedding"),
        "joined": clock.runner("joined", letters_tokenizer, lambda _: 0.001),
    }
    latency = measure_latency(runners, data, baseline="joined", rounds=20, throughput_batches=2)
    results = {name: ModelResult(1, 1, 1, 1, 1, 40, measured={"latency": each}) for name, each in latency.items()}
    about = {"name": "toy", "kind": "embedding", "split": "test"}

    def table(name: str, teacher: str | None) -> str:
        return str(Evaluation(about, results[name], results[teacher] if teacher else None, {}, 128, 0))

    alone = table("apart", None)
    assert "Timed in turn: forward pass of all rows of an example (2.00 on average), without tokenization;" in alone
    assert "batch 1, 20 examples of 12 tokens (median; 95% have at most 12); throughput at batches of 32." in alone
    assert "teacher" not in alone
    assert "The teacher reads them as 11 tokens (median; 95% have at most 11)." in table("apart", "joined")
    assert "The teacher reads them as 12 tokens (median; 95% have at most 12) in 2.00 rows (on average)." in table(
        "joined", "apart"
    )
    assert "The teacher reads" not in table("joined", "joined")


def test_an_example_of_many_rows_is_answered_in_several_forwards_that_are_timed_together(
    clock: Clock, letters_tokenizer: PreTrainedTokenizerFast
) -> None:
    context = " ".join(LETTERS * 80)  # far more windows than a forward takes
    data = make_dataset({"question": ["where?"], "context": [context]})
    only = clock.runner("only", letters_tokenizer, lambda _: 0.001)
    found = measure_latency({"only": only}, data, rounds=20, throughput_batches=2, batch_size=1)["only"]
    rows = featurize(data, letters_tokenizer, max_length=32)
    forwards = -(-len(rows) // 32)
    assert forwards > 2
    assert max(shape[0] for _, shape, _ in clock.calls) <= 32
    assert len(clock.calls) == forwards * (10 + 20 + 1 + 2)
    assert sum(content for _, _, content in clock.calls[:forwards]) == rows.input_ids.sum()
    taken = sum(shape[0] * shape[1] for _, shape, _ in clock.calls[:forwards])
    assert found["p50_ms"] == pytest.approx(taken)
    assert found["throughput_examples_per_second"] == pytest.approx(1000 / taken)
    assert found["rows_per_example"] == len(rows)


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
