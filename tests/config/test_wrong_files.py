"""Every way to get a configuration wrong is refused by the command itself, at once, at its line, with the way out."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bertcompress.config import ConfigFileError, load_config

WRONG = Path(__file__).parent / "wrong"
MAX_CPU_SECONDS = 2.0
TRAINING = "epochs, learning_rate, batch_size"

# file -> (line, key path, what was got, what is allowed); the path is empty where no key can be named
EXPECTED: dict[str, tuple[int, str, str, str]] = {
    "alias": (3, "compress.0", "got the alias *one", "allowed are values that are written out"),
    "bool_for_int": (5, "compress.0.num_layers", "got True", "allowed is a whole number or null"),
    "colon_in_value": (1, "task", "got a second ': '", "put a text with a colon in quotes"),
    "duplicate_key": (7, "compress.0.epochs", "got the key 'epochs' twice (first in line 5)", "allowed is once"),
    "empty": (1, "", "got an empty file", "allowed is a mapping with at least task and teacher"),
    "empty_teacher": (2, "teacher", "got nothing", "allowed is a mapping such as {model: minilm-l6, epochs: 2}"),
    "export": (3, "export.1", "got 'tflite'", "'onnx', 'openvino'"),
    "float_for_int": (4, "teacher.batch_size", "got 16.5", "allowed is a whole number"),
    "hidden_size_too_large": (5, "compress.0.hidden_size", "got 768", "allowed are 1 to 384"),
    "infinite_rate": (2, "teacher.learning_rate", "got inf", "allowed is a number; it has to be finite"),
    "learning_rate_text": (4, "teacher.learning_rate", "got '5e-5' (text)", "allowed is a number"),
    "list_at_top": (1, "", "got [{'task': 'movie-reviews'}", "allowed is a mapping with at least task and teacher"),
    "mapping_item_of_wrong_type": (7, "compress.0.mapping.1.1", "got 'four' (text)", "allowed is a whole number"),
    "mapping_of_a_layer_that_does_not_exist": (
        7,
        "compress.0.mapping",
        "got [[1, 2], [2, 4], [3, 9]]: the pair (3, 9) names teacher layer 9",
        "allowed are 0 to 6",
    ),
    "missing_method": (4, "compress.0.method", "got no 'method'", "allowed are fine_tune, distill"),
    "missing_model": (2, "teacher.model", "got no 'model'", "allowed is a folder, minilm-l6"),
    "missing_task": (1, "task", "got no 'task'", "allowed is a task's name, a file, or a mapping"),
    "missing_task_file": (1, "task", "got 'no_such_task.yaml', which does not exist", "allowed is a task's name"),
    "missing_teacher_folder": (
        2,
        "teacher.model",
        "got './no/such/folder', which does not exist",
        "allowed is a folder",
    ),
    "missing_train_file": (
        4,
        "task.train",
        "got 'data/no_such_file.csv', which is no file",
        "allowed are existing files",
    ),
    "more_heads_than_the_teacher": (5, "compress.0.num_heads", "got 13", "allowed are 1 to 12"),
    "more_layers_than_the_teacher": (5, "compress.0.num_layers", "got 7", "allowed are 1 to 6"),
    "negative_epochs": (4, "teacher.epochs", "got -1,", "allowed is a finite number of at least 0"),
    "negative_seed": (3, "seed", "got -1", "allowed is a whole number from 0"),
    "negative_temperature": (5, "compress.0.temperature", "got -2.0", "allowed is a finite number above 0"),
    "negative_weight": (7, "compress.0.objective.hidden", "got -1,", "allowed is a number above 0"),
    "no_metric": (3, "evaluate", "got []", "allowed is a list of at least one of accuracy, loyalty, efficiency"),
    "not_a_list_of_metrics": (3, "evaluate", "got 'accuracy'", "allowed is a list of at least one of accuracy"),
    "not_utf8": (1, "", "got bytes that are not UTF-8", "allowed is text saved as UTF-8"),
    "number_for_text": (1, "name", "got 2024", "allowed is text; put it in quotes"),
    "only_a_comment": (1, "", "got an empty file", "allowed is a mapping"),
    "quantize_then_distil": (5, "compress.1", "got distill at this place", "put quantization last"),
    "quantize_twice": (5, "compress.1", "got post_training_quantization at this place", "put quantization last"),
    "step_is_text": (4, "compress.0", "got 'distill'", "allowed is a mapping with `method:`"),
    "steps_are_a_mapping": (3, "compress", "got a mapping with method", "allowed is a list of steps"),
    "tab_indentation": (3, "teacher", "got a tab in column 1", "allowed are spaces"),
    "tag": (2, "teacher", "python/object/apply:os.system", "allowed are plain values without tags"),
    "task_without_labels": (
        1,
        "task",
        "got a task of the kind 'unlabelled'",
        "allowed are 'classification', 'regression'",
    ),
    "teacher_folder_without_config": (
        2,
        "teacher.model",
        "which has no config.json",
        "allowed is a saved model's folder",
    ),
    "nine_bits": (5, "compress.0.weight_bits", "got 9", "allowed are 1.58 (ternary), 2 to 8, and 32 (float"),
    "two_documents": (3, "", "got a second document", "allowed is one document in a file"),
    "unclosed_bracket": (2, "teacher.model", "got brackets that do not end well", "allowed are {key: value}"),
    "unknown_key": (3, "compres", "did you mean 'compress'?", "Allowed are name, task, teacher, compress, evaluate"),
    "unknown_key_in_step": (5, "compress.0.num_layer", "did you mean 'num_layers'?", f"Allowed are method, {TRAINING}"),
    "unknown_key_in_teacher": (4, "teacher.epoch", "did you mean 'epochs'?", f"Allowed are model, {TRAINING}"),
    "unknown_method": (4, "compress.0.method", "got 'distil', did you mean 'distill'?", "Allowed are 'fine_tune'"),
    "unknown_metric": (3, "evaluate.1", "got 'loyality', did you mean 'loyalty'?", "Allowed are 'accuracy', 'loyalty'"),
    "unknown_objective": (5, "compress.0.objective", "got term 'atention'", "allowed are 'hard', 'soft', 'logits'"),
    "unknown_task": (1, "task", "got 'movie-review', did you mean 'movie-reviews'?", "Allowed are movie-reviews,"),
    "unknown_task_kind": (2, "task.kind", "got 'classificaton'", "allowed is one of 'classification', 'regression'"),
    "unterminated_quote": (1, "name", "got a quote that is never closed", "allowed is text between two quotes"),
    "warmup_of_two": (5, "compress.0.warmup", "got 2,", "allowed is a finite number of at least 0 and at most 1"),
    "wrong_schedule": (2, "teacher.schedule", "got 'linaer'", "allowed are 'linear', 'cosine', 'constant'"),
    "wrong_type": (5, "compress.0.num_layers", "got 'three' (text)", "allowed is a whole number or null"),
    "yes_is_text": (3, "seed", "got 'yes' (text)", "allowed is a whole number or null"),
    "zero_layers": (5, "compress.0.num_layers", "got 0", "allowed is a whole number of at least 1"),
}


def run(path: Path, folder: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run the command in an empty folder; return how it ended, and the processor time it took in seconds."""
    environment = {key: value for key, value in os.environ.items() if key != "BERTCOMPRESS_DATA"}
    environment |= {"HF_HUB_OFFLINE": "1", "BERTCOMPRESS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "bertcompress", "run", str(path), *options]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_wrong_file_is_refused_at_once_with_its_line(name: str, tmp_path: Path) -> None:
    line, path, got, allowed = EXPECTED[name]
    file = WRONG / f"{name}.yaml"
    done, seconds = run(file, tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    start = f"{file}:{line}: {path}: " if path else f"{file}:{line}: got"
    assert done.stderr.startswith(start), done.stderr
    assert done.stderr.count("\n") == 1  # one problem, and no traceback
    assert got in done.stderr
    assert allowed in done.stderr
    assert seconds < MAX_CPU_SECONDS
    assert list(tmp_path.iterdir()) == []


def test_every_wrong_file_is_in_the_table() -> None:
    assert sorted(path.stem for path in WRONG.glob("*.yaml")) == sorted([*EXPECTED, "many_at_once"])


def test_all_problems_of_a_file_are_reported_together(tmp_path: Path) -> None:
    file = WRONG / "many_at_once.yaml"
    done, _ = run(file, tmp_path)
    first, *lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert first == "7 problems:"
    assert [line.removeprefix(f"{file}:").split(": ")[:2] for line in lines] == [
        ["1", "task"],
        ["2", "teacher.epochs"],
        ["2", "teacher.batch_size"],
        ["5", "compress.0.temperature"],
        ["6", "compress.0.lerning_rate"],
        ["7", "compress.1.method"],
        ["8", "evaluate.0"],
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    done, _ = run(tmp_path / "nowhere.yaml", tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr == f"{tmp_path / 'nowhere.yaml'}: got No such file or directory, allowed is a readable YAML file.\n"
    )


def test_a_wrong_override_is_reported_by_its_option(tmp_path: Path) -> None:
    file = tmp_path / "right.yaml"
    file.write_text("task: movie-reviews\nteacher: {model: minilm-l6}\n")
    done, _ = run(file, tmp_path, "--set", "teacher.epochs=-1", "--set", "teacher.bach_size=4")
    assert done.returncode == 2
    assert [line.split(", ")[0] for line in done.stderr.splitlines()] == [
        "2 problems:",
        "--set teacher.bach_size=4: teacher.bach_size: got the unknown key 'bach_size'",
        "--set teacher.epochs=-1: teacher.epochs: got -1",
    ]


def test_checking_a_file_imports_no_torch() -> None:
    script = (
        "import sys\n"
        "from bertcompress.config import load_config\n"
        "try:\n"
        f"    load_config({str(WRONG / 'quantize_then_distil.yaml')!r})\n"
        "except ValueError as error:\n"
        "    assert 'quantization last' in str(error)\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_the_library_raises_what_the_command_prints() -> None:
    with pytest.raises(ConfigFileError) as caught:
        load_config(WRONG / "zero_layers.yaml")
    (problem,) = caught.value.problems
    assert (problem.place.line, problem.path) == (5, "compress.0.num_layers")
