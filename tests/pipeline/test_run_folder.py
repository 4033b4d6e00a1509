from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file

import bertcompress
from bertcompress import runs
from bertcompress.data.tasks import load_task
from bertcompress.errors import BertCompressError, ConfigError, DataError, RunError
from bertcompress.model import Model

from .toy_run import (
    MODEL_FILES,
    QUANTIZE,
    STEPS,
    STUDENT,
    TRAINING,
    cli,
    layout,
    made_at,
    redone,
    reproducible,
    weights,
    whole_layout,
    write_config,
)

RESULT_FIELDS = {"format_version", "name", "base_model", "task", "macs_length", "models"}
TASK_FIELDS = {"name", "kind", "metric", "split", "labels", "counts", "source"}
SIZES = {"parameters", "parameters_without_embeddings", "macs", "bytes", "file_bytes"}
MODEL_FIELDS = SIZES | {
    *("name", "method", "settings", "facts", "spec", "examples", "seeds", "curves", "notes", "measured"),
    *("scores", "score_intervals", "score_differences", "loyalty", "loyalty_intervals"),
}
COST_FIELDS = {"seal", "seconds", "energy_kwh", "co2e_g", "money_eur", "cost_is", "cost_assumptions"}
TRAINING_COST = {"training_seconds", "examples_per_second", "peak_memory_mib"}


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
    present = {each.metadata["Name"] for each in importlib.metadata.distributions()}
    assert ("onnxruntime" in recorded["packages"]) == ("onnxruntime" in present)


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
        compared = set() if model["name"] == "0-teacher" else {"breakdown"}
        assert model.keys() == MODEL_FIELDS | compared
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


@pytest.mark.parametrize(
    ("called", "command"),
    [
        ("/x/bin/bertcompress", "bertcompress run 'a b.yaml'"),
        ("/x/bertcompress/__main__.py", "bertcompress run 'a b.yaml'"),
        ("/x/notebook.py", ""),
        ("", ""),
    ],
)
def test_the_command_that_was_typed_is_recorded(called, command):
    assert runs._typed([called, "run", "a b.yaml"]) == command


def evaluated(caplog):
    return [record.message.split(":")[0] for record in caplog.records if record.message.endswith(": evaluating")]


def test_nothing_is_evaluated_twice(place, caplog):
    run = place / "runs/toy"
    models = json.loads((run / "results.json").read_text())["models"]
    with caplog.at_level(logging.INFO):
        runs.run("toy.yaml", run)
    assert evaluated(caplog) == []
    values = json.loads((run / "results.json").read_text())
    assert values["models"] == models
    values["models"][1]["scores"]["accuracy"] = 1.5  # which nobody has measured
    (run / "results.json").write_text(json.dumps(values))
    with caplog.at_level(logging.INFO):
        runs.run("toy.yaml", run)
    assert evaluated(caplog) == [STEPS[1]]
    again = json.loads((run / "results.json").read_text())["models"]
    assert [each["scores"] for each in again] == [each["scores"] for each in models]
    for broken in ("", "[]", '{"models": [{"name": "0-teacher"}]}'):
        (run / "results.json").write_text(broken)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            runs.run("toy.yaml", run)
        assert evaluated(caplog) == list(STEPS)


@pytest.mark.parametrize("what", ["metrics", "machine", "student"])
def test_what_a_judgement_depends_on_is_judged_again(what, place, caplog, monkeypatch):
    run, changes, expected = place / "runs/toy", {}, list(STEPS)
    if what == "metrics":
        changes = {"evaluate": ["accuracy"]}
    elif what == "machine":
        monkeypatch.setattr("bertcompress.pipeline.environment.describe_hardware", lambda: {"cpu": "another"})
    else:
        changes, expected = {"compress": [{**STUDENT, "temperature": 3.0}, QUANTIZE]}, list(STEPS[1:])
    with caplog.at_level(logging.INFO):
        runs.run(write_config(place / "toy.yaml", **changes), run)
    assert evaluated(caplog) == expected


def test_a_run_that_was_moved_is_still_finished(place):
    before = made_at(place / "runs/toy")
    shutil.move(place / "runs/toy", place / "elsewhere")
    runs.run("toy.yaml", "elsewhere")
    assert redone(place / "elsewhere", before) == []


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
