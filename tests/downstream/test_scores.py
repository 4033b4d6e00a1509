"""Models fine-tuned on other tasks: what is chosen, what is reported, and what is never done twice."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from bertcompress.compressors import FineTune, PostTrainingQuantization
from bertcompress.data.tasks import Task
from bertcompress.downstream import scores
from bertcompress.downstream.scores import downstream_scores, load_tasks
from bertcompress.downstream.settings import Downstream
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.errors import ConfigError
from bertcompress.evaluation.judges import judge_for
from bertcompress.model import Model
from bertcompress.report.downstream import cells, chosen_rows, heads, notes
from bertcompress.report.runs import Entry
from bertcompress.training.checkpoint import Checkpoints
from bertcompress.training.session import Session

from ..compressors.conftest import make_examples

TUNING = FineTune(epochs=1, batch_size=16, learning_rate=2e-3, precision="fp32")


@pytest.fixture(scope="module")
def letters():
    train, validation, test = (make_examples(count, seed) for seed, count in enumerate((96, 32, 40)))
    return Task("letters", "classification", ("later", "earlier"), "accuracy", train, validation, test)


@pytest.fixture(scope="module")
def model(letters_tokenizer):
    spec = EncoderSpec(
        Embeddings(len(letters_tokenizer), 16, max_positions=32),
        uniform_layers(2, 16, 2, 32),
        Head("masked_lm"),
        initializer_range=0.2,
    )
    return Model.from_spec(spec, letters_tokenizer, seed=7)


@pytest.fixture
def count(monkeypatch):
    """How many fine-tunings were done."""
    done = []
    real = scores._Tuner.tuned
    monkeypatch.setattr(scores._Tuner, "tuned", lambda *given: (done.append(given[2]), real(*given))[1])
    return done


def settings_of(**changes):
    return Downstream(**{"tasks": ["letters"], "seeds": (3, 0), "fine_tune": TUNING, **changes})


def test_scores_are_those_of_fine_tuning_by_hand(model, letters):
    found = downstream_scores(model, settings_of(), [letters])["letters"]
    assert found["seeds"] == [3, 0]
    assert found["tried"] == []
    assert found["choosing_seed"] is None
    for place, seed in enumerate((3, 0)):
        tuned = dataclasses.replace(TUNING, seed=seed).compress(model.for_task(letters, seed=seed), letters)
        expected = judge_for(letters, letters.test).scores(tuned.predict(letters.test))
        assert {name: values[place] for name, values in found["scores"].items()} == expected
    assert (found["split"], found["metric"], found["examples"]) == ("test", "accuracy", {"train": 96, "test": 40})


def test_the_model_is_left_as_it_was(model, letters):
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    downstream_scores(model, settings_of(seeds=[0]), [letters])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())


def test_the_best_of_the_grid_on_validation_is_trained_with_every_seed(model, letters, monkeypatch):
    done = []

    def tuned(tuner, task, tuning, work):
        done.append(tuning)
        good = tuning.learning_rate == 1e-2 and tuning.batch_size == 8
        return {"validation": 0.9 if good else 0.5, "scores": {"accuracy": 0.1 * tuning.seed}, "seconds": 1.0}

    monkeypatch.setattr(scores._Tuner, "tuned", tuned)
    settings = settings_of(grid={"learning_rate": [1e-6, 1e-2], "batch_size": [32, 8]})
    found = downstream_scores(model, settings, [letters])["letters"]
    assert len(done) == settings.fine_tunings() == 4 + 2
    assert found["choosing_seed"] == 1  # not among those reported
    assert [each.seed for each in done] == [1, 1, 1, 1, 3, 0]
    assert [each["score"] for each in found["tried"]] == [0.5, 0.5, 0.5, 0.9]
    assert [(each.learning_rate, each.batch_size) for each in done[4:]] == [(1e-2, 8), (1e-2, 8)]
    assert (found["settings"]["learning_rate"], found["settings"]["batch_size"]) == (1e-2, 8)
    assert {"seed", "trackers"} & found["settings"].keys() == set()
    assert found["scores"] == {"accuracy": [pytest.approx(0.3), 0.0]}


def test_equal_scores_choose_the_first_of_the_grid(model, letters):
    settings = settings_of(grid={"learning_rate": [1e-9, 1e-10]}, seeds=[0])
    found = downstream_scores(model, settings, [letters])["letters"]
    assert found["tried"][0]["score"] == found["tried"][1]["score"]
    assert found["settings"]["learning_rate"] == 1e-9


def test_no_fine_tuning_is_done_twice(model, letters, count, tmp_path):
    first = downstream_scores(model, settings_of(), [letters], folder=tmp_path)
    assert len(count) == 2
    assert downstream_scores(model, settings_of(), [letters], folder=tmp_path) == first
    assert len(count) == 2
    downstream_scores(model, settings_of(seeds=(0, 3, 5)), [letters], folder=tmp_path)
    assert len(count) == 3  # the new seed alone
    other = settings_of(fine_tune=dataclasses.replace(TUNING, learning_rate=1e-3))
    downstream_scores(model, other, [letters], folder=tmp_path)
    assert len(count) == 5
    changed = model.copy()
    with torch.no_grad():
        changed.network.encoder.embeddings.word.weight[7] += 1
    downstream_scores(changed, settings_of(), [letters], folder=tmp_path)
    assert len(count) == 7  # another model
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_else_lies_in_the_folder_is_left_alone(model, letters, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    downstream_scores(model, settings_of(seeds=[0]), [letters], folder=tmp_path)
    assert (tmp_path / "other" / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_choice_whose_score_is_no_number_is_not_taken(model, letters, monkeypatch):
    def tuned(tuner, task, tuning, work):
        validation = None if tuning.learning_rate == 1.0 else 0.5
        return {"validation": validation, "scores": {"accuracy": 0.5}, "seconds": 1.0}

    monkeypatch.setattr(scores._Tuner, "tuned", tuned)
    found = downstream_scores(model, settings_of(grid={"learning_rate": [1.0, 1e-3]}), [letters])["letters"]
    assert found["settings"]["learning_rate"] == 1e-3
    entry = Entry("run", {"name": "0-teacher", "downstream": {"letters": found}}, {}, None)
    assert chosen_rows([entry]) == [("0-teacher", "letters", "learning rate 0.001: 50.0", "learning rate 1.0: failed")]


def test_a_damaged_record_is_made_again_with_the_same_result(model, letters, tmp_path):
    first = downstream_scores(model, settings_of(seeds=[0]), [letters], folder=tmp_path)["letters"]["scores"]
    (kept,) = tmp_path.iterdir()
    for damage in ("{", "[]", json.dumps({"scores": {}})):
        kept.write_text(damage)
        again = downstream_scores(model, settings_of(seeds=[0]), [letters], folder=tmp_path)
        assert again["letters"]["scores"] == first


def test_an_interrupted_fine_tuning_ends_with_the_same_scores(model, letters, tmp_path, monkeypatch):
    expected = downstream_scores(model, settings_of(seeds=[0]), [letters])["letters"]["scores"]
    real, left = Session.step, [4]

    def step(session):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return real(session)

    monkeypatch.setattr(Checkpoints, "due", lambda saver: True)
    monkeypatch.setattr(Session, "step", step)
    with pytest.raises(KeyboardInterrupt):
        downstream_scores(model, settings_of(seeds=[0]), [letters], folder=tmp_path)
    assert [path.name for path in tmp_path.rglob("step-*")] == ["step-3"]
    left[0] = 100
    again = downstream_scores(model, settings_of(seeds=[0]), [letters], folder=tmp_path)["letters"]["scores"]
    assert left[0] == 100 - 3  # of six steps, three were done before
    assert again == expected
    assert len(list(tmp_path.iterdir())) == 1


def test_a_quantized_model_is_refused(letters_tokenizer, letters, model):
    quantized = PostTrainingQuantization().compress(model.for_task(letters), None)
    with pytest.raises(ConfigError, match="quantized"):
        downstream_scores(quantized, settings_of(), [letters])


def test_tasks_that_cannot_be_fine_tuned_on_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nab,x\ncd,y\n")
    task = {"name": "few", "kind": "classification", "text": "text", "label": "label", "test": str(tmp_path / "a.csv")}
    with pytest.raises(ConfigError, match=r"task few .* lacks a train split"):
        load_tasks(settings_of(tasks=[task]))
    both = {**task, "train": str(tmp_path / "a.csv"), "validation": str(tmp_path / "a.csv")}
    with pytest.raises(ConfigError, match="two tasks have the name 'few'"):
        load_tasks(settings_of(tasks=[both, both]))


def test_fewer_examples_are_the_same_ones_for_all(tmp_path):
    lines = "".join(f"{word},{'xy'[place % 2]}\n" for place, word in enumerate("abcdefghijklmnopqrstuvwxyz"))
    (tmp_path / "a.csv").write_text(f"text,label\n{lines}")
    task = {"kind": "classification", "text": "text", "label": "label", "name": "alphabet"}
    task |= {"train": str(tmp_path / "a.csv"), "validation": str(tmp_path / "a.csv")}
    first, second = (load_tasks(settings_of(tasks=[task], max_examples=9))[0] for _ in range(2))
    assert len(first.train) == 9
    assert first.train["text"][:] == second.train["text"][:]
    assert len(first.validation) == 26


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": "sst2"}, "Downstream.tasks: got 'sst2', allowed is a list"),
        ({"tasks": []}, "Downstream.tasks"),
        ({"models": []}, "Downstream.models: got none"),
        ({"models": "first"}, "Downstream.models: got 'first', allowed are 'all', 'last'"),
        ({"seeds": []}, "Downstream.seeds"),
        ({"seeds": [0, 0]}, "Downstream.seeds"),
        ({"seeds": [-1]}, "Downstream.seeds"),
        ({"max_examples": 0}, "Downstream.max_examples"),
        ({"fine_tune": FineTune(epochs=0)}, "Downstream.epochs: got 0"),
        ({"grid": {"seed": [1]}}, "Downstream.grid.seed: got 'seed', allowed are 'epochs'"),
        ({"grid": {"epochs": 3}}, "Downstream.grid.epochs: got 3, allowed is a list"),
        ({"grid": {"epochs": []}}, "Downstream.grid.epochs"),
        ({"grid": {"learning_rate": [1e-4, -1]}}, "Downstream.grid: learning_rate: got -1"),
    ],
)
def test_impossible_settings_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        settings_of(**changes)


def test_models_are_chosen_by_name():
    names = ["0-teacher", "1-distill", "2-distill"]
    assert settings_of().chosen_models(names) == names
    assert settings_of(models="last").chosen_models(names) == ["2-distill"]
    assert settings_of(models=["2-distill", "0-teacher"]).chosen_models(names) == ["0-teacher", "2-distill"]
    with pytest.raises(ConfigError, match="got '3-distill', allowed are '0-teacher', '1-distill', '2-distill'"):
        settings_of(models=["3-distill"]).chosen_models(names)


def entry_of(name, **tasks):
    found = {
        task: {"metric": "accuracy", "split": split, "scores": {"accuracy": values}, "tried": []}
        for task, (split, values) in tasks.items()
    }
    return Entry("run", {"name": name, "downstream": found}, {}, None)


def test_means_over_different_tasks_are_not_set_side_by_side():
    entries = [
        entry_of("both", sst2=("validation", [0.8, 0.9]), mrpc=("test", [0.5])),
        entry_of("one", sst2=("validation", [0.7])),
        entry_of("other split", sst2=("test", [0.6])),
    ]
    columns = heads(entries)
    assert columns == [
        ("sst2", "accuracy, validation"), ("mrpc", "accuracy, test"), ("sst2", "accuracy, test"), ("Mean", "3 tasks"),
    ]  # fmt: skip
    assert cells(entries[0], columns) == [
        ("85.0", "80.0 to 90.0"),
        ("50.0", "one seed"),
        ("\u2013", ""),
        ("\u2013", ""),
    ]
    assert cells(entries[0], heads(entries[:1]))[-1] == ("67.5", "")


def test_notes_tell_seeds_examples_and_what_was_chosen_where(model, letters, monkeypatch):
    monkeypatch.setattr(
        scores._Tuner, "tuned", lambda *_: {"validation": 0.5, "scores": {"accuracy": 0.5}, "seconds": 1.0}
    )
    plain = downstream_scores(model, settings_of(), [letters])
    assert notes([Entry("run", {"downstream": plain}, {}, None)]) == ["Seeds: 3 and 0. Training examples: letters 96."]
    bare = dataclasses.replace(letters, test=None)
    chosen = downstream_scores(model, settings_of(grid={"learning_rate": [1e-3, 1e-4]}), [bare])
    told = notes([Entry("run", {"downstream": chosen}, {}, None)])
    assert told[1] == "Settings were chosen on validation, with seed 1, which is not reported."
    assert told[2].startswith("letters: scored on the split that the epoch and the settings were chosen on")
