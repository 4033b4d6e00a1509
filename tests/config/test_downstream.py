"""The `downstream:` part of a run's file."""

from __future__ import annotations

import pytest

from bertcompress.config import load_config, parse_config, schema
from bertcompress.data.yaml_positions import ConfigFileError

RUN = """
task: {kind: unlabelled, train: texts.txt}
teacher: {model: minilm-l6, epochs: 0}
compress: [{method: extract_then_distill, num_layers: 3}]
"""
GOOD = "downstream: {tasks: [sst2, mrpc], epochs: 2, grid: {learning_rate: [1e-4, 5e-5]}, models: last, seeds: [4]}"


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.txt").write_text("a text\n")
    return tmp_path


def test_fields_of_the_fine_tuning_stand_beside_its_own(texts):
    config = parse_config(RUN + GOOD, folder=texts)
    found = config.downstream
    assert (found.tasks, found.models, found.seeds) == (("sst2", "mrpc"), "last", (4,))
    assert found.fine_tune.epochs == 2
    assert found.points() == [{"learning_rate": 1e-4}, {"learning_rate": 5e-5}]
    assert config.evaluate == ("efficiency",)
    assert parse_config(config.to_yaml()) == config


def test_files_of_ones_own_are_found_beside_the_configuration(texts):
    (texts / "own.yaml").write_text("{name: own, kind: classification, train: own.csv, text: text, label: label}\n")
    (texts / "own.csv").write_text("text,label\na,b\n")
    (texts / "run.yaml").write_text(RUN + "downstream: {tasks: [own.yaml]}\n")
    assert load_config(texts / "run.yaml").downstream.tasks == (str(texts / "own.yaml"),)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("[sst2]", "downstream: got ['sst2'], allowed is a mapping such as {tasks: [sst2, mrpc]"),
        ("{}", "downstream.tasks: got no 'tasks'"),
        ("{tasks: sst2}", "downstream.tasks: got 'sst2' (text), allowed is a list"),
        ("{tasks: [sst3]}", "downstream.tasks.0: got 'sst3', did you mean 'sst2'?"),
        ("{tasks: [sst2, movie-reviews-text]}", "downstream.tasks.1: got a task of the kind 'unlabelled', allowed are"),
        ("{tasks: [stsb-embedding]}", "downstream.tasks.0: got a task of the kind 'embedding', allowed are"),
        ("{tasks: [sst2], seed: 3}", "downstream.seed: got the unknown key 'seed', did you mean 'seeds'?"),
        ("{tasks: [sst2], models: first}", "downstream.models: got 'first', allowed are 'all', 'last'"),
        ("{tasks: [sst2], learning_rate: 0}", "downstream.learning_rate: got 0, allowed is a finite number above 0"),
        ("{tasks: [sst2], grid: {learning_rat: [1]}}", "downstream.grid.learning_rat: got 'learning_rat', allowed are"),
        ("{tasks: [sst2], grid: {learning_rate: 1}}", "downstream.grid.learning_rate: got 1, allowed is a list"),
        ("{tasks: [sst2], grid: {learning_rate: [0]}}", "downstream.grid: learning_rate: got 0, allowed is a finite"),
        ("{tasks: [sst2], seeds: [1, 1]}", "downstream.seeds: got [1, 1], allowed are different whole numbers"),
    ],
)
def test_wrong_ones_are_refused_with_their_line(part, says, texts):
    with pytest.raises(ConfigFileError) as caught:
        parse_config(f"{RUN}downstream: {part}", folder=texts)
    assert any(str(problem).startswith(f"config:5: {says}") for problem in caught.value.problems), str(caught.value)


def test_text_without_labels_needs_downstream_tasks_to_be_judged_by(texts):
    with pytest.raises(ConfigFileError, match="there is nothing to judge, unless models are fine-tuned on other tasks"):
        parse_config(RUN, folder=texts)
    with pytest.raises(ConfigFileError, match=r"evaluate\.0: got 'accuracy', allowed are 'efficiency'"):
        parse_config(f"{RUN}{GOOD}\nevaluate: [accuracy]", folder=texts)


def test_editors_know_all_of_its_names():
    part = schema()["$defs"]["downstream"]
    assert part["required"] == ["tasks"]
    assert {"tasks", "models", "grid", "seeds", "max_examples", "epochs", "learning_rate"} <= part["properties"].keys()
    assert not {"seed", "trackers", "fine_tune", "method"} & part["properties"].keys()
    assert "learning_rate" in part["properties"]["grid"]["properties"]
    assert all("description" in rule for rule in part["properties"].values())
