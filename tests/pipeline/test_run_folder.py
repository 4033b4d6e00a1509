from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import bertcompress
from bertcompress import runs
from bertcompress.data.tasks import load_task
from bertcompress.errors import BertCompressError, ConfigError, DataError, RunError
from bertcompress.model import Model
from bertcompress.pipeline import run as run_module
from bertcompress.training import checkpoint

from .toy_run import STEPS, TRAINING, reproducible, write_config

SCRIPT = Path(__file__).with_name("interrupted_script.py")
TOP = {"config.yaml", "environment.json", "results.json", "report.html", "report.md", ".lock"}
MODEL_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "history.json"}
RESULT_FIELDS = {"format_version", "name", "base_model", "task", "macs_length", "models"}
TASK_FIELDS = {"name", "kind", "metric", "split", "labels", "counts", "source"}
SIZES = {"parameters", "parameters_without_embeddings", "macs", "bytes", "file_bytes"}
MODEL_FIELDS = SIZES | {
    *("name", "method", "settings", "facts", "spec", "examples", "seeds", "curves", "notes", "measured"),
    *("scores", "score_intervals", "score_differences", "loyalty", "loyalty_intervals"),
}
COST_FIELDS = {"seconds", "energy_kwh", "co2e_g", "money_eur", "cost_is", "cost_assumptions"}
TRAINING_COST = {"training_seconds", "examples_per_second", "peak_memory_mib"}


def cli(*arguments):
    command = [sys.executable, "-m", "bertcompress", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment())


def environment():
    root = str(Path(bertcompress.__file__).parents[1])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}


def made_at(run):
    """When the weights of each step were written."""
    return {name: (run / name / "model.safetensors").stat().st_mtime_ns for name in STEPS}


def weights(run):
    return {name: (run / name / "model.safetensors").read_bytes() for name in STEPS}


def redone(run, before):
    """Names of the steps whose weights were written again."""
    return [name for name, moment in made_at(run).items() if moment != before[name]]


def layout(run):
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def whole_layout():
    return TOP | {f"{step}/{file}" for step in STEPS for file in {*MODEL_FILES, "step.json", "README.md"}}


# What a run leaves


def test_the_folder_is_laid_out_as_promised(place):
    assert layout(place / "runs/toy") == whole_layout()


def test_the_command_line_makes_the_same_run(place):
    done = cli("run", "toy.yaml", "--output", "runs/again")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Report: runs/again/report.html\n")
    assert "2-post_training_quantization" in done.stdout
    assert layout(place / "runs/again") == whole_layout()
    assert reproducible(place / "runs/again/results.json") == reproducible(place / "runs/toy/results.json")
    assert weights(place / "runs/again") == weights(place / "runs/toy")
    recorded = json.loads((place / "runs/again/environment.json").read_text())
    assert recorded["packages"]["bertcompress"] == bertcompress.__version__


def test_config_yaml_has_every_default_and_makes_the_same_run(place):
    values = yaml.safe_load((place / "runs/toy/config.yaml").read_text())
    assert values["compress"][0]["temperature"] == 2.0
    before = made_at(place / "runs/toy")
    shutil.copy(place / "runs/toy/config.yaml", place / "copy.yaml")
    runs.run("copy.yaml", "runs/toy")
    assert redone(place / "runs/toy", before) == []


def test_every_step_is_a_model_with_a_record_and_a_card(place):
    task = load_task(yaml.safe_load((place / "toy.yaml").read_text())["task"])
    results = json.loads((place / "runs/toy/results.json").read_text())
    for name, judged in zip(STEPS, results["models"], strict=True):
        folder = place / "runs/toy" / name
        model = Model.from_pretrained(folder, task)
        predictions = model.predict(task.test)
        accuracy = float((predictions.logits.argmax(-1) == predictions.labels).mean())
        assert accuracy == judged["scores"]["accuracy"]
        record = json.loads((folder / "step.json").read_text())
        assert record.keys() == {
            *("name", "method", "settings", "fingerprint", "curves", "facts", "measured", "files", "checksum")
        }
        assert record["files"].keys() == MODEL_FILES
        assert record["name"] == judged["name"] == name
        card = (folder / "README.md").read_text()
        assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
        assert name.partition("-")[2] in card or name == "0-teacher"


def test_results_have_exactly_the_promised_fields(place):
    results = json.loads((place / "runs/toy/results.json").read_text())
    assert results.keys() == RESULT_FIELDS
    assert results["task"].keys() == TASK_FIELDS
    assert results["task"]["counts"] == {"train": 96, "validation": 32, "test": 40}
    assert (results["format_version"], results["name"], results["macs_length"]) == (1, "toy", 128)
    assert [model["name"] for model in results["models"]] == list(STEPS)
    for model in results["models"]:
        assert model.keys() == MODEL_FIELDS
        trained = model["method"] != "post_training_quantization"
        assert model["measured"].keys() == COST_FIELDS | (TRAINING_COST if trained else set())
        assert set(model["loyalty"]) == {"label", "probability", "probability_base_2"}
        assert model["file_bytes"] == (place / "runs/toy" / model["name"] / "model.safetensors").stat().st_size
        assert set(model["curves"]) == ({"loss", "score", "learning_rate"} if trained else set())
    assert results["models"][0]["loyalty"]["label"] == 1.0


def test_measured_times_agree_with_each_other(place):
    for model in json.loads((place / "runs/toy/results.json").read_text())["models"]:
        measured = model["measured"]
        assert 0 <= measured.get("training_seconds", 0) < measured["seconds"] < 600


# What a second run does


def test_a_second_run_skips_finished_steps_and_ends_with_the_same_numbers(place, caplog):
    run = place / "runs/toy"
    before, numbers = made_at(run), reproducible(run / "results.json")
    with caplog.at_level(logging.INFO):
        report = runs.run("toy.yaml", run)
    assert report == run / "report.html"
    assert redone(run, before) == []
    for name in STEPS:
        assert f"{name}: done before" in caplog.text
    assert reproducible(run / "results.json") == numbers
    assert layout(run) == whole_layout()


def test_a_run_that_was_moved_is_still_finished(place):
    before = made_at(place / "runs/toy")
    shutil.move(place / "runs/toy", place / "elsewhere")
    runs.run("toy.yaml", "elsewhere")
    assert redone(place / "elsewhere", before) == []


QUANTIZE = {"method": "post_training_quantization"}
STUDENT = {"method": "extract_then_distill", "num_layers": 2, **TRAINING}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"teacher": {"model": "bert", **TRAINING, "seed": 1}}, STEPS),
        ({"compress": [{**STUDENT, "temperature": 3.0}, QUANTIZE]}, STEPS[1:]),
        ({"compress": [STUDENT, {**QUANTIZE, "embedding_bits": 32}]}, STEPS[2:]),
        ({"compress": [{**STUDENT, "trackers": ["tensorboard"]}, QUANTIZE]}, ()),
        ({"evaluate": ["accuracy"]}, ()),
        ({"name": "renamed"}, ()),
    ],
    ids=["teacher", "student", "last", "trackers", "metrics", "name"],
)
def test_a_changed_setting_redoes_its_step_and_those_after_it(changes, expected, place):
    run = place / "runs/toy"
    before = made_at(run)
    runs.run(write_config(place / "toy.yaml", **changes), run)
    assert redone(run, before) == list(expected)
    assert layout(run) == whole_layout()
    fresh = place / "runs/fresh"
    if expected:
        runs.run("toy.yaml", fresh)
        assert reproducible(fresh / "results.json") == reproducible(run / "results.json")


def change_weight(place):
    tensors = load_file(place / "bert/model.safetensors")
    tensors["embeddings.word_embeddings.weight"][7, 3] += 0.5
    save_file(tensors, place / "bert/model.safetensors", {"format": "pt"})


def change_tokenizer(place):
    path = place / "bert/tokenizer.json"
    values = json.loads(path.read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(values))


def change_example(place):
    path = place / "train.csv"
    lines = path.read_text().splitlines()
    lines[5] = f"b{lines[5]}"
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("change", [change_weight, change_tokenizer, change_example])
def test_changed_inputs_redo_everything(change, place):
    before = made_at(place / "runs/toy")
    change(place)
    runs.run("toy.yaml", "runs/toy")
    assert redone(place / "runs/toy", before) == list(STEPS)


def test_the_same_inputs_under_another_name_redo_nothing(place):
    before = made_at(place / "runs/toy")
    shutil.move(place / "bert", place / "bert-again")
    runs.run(write_config(place / "toy.yaml", teacher={"model": "bert-again", **TRAINING}), "runs/toy")
    assert redone(place / "runs/toy", before) == []


# What is damaged


def flip(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 0x10
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def remove(path):
    path.unlink()


def make_list(path):
    path.write_text("[1, 2]")


def change_number(path):
    record = json.loads(path.read_text())
    record["facts"]["steps"] = 7
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, flip) for name in sorted(MODEL_FILES)]
    + [("model.safetensors", damage) for damage in (cut, remove)]
    + [("step.json", damage) for damage in (flip, cut, remove, make_list, change_number)],
)
def test_a_damaged_step_is_done_again_and_what_is_whole_is_kept(name, damage, place, caplog):
    run, middle = place / "runs/toy", STEPS[1]
    before, content, numbers = made_at(run), weights(run), reproducible(run / "results.json")
    damage(run / middle / name)
    with caplog.at_level(logging.WARNING):
        runs.run("toy.yaml", run)
    assert redone(run, before) == [middle]
    assert weights(run) == content
    assert reproducible(run / "results.json") == numbers
    assert layout(run) == whole_layout()
    if (name, damage) != ("step.json", remove):
        assert f"{run / middle / name} is" in caplog.text
        assert "damaged; the step is done again" in caplog.text


def test_a_damaged_teacher_never_teaches(place):
    run = place / "runs/toy"
    content = weights(run)
    flip(run / STEPS[0] / "model.safetensors")
    shutil.rmtree(run / STEPS[1])
    runs.run("toy.yaml", run)
    assert weights(run) == content


# What cannot work


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"compress": [STUDENT, {**STUDENT, "num_layers": 3}]}, ConfigError),
        ({"compress": [QUANTIZE, STUDENT]}, ConfigError),
        ({"teacher": {"model": "nowhere", **TRAINING}}, BertCompressError),
    ],
    ids=["layers", "order", "teacher"],
)
def test_a_plan_that_cannot_work_writes_nothing(changes, error, fresh_place):
    config = write_config(fresh_place / "toy.yaml", **changes)
    with pytest.raises(error):
        runs.run(config, fresh_place / "runs/toy")
    assert not (fresh_place / "runs").exists()


def test_hidden_labels_are_noticed_before_anything_is_written(fresh_place, monkeypatch):
    prepared = runs.prepare(fresh_place / "toy.yaml", fresh_place / "runs/toy")
    for split in ("validation", "test"):
        data = getattr(prepared.task, split)
        hidden = data.remove_columns("label").add_column("label", [-1] * len(data))
        object.__setattr__(prepared.task, split, hidden)
    with pytest.raises(DataError, match="labels to score against"):
        prepared.execute()
    assert not (fresh_place / "runs").exists()


def test_no_training_data_is_noticed_before_anything_is_written(fresh_place):
    prepared = runs.prepare(fresh_place / "toy.yaml", fresh_place / "runs/toy")
    object.__setattr__(prepared.task, "train", None)
    with pytest.raises(ConfigError, match="no train split"):
        prepared.execute()
    assert not (fresh_place / "runs").exists()


def test_the_command_line_refuses_a_wrong_plan_with_code_2_and_writes_nothing(fresh_place):
    write_config(fresh_place / "toy.yaml", compress=[QUANTIZE, STUDENT])
    done = cli("run", "toy.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "compress[1] extract_then_distill" in done.stderr or "compress.1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (fresh_place / "runs").exists()


def test_a_wrong_plan_leaves_a_finished_run_as_it_was(place):
    run = place / "runs/toy"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError):
        runs.run(write_config(place / "toy.yaml", compress=[QUANTIZE, STUDENT]), run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_made_is_refused_with_a_sentence(place):
    (place / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written .*--output"):
        runs.run("toy.yaml", "file/run")


# What is interrupted


def test_a_second_run_at_once_is_refused_and_the_first_goes_on(fresh_place, monkeypatch):
    seconds = []

    def meanwhile(*arguments, **options):
        if not seconds:
            seconds.append(cli("run", "toy.yaml", "--output", "runs/toy"))
        return evaluate(*arguments, **options)

    evaluate = run_module.evaluate
    monkeypatch.setattr(run_module, "evaluate", meanwhile)
    runs.run("toy.yaml", "runs/toy")
    (second,) = seconds
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr.splitlines()[-1].startswith("runs/toy is in use by another run; wait for it, stop it, or")
    assert "Traceback" not in second.stderr
    assert layout(fresh_place / "runs/toy") == whole_layout()


def test_the_report_is_written_while_the_folder_is_held(place, monkeypatch):
    from bertcompress import report

    def second(folder):
        with pytest.raises(RunError, match="in use"):
            runs.prepare("toy.yaml", folder).execute()
        return write_cards(folder)

    write_cards = report.write_cards
    monkeypatch.setattr(report, "write_cards", second)
    runs.run("toy.yaml", "runs/toy")


@pytest.fixture
def quick_checkpoints(monkeypatch):
    """A checkpoint after every training step."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)


@pytest.mark.usefixtures("quick_checkpoints")
@pytest.mark.parametrize("saves", [5, 12, 24])
def test_a_run_that_is_stopped_in_training_ends_with_the_same_numbers(saves, fresh_place, finished_place, monkeypatch):
    """Each of the two trainings has 12 steps, so 12 is the first one's last."""
    count = [0]

    def stop(self, *arguments):
        save(self, *arguments)
        count[0] += 1
        if count[0] == saves:
            raise KeyboardInterrupt

    save = checkpoint.Checkpoints.save
    monkeypatch.setattr(checkpoint.Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        runs.run("toy.yaml", "runs/toy")
    made = saves > 12
    assert (fresh_place / "runs/toy/0-teacher").exists() is made
    assert (fresh_place / "runs/toy/results.json").exists() is made
    runs.run("toy.yaml", "runs/toy")
    assert count[0] == 24  # no step was trained twice
    expected = finished_place / "runs/toy"
    assert reproducible(fresh_place / "runs/toy/results.json") == reproducible(expected / "results.json")
    assert weights(fresh_place / "runs/toy") == weights(expected)
    assert layout(fresh_place / "runs/toy") == whole_layout()


@pytest.mark.usefixtures("quick_checkpoints")
def test_time_before_an_interruption_counts(fresh_place, monkeypatch):
    def stop(self, *arguments):
        time.sleep(1.5)
        save(self, *arguments)
        raise KeyboardInterrupt

    save = checkpoint.Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            runs.run("toy.yaml", "runs/toy")
    time.sleep(3)  # does not count: nobody worked
    began = time.monotonic()
    runs.run("toy.yaml", "runs/toy")
    elapsed = time.monotonic() - began
    teacher = json.loads((fresh_place / "runs/toy/results.json").read_text())["models"][0]
    assert 1.5 < teacher["measured"]["seconds"] < elapsed + 3


def test_an_interrupted_run_can_be_reported(fresh_place, monkeypatch):
    from bertcompress.report import write_report

    with monkeypatch.context() as patch:
        patch.setattr(run_module.RunFolder, "complete", stop_at(STEPS[1], KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            runs.run("toy.yaml", "runs/toy")
    results = json.loads((fresh_place / "runs/toy/results.json").read_text())
    assert [model["name"] for model in results["models"]] == list(STEPS[:1])
    write_report([fresh_place / "runs/toy"])
    assert (fresh_place / "runs/toy/report.md").read_text().count("planned, not finished") == 2


def stop_at(step, error):
    """A `RunFolder.complete` that fails for one step."""
    complete = run_module.RunFolder.complete

    def stop(self, name, *arguments):
        if name == step:
            raise error
        return complete(self, name, *arguments)

    return stop


@pytest.mark.parametrize("place_in_complete", ["before", "between", "after"])
def test_a_step_is_never_half_there(place_in_complete, fresh_place, finished_place, monkeypatch):
    """Stops around the two renames that put a step in the place of an older one."""
    run = fresh_place / "runs/toy"
    shutil.copytree(finished_place / "runs/toy", run)
    write_config(fresh_place / "toy.yaml", compress=[{**STUDENT, "temperature": 3.0}, QUANTIZE])
    rename, calls = Path.rename, []

    def stop(self, target):
        if STEPS[1] in str(self) and target.name in (STEPS[1], f"{STEPS[1]}.old"):
            calls.append(target)
            if len(calls) == {"before": 1, "between": 2, "after": 0}[place_in_complete]:
                raise KeyboardInterrupt
            moved = rename(self, target)
            if (len(calls), place_in_complete) == (2, "after"):
                raise KeyboardInterrupt
            return moved
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            runs.run("toy.yaml", run)
    assert len(calls) == (1 if place_in_complete == "before" else 2)
    runs.run("toy.yaml", run)
    runs.run("toy.yaml", fresh_place / "runs/fresh")
    assert weights(run) == weights(fresh_place / "runs/fresh")
    assert layout(run) == whole_layout()


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["python", "safetensors"])
def test_a_full_disk_is_told_and_costs_no_finished_step(error, fresh_place, finished_place, monkeypatch):
    def full(self, folder):
        if STEPS[1] in str(folder):
            Path(folder).mkdir(exist_ok=True)
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            raise error
        return save(self, folder)

    save = Model.save_pretrained
    run = fresh_place / "runs/toy"
    with monkeypatch.context() as patch:
        patch.setattr(Model, "save_pretrained", full)
        with pytest.raises(RunError, match=r"the disk is full .*Finished steps are kept; free some space"):
            runs.run("toy.yaml", run)
    teacher = (run / STEPS[0] / "model.safetensors").stat().st_mtime_ns
    assert not (run / STEPS[1]).exists()
    runs.run("toy.yaml", run)
    assert (run / STEPS[0] / "model.safetensors").stat().st_mtime_ns == teacher
    assert weights(run) == weights(finished_place / "runs/toy")
    assert layout(run) == whole_layout()


def test_other_errors_of_the_system_are_not_called_a_full_disk(fresh_place, monkeypatch):
    monkeypatch.setattr(
        run_module.RunFolder, "complete", stop_at(STEPS[0], PermissionError(errno.EACCES, "Permission denied"))
    )
    with pytest.raises(PermissionError):
        runs.run("toy.yaml", "runs/toy")


def test_files_of_trackers_stay_with_their_step(fresh_place, monkeypatch):
    work = run_module.RunFolder.work

    def tracked(self, name):
        (work(self, name) / "trackers").mkdir()
        (work(self, name) / "trackers" / "events").write_text(name)
        return work(self, name)

    monkeypatch.setattr(run_module.RunFolder, "work", tracked)
    runs.run("toy.yaml", "runs/toy")
    assert layout(fresh_place / "runs/toy") == whole_layout() | {f"{name}/trackers/events" for name in STEPS}


def test_ctrl_c_ends_with_130_and_the_command_goes_on(fresh_place):
    config = write_config(fresh_place / "toy.yaml", teacher={"model": "bert", **TRAINING, "epochs": 2000})
    checkpoints = fresh_place / "runs/toy/.work/0-teacher/checkpoint"
    errors = interrupt(config, lambda log: list(checkpoints.glob("step-*")))
    assert "Traceback" not in errors
    assert errors.endswith(f"run the same again:\n  bertcompress run {config}\n")
    assert list(checkpoints.glob("step-*"))
    errors = interrupt(config, lambda log: "continues from the checkpoint after step" in log.read_text())
    assert "0-teacher: continues from the checkpoint after step" in errors


def interrupt(config, ready):
    """Start a run in a process of its own, send it Ctrl-C when `ready`, and return what it said on stderr."""
    log = config.with_name("log")
    with log.open("w") as stream:
        command = [sys.executable, str(SCRIPT), "run", str(config)]
        # Whoever started the tests in the background may have had SIGINT ignored, which children inherit.
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, stderr=stream, env=environment(), cwd=config.parent, preexec_fn=heard)
    try:
        limit = time.monotonic() + 120
        while not ready(log) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, log.read_text()
    finally:
        process.kill()
    return log.read_text()
