"""Reading a suite's file: what it means, and how every mistake is told."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bertcompress.config import ConfigFileError, parse_config
from bertcompress.errors import ConfigError
from bertcompress.suite import load_suite, parse_suite
from bertcompress.suite.config import only_of

GLUE_YAML = Path(__file__).parents[2] / "configs" / "glue.yaml"
NINE = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
RECIPE = """\
teacher: {model: minilm-l6, epochs: 3}
compress:
  - {method: extract_then_distill, num_layers: 3, objective: {soft: 1, hidden: 1}}
  - {method: post_training_quantization}
evaluate: [accuracy, loyalty]
"""

# what is added to the recipe -> (line, key path, what was got, what is allowed)
WRONG: dict[str, tuple[int, str, str, str]] = {
    "": (1, "tasks", "got no 'tasks'", "allowed is a list of tasks, or a mapping from tasks to changes"),
    "tasks: rte": (6, "tasks", "got 'rte'", "allowed is a list of tasks such as [cola, rte]"),
    "tasks: []": (6, "tasks", "got []", "allowed is a list of tasks"),
    "tasks: [rte, 7]": (6, "tasks.1", "got 7", "a task that is written out stands in a mapping"),
    "tasks: [rte, mnly]": (6, "tasks.1", "got 'mnly', did you mean 'mnli'?", "Allowed are movie-reviews"),
    "tasks: [rte, rte]": (6, "tasks.1", "got 'rte', whose folder would be 'rte', twice", "allowed is once"),
    "tasks: [rte, own/none.yaml]": (6, "tasks.1", "got 'own/none.yaml', which does not exist", "a task file"),
    "tasks: ['..']": (6, "tasks.0", "got '..'", "allowed are names of letters"),
    "tasks: {rte: 5}": (6, "tasks.rte", "got 5", "allowed is a mapping of what to change"),
    "tasks: {rte: {teachr: {}}}": (6, "tasks.rte.teachr", "did you mean 'teacher'?", "Allowed are task, teacher"),
    "tasks:\n  rte:\n    teacher: {epochs: -1}": (8, "tasks.rte.teacher.epochs", "got -1", "at least 0"),
    "tasks:\n  rte:\n    compress: {2: {epochs: 1}}": (8, "tasks.rte.compress.2", "got the step '2'", "0 to 1"),
    "tasks:\n  rte:\n    compress:\n      0: {num_layers: 9}": (
        9,
        "tasks.rte.compress.0.num_layers",
        "got 9",
        "allowed are 1 to 6",
    ),
    "tasks: {stsb: {evaluate: [loyality]}}": (6, "tasks.stsb.evaluate.0", "did you mean 'loyalty'?", "'efficiency'"),
    "tasks: [rte]\nseed: 3": (7, "seed", "did you mean 'seeds'?", "Allowed are name, tasks, seeds"),
    "tasks: [rte]\nseeds: 3": (7, "seeds", "got 3", "allowed is a list of whole numbers"),
    "tasks: [rte]\nseeds: []": (7, "seeds", "got []", "at least one seed"),
    "tasks: [rte]\nseeds: [1, 0, 1]": (7, "seeds.2", "got the seed 1 twice", "allowed is once"),
    "tasks: [rte]\nseeds: [-1]": (7, "seeds.0", "got -1", "allowed is a whole number from 0"),
    "tasks: {rte: {teacher: {seed: 1}}}": (6, "tasks.rte.teacher.seed", "got 1", "the suite's `seeds`"),
    "tasks: [rte]\nstart_from: {rte: mnli}": (7, "start_from.rte", "got 'mnli'", "allowed are 'rte'"),
    "tasks: [rte]\nstart_from: {cola: rte}": (7, "start_from.cola", "got 'cola'", "allowed are 'rte'"),
    "tasks: [rte]\nstart_from: {rte: rte}": (7, "start_from.rte", "rte would start from rte", "no circle"),
    "tasks: [rte]\nskip_missing: yes": (7, "skip_missing", "got 'yes' (text)", "allowed is true or false"),
    "tasks: [rte]\nwnli_in_average: 1": (7, "wnli_in_average", "got 1", "allowed is true or false"),
    "tasks: [rte]\nexport: []": (7, "export", "got the unknown key 'export'", "Allowed are name, tasks"),
}


@pytest.mark.parametrize("added", WRONG)
def test_a_wrong_file_is_refused_with_its_line(added, tmp_path):
    line, path, got, allowed = WRONG[added]
    file = tmp_path / "wrong.yaml"
    file.write_text(RECIPE + added + "\n")
    with pytest.raises(ConfigFileError) as caught:
        load_suite(file)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{file}:{line}: {path}: ")
    assert got in problem.message
    assert allowed in problem.message


def test_a_mistake_in_the_recipe_is_told_once_for_all_tasks():
    with pytest.raises(ConfigFileError) as caught:
        parse_suite(RECIPE.replace("epochs: 3", "epochs: -3") + "tasks: [rte, cola, mrpc]\n")
    assert [problem.path for problem in caught.value.problems] == ["teacher.epochs"]


def test_circles_are_refused_wherever_they_are_entered():
    text = RECIPE + "tasks: [rte, cola, mrpc]\nstart_from: {rte: cola, cola: mrpc, mrpc: cola}\n"
    with pytest.raises(ConfigFileError) as caught:
        parse_suite(text)
    assert [problem.path for problem in caught.value.problems] == ["start_from.cola", "start_from.mrpc"]
    assert "cola would start from mrpc from cola" in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- rte\n"])
def test_what_is_no_mapping_is_refused(text):
    with pytest.raises(ConfigFileError, match="allowed is a mapping with at least tasks and teacher"):
        parse_suite(text)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_run_is_the_recipe_with_the_tasks_changes_as_if_written_out(seed):
    change = {"teacher": {"epochs": 5}, "compress": {0: {"objective": "hidden"}}}
    suite = parse_suite(RECIPE + yaml.safe_dump({"tasks": {"rte": change, "cola": None}, "seeds": [seed]}))
    by_hand = yaml.safe_load(RECIPE) | {"task": "rte", "seed": seed, "name": f"suite: rte, seed {seed}"}
    plain = parse_config(yaml.safe_dump({**by_hand, "task": "cola", "name": f"suite: cola, seed {seed}"}))
    by_hand["teacher"]["epochs"] = 5
    by_hand["compress"][0]["objective"] = "hidden"  # whole, not merged into the recipe's
    assert suite.run_of("rte", seed) == parse_config(yaml.safe_dump(by_hand))
    assert suite.run_of("cola", seed) == plain


def test_a_list_of_steps_takes_the_place_of_the_recipes():
    suite = parse_suite(RECIPE + "tasks: {rte: {compress: [{method: distill}]}, cola: {compress: []}, mrpc: }\n")
    methods = {name: [step.method for step in run.compress] for name, run in suite.tasks.items()}
    recipe = ["extract_then_distill", "post_training_quantization"]
    assert methods == {"rte": ["distill"], "cola": [], "mrpc": recipe}


def test_a_task_may_be_evaluated_otherwise():
    suite = parse_suite(RECIPE + "tasks: {rte: {evaluate: [accuracy]}, stsb: }\n")
    found = {name: run.evaluate for name, run in suite.tasks.items()}
    assert found == {"rte": ("accuracy",), "stsb": ("accuracy", "loyalty")}


def test_a_task_of_ones_own_is_named_after_its_file(tmp_path):
    (tmp_path / "data.csv").write_text("text,label\na,1\nb,0\n")
    (tmp_path / "tickets.yaml").write_text("kind: classification\ntrain: data.csv\ntext: text\nlabel: label\n")
    suite = parse_suite(RECIPE + "tasks: [tickets.yaml, rte]\n", folder=tmp_path)
    assert list(suite.tasks) == ["tickets", "rte"]
    assert suite.tasks["tickets"].task == str(tmp_path / "tickets.yaml")


def test_values_are_changed_by_overrides():
    suite = parse_suite(
        RECIPE + "tasks: {rte: , mnli: }\n",
        overrides=["teacher.epochs=1", "tasks.mnli.teacher.epochs=2", "seeds=[4]", "start_from={rte: mnli}"],
    )
    assert {name: run.teacher.fine_tune.epochs for name, run in suite.tasks.items()} == {"rte": 1, "mnli": 2}
    assert (suite.seeds, suite.start_from) == ((4,), {"rte": "mnli"})


def test_tasks_come_after_what_they_start_from():
    suite = parse_suite(RECIPE + "tasks: [rte, cola, mnli, mrpc]\nstart_from: {rte: mrpc, mrpc: mnli}\n")
    assert suite.order() == ["mnli", "mrpc", "rte", "cola"]
    assert suite.order(["rte"]) == ["mnli", "mrpc", "rte"]
    assert suite.order(["cola"]) == ["cola"]
    with pytest.raises(ConfigError, match=r"--only: got 'rt', did you mean 'rte'\? allowed are 'rte', 'cola'"):
        suite.order(["rt"])


def test_only_takes_commas_as_well():
    assert only_of(["rte, cola", "mnli"]) == ["rte", "cola", "mnli"]


def test_the_glue_suite_is_whole():
    suite = load_suite(GLUE_YAML, ["start_from={rte: mnli, mrpc: mnli, stsb: mnli}"])
    assert set(suite.tasks) == NINE
    assert suite.seeds == (0, 1, 2)
    assert not suite.skip_missing
    assert not suite.wnli_in_average
    assert all(run.compress[0].num_layers == 3 for run in suite.tasks.values())
    assert "soft" not in suite.tasks["stsb"].compress[0].objective_weights("regression")
    assert dict(load_suite(GLUE_YAML).start_from) == {}


def test_reading_a_suite_imports_no_torch():
    script = (
        "import sys\n"
        "from bertcompress.suite import load_suite\n"
        f"load_suite({str(GLUE_YAML)!r}).order()\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_seeds_change_nothing_but_seeds():
    suite = parse_suite(RECIPE + "tasks: [rte]\nseeds: [1, 2]\n")
    first, second = (suite.run_of("rte", seed) for seed in suite.seeds)
    assert first.compress[0].seed == 1
    assert dataclasses.replace(first.compress[0], seed=2) == second.compress[0]
    assert first.teacher.fine_tune.seed == 1
