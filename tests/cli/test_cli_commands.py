"""The command line: what it prints, where, its exit codes, and how long it takes to answer."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from bertcompress import cli, console
from bertcompress.compressors import METHODS
from bertcompress.data.tasks import TASKS
from bertcompress.encoder.network import build
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.encoder.tensors import Quantization
from bertcompress.errors import RunError
from bertcompress.model import Model
from bertcompress.pipeline.planning import PlannedStep

COMMANDS = (
    "run",
    "worker",
    "plan",
    "suite",
    "submit",
    "evaluate",
    "export",
    "report",
    "methods",
    "tasks",
    "schema",
    "doctor",
)
RIGHT = "task: movie-reviews\nteacher: {model: minilm-l6}\ncompress: [{method: extract_then_distill, num_layers: 3}]\n"


def bertcompress(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bertcompress", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **settings)


@pytest.fixture
def right_file(tmp_path: Path) -> Path:
    path = tmp_path / "right.yaml"
    path.write_text(RIGHT)
    return path


def test_help_answers_at_once_and_names_every_command() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = bertcompress("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_only_what_works_is_a_command() -> None:
    assert sorted(command.callback.__name__ for command in cli.app.registered_commands if command.callback) == sorted(
        COMMANDS
    )


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    script = (
        "import sys, bertcompress.cli\n"
        "print({'torch', 'transformers', 'datasets', 'numpy', 'yaml', 'rich.table'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn"], "No such command 'rn'"),
        (["run"], "Missing argument 'CONFIG.yaml'"),
        (["run", "a.yaml", "--outptu", "x"], "No such option: --outptu"),
        (["evaluate", "model"], "Missing option '--task'"),
    ],
)
def test_a_wrong_command_line_is_refused_with_usage(arguments: list[str], message: str) -> None:
    found = CliRunner().invoke(cli.app, arguments)
    assert found.exit_code == 2
    assert message in found.output


def test_version_is_printed() -> None:
    from bertcompress import __version__

    found = CliRunner().invoke(cli.app, ["--version"])
    assert (found.exit_code, found.output) == (0, f"bertcompress {__version__}\n")


def test_methods_lists_every_method_with_fields_and_defaults() -> None:
    found = CliRunner().invoke(cli.app, ["methods"])
    assert found.exit_code == 0
    lines = found.output.splitlines()
    for name in METHODS:
        assert any(line.startswith(f"{name}: ") and line.count(".") >= 1 for line in lines)
    assert "    weight_bits (a number; default 8)" in found.output
    assert "    learning_rate (a number; default 5e-05): the peak, reached at the end of the warm-up." in lines
    assert found.output.count("    learning_rate (") == 1  # the training settings are shown once, not with each method


def test_tasks_lists_every_task_with_its_kind_and_metric() -> None:
    found = CliRunner().invoke(cli.app, ["tasks"])
    rows = [line.split() for line in found.output.splitlines()]
    assert [row[0] for row in rows] == list(TASKS)
    assert ["sst2", "classification", "accuracy"] in [row[:3] for row in rows]


@pytest.mark.parametrize("metrics", ["acuracy", "accuracy;loyalty", "", "accuracy,"])
def test_an_unknown_metric_is_refused_before_anything_is_loaded(metrics: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(cli.app, ["evaluate", "m", "--task", str(tmp_path / "none.yaml"), "--metrics", metrics])
    assert found.exit_code == 2
    assert found.stderr.startswith("--metrics: got ")
    assert "allowed are 'accuracy', 'loyalty', 'efficiency'" in found.stderr


def test_an_unknown_task_is_refused_before_the_model_is_loaded() -> None:
    found = CliRunner().invoke(cli.app, ["evaluate", "no-model", "--task", "tweet"])
    assert (found.exit_code, found.stdout) == (2, "")
    assert "did you mean 'tweets'?" in found.stderr


@pytest.fixture
def toy(tmp_path: Path, letters_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model saved as `model`, and a task `toy.yaml`, in the folder that the test works in."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{'good' if number % 2 else 'bad'} thing {number},{number % 2}" for number in range(40)]
    (tmp_path / "toy.csv").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "toy.yaml").write_text(
        "kind: classification\ntrain: toy.csv\ntest: toy.csv\ntext: text\nlabel: label\n"
    )
    spec = EncoderSpec(
        Embeddings(len(letters_tokenizer), 16, 64), uniform_layers(1, 16, 2, 32), Head("classification", 2)
    )
    model = Model(build(spec, ["0", "1"]), letters_tokenizer, labels=["0", "1"])
    model.save_pretrained(tmp_path / "model")
    return model


@pytest.mark.usefixtures("toy")
def test_evaluate_scores_a_model_beside_its_teacher() -> None:
    arguments = ["evaluate", "model", "--task", "toy.yaml", "--teacher", "model", "--metrics", "accuracy,loyalty"]
    found = CliRunner().invoke(cli.app, arguments)
    assert found.exit_code == 0, found.stderr
    assert "toy (classification), split test, 40 examples" in found.stdout
    assert "label loyalty                 100.0" in found.stdout
    assert "latency" not in found.stdout


def test_evaluate_runs_an_exported_file_in_the_precision_that_is_asked_for(toy: Model) -> None:
    for runtime in ("openvino", "onnx", "onnxruntime"):
        pytest.importorskip(runtime)
    toy.export("model.xml")
    toy.export("model.onnx")
    arguments = ["--task", "toy.yaml", "--metrics", "accuracy", "--precision"]
    found = CliRunner().invoke(cli.app, ["evaluate", "model.onnx", *arguments, "bf16"])
    assert "allowed for ONNX Runtime is 'fp32'" in found.stderr
    found = CliRunner().invoke(cli.app, ["evaluate", "model", *arguments, "bf16"])
    assert "--precision: got 'bf16' for model, which is not an exported file" in found.stderr
    assert found.exit_code == 2
    found = CliRunner().invoke(cli.app, ["evaluate", "model.xml", *arguments, "fp32"])
    assert "40 examples" in found.stdout, found.stderr


def test_schema_prints_json() -> None:
    found = CliRunner().invoke(cli.app, ["schema"])
    assert json.loads(found.output)["$defs"].keys() >= set(METHODS)


def test_a_library_error_is_one_message_on_stderr_without_a_traceback(tmp_path: Path) -> None:
    done = bertcompress("report", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"{tmp_path}: got no results.json")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("place", [0, 1])
def test_debug_shows_the_traceback_wherever_it_stands(place: int, tmp_path: Path) -> None:
    arguments = ["report", str(tmp_path)]
    arguments.insert(place, "--debug")
    done = bertcompress(*arguments)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert f"{tmp_path}: got no results.json" in done.stderr.splitlines()[-1]


def test_a_defect_is_not_dressed_up_as_a_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("bertcompress.config.load_config", broken)
    found = CliRunner().invoke(cli.app, ["run", "a.yaml"])
    assert isinstance(found.exception, ZeroDivisionError)


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, Path]]:
    """Replace what needs data and training; collect (configuration, folder) of the runs that were asked for."""
    monkeypatch.chdir(tmp_path)
    made: list[tuple[Any, Path]] = []

    def run(config: Any, folder: Path) -> Path:
        made.append((config, folder))
        empty = {"name": config.name, "task": {"name": "t", "split": "test", "metric": "accuracy"}, "models": []}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(empty))
        return folder / "report.html"

    monkeypatch.setattr("bertcompress.runs.run", run)
    return made


@pytest.mark.parametrize(
    ("text", "options", "folder"),
    [
        ("", [], "runs/right"),
        ("output: elsewhere\n", [], "elsewhere"),
        ("output: elsewhere\n", ["--output", "here"], "here"),
        ("", ["--set", "output=there"], "there"),
    ],
)
def test_run_goes_to_the_folder_that_was_asked_for(
    text: str, options: list[str], folder: str, right_file: Path, asked_for: list[tuple[Any, Path]]
) -> None:
    right_file.write_text(RIGHT + text)
    found = CliRunner().invoke(cli.app, ["run", str(right_file), *options])
    assert found.exit_code == 0, found.output
    assert found.output.endswith(f"Report: {Path(folder) / 'report.html'}\n")
    ((config, used),) = asked_for
    assert used == Path(folder)
    assert config.name == "right"


def test_run_passes_overrides_on(right_file: Path, asked_for: list[tuple[Any, Path]]) -> None:
    options = ["--set", "compress.0.epochs=2", "--set", "seed=4"]
    assert CliRunner().invoke(cli.app, ["run", str(right_file), *options]).exit_code == 0
    step = asked_for[0][0].compress[0]
    assert (step.epochs, step.seed) == (2.0, 4)


def test_an_error_of_the_run_ends_with_code_2(right_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_use(config: Any, folder: Path) -> None:
        raise RunError(f"{folder} is in use by another run.")

    monkeypatch.setattr("bertcompress.runs.run", in_use)
    found = CliRunner().invoke(cli.app, ["run", str(right_file)])
    assert (found.exit_code, found.stdout, found.stderr) == (2, "", "runs/right is in use by another run.\n")


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(right_file: Path, tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(
        "import signal, sys, time\n"
        # Whoever started the tests in the background may have had SIGINT ignored, which children inherit.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from bertcompress import cli, runs\n"
        "def wait(config, folder):\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(60)\n"
        "runs.run = wait\n"
        f"sys.argv = ['bertcompress', 'run', {str(right_file)!r}, '--set', 'name=a b']\n"
        "cli.main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "Finished steps are kept" in errors
    assert errors.endswith(f"  bertcompress run {right_file} --set 'name=a b'\n")


def test_the_plan_is_a_table_of_sizes_and_costs() -> None:
    small = EncoderSpec(Embeddings(1000, 64), uniform_layers(2, 64, 4, 256), Head("classification", 2))
    mixed = EncoderSpec(Embeddings(9, 8), (*uniform_layers(1, 8, 2, 8), *uniform_layers(1, 4, 2, 8)))
    steps = [
        PlannedStep(name="0-teacher", spec=small, seconds=5400.0, memory_mib=512.4, energy_kwh=0.0123),
        PlannedStep(name="1-distill", spec=mixed, seconds=59.6, memory_mib=600.0, energy_kwh=0.0),
    ]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(cli.plan_table("tiny", steps))
    rows = [line.split("│") for line in console.export_text().splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows]
    sizes = ["2", "64", f"{small.parameters():,}", f"{small.macs(128) / 1e9:.2f} G", f"{small.bytes():,}"]
    assert cells == [
        ["0-teacher", *sizes, "1.5 h", "512", "12.30"],
        [
            "1-distill",
            "2",
            "4-8",
            f"{mixed.parameters():,}",
            f"{mixed.macs(128) / 1e6:.2f} M",
            f"{mixed.bytes():,}",
            "60 s",
            "600",
            "0.00",
        ],
        ["all steps", "", "", "", "", "", "1.5 h", "", "12.30"],
    ]


def test_the_plan_says_how_weights_are_stored_and_what_else_there_is() -> None:
    plain = EncoderSpec(Embeddings(1000, 64), uniform_layers(2, 64, 4, 256), Head("classification", 2))
    steps = [
        PlannedStep("0-teacher", plain, 1.0, 1.0, 0.0),
        PlannedStep("1-kdlsq", plain.replace(quantization=Quantization(2, 2, 8)), 1.0, 1.0, 0.0),
    ]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(cli.plan_table("tiny", steps, ["It is exported."]))
    said = console.export_text()
    assert re.search(r"parameters ┃ weights ┃", said)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if "│" in line]
    assert [row[4] for row in rows] == ["float32", "2-bit", ""]
    assert [len(row) for row in rows] == [10, 10, 10]
    assert said.rstrip().endswith("It is exported.")


def test_the_notes_of_a_plan_tell_of_exports_and_of_a_busy_machine() -> None:
    assert cli.plan_notes((), 0.9, 2) == cli.plan_notes((), None, 2) == []
    exports, busy = cli.plan_notes(("onnx", "openvino"), 1.1, 2)
    assert exports == "At the end the last model is exported to onnx and openvino."
    assert busy == "Other processes are at work (load 1.1 on 2 cores): times would be shorter without them."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (86400, "24.0 h")],
)
def test_times_are_shown_in_the_unit_that_people_think_in(seconds: float, text: str) -> None:
    assert console._seconds(seconds) == text


def test_plan_prints_every_step(right_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EncoderSpec(Embeddings(9, 8), uniform_layers(1, 8, 2, 8))
    monkeypatch.setattr("bertcompress.runs.plan", lambda config: [PlannedStep(config.name, spec, 1.0, 2.0, 3.0)])
    found = CliRunner().invoke(
        cli.app, ["plan", str(right_file), "--set", "name=a-very-long-name-that-is-not-cut-anywhere"]
    )
    assert found.exit_code == 0
    assert "a-very-long-name-that-is-not-cut-anywhere" in found.output
    assert "MACs@128" in found.output


def test_the_results_are_a_table_with_dashes_for_what_was_not_measured() -> None:
    full = {
        "name": "0-teacher",
        "scores": {"accuracy": 0.85},
        "score_intervals": {"accuracy": [0.8, 0.9]},
        "loyalty": {"label": 1.0, "probability": 1.0},
        "file_bytes": 3 * 2**20,
        "measured": {"latency": {"p50_ms": 9.7, "speedup": 1.0}},
    }
    bare = {**full, "name": "1-distill", "score_intervals": {}, "loyalty": {}, "measured": {}}
    about = {"name": "films", "split": "test", "metric": "accuracy"}
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(cli.results_table({"name": "tiny", "task": about, "models": [full, bare]}))
    rows = [line.split("│") for line in console.export_text().splitlines() if "│" in line]
    assert [[cell.strip() for cell in row[1:-1]] for row in rows] == [
        ["0-teacher", "0.850", "0.800 to 0.900", "1.000", "1.000", "3.0", "9.70", "1.00x"],
        ["1-distill", "0.850", "-", "-", "-", "3.0", "-", "-"],
    ]
