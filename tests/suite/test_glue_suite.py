"""A little of GLUE: partial data, a teacher that starts from MNLI's, the mismatched set and the diagnostic set."""

from __future__ import annotations

import json
import shutil

import pytest

import bertcompress as bc
from bertcompress.data.glue import GLUE
from bertcompress.errors import DataError
from bertcompress.model import Model
from bertcompress.pipeline.run import Run
from bertcompress.suite import run_suite

from .toy_suite import ONCE, numbers, write_suite


@pytest.fixture
def nothing_is_trained(monkeypatch):
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("it was run"))


@pytest.mark.usefixtures("nothing_is_trained")
def test_partial_and_absent_data_are_all_named_before_anything_is_trained(glue_place):
    config = write_suite(glue_place / "all.yaml", tasks=["rte", "mnli", "cola"])
    with pytest.raises(DataError) as caught:
        run_suite(config)
    first, *lines = str(caught.value).splitlines()
    assert first == "suite toys: 3 of 3 tasks cannot be run on what is here:"
    assert lines[0] == "  rte: the data are partial: train has 40 of 2,490 examples; validation has 20 of 277 examples"
    assert lines[1].startswith("  mnli: the data are partial: train has 48 of 392,702 examples; validation has 30 of")
    assert lines[2].startswith("  cola: task cola: there is no folder $BERTCOMPRESS_DATA/glue/CoLA")
    assert "`allow_partial: true`" in lines[3]
    assert not (glue_place / "runs/all").exists()


@pytest.mark.usefixtures("nothing_is_trained")
def test_all_tasks_missing_is_refused_in_any_case(glue_place):
    config = write_suite(glue_place / "all.yaml", tasks=["cola", "rte"], skip_missing=True)
    with pytest.raises(DataError, match="2 of 2 tasks"):
        run_suite(config)


def test_missing_tasks_are_left_out_with_those_that_start_from_them(glue_place):
    shutil.rmtree(glue_place / "runs")
    (glue_place / "glue/MNLI/train.jsonl").unlink()
    changes = {"start_from": {"rte": "mnli"}, "seeds": [0], "skip_missing": True, "allow_partial": True}
    shutil.copytree(glue_place / "glue/RTE", glue_place / "own/RTE")
    tasks = {"rte": None, "mnli": None, "second": {"task": "own/RTE"}}
    config = write_suite(glue_place / "some.yaml", tasks=tasks, compress=[], **changes)
    result = run_suite(config)
    assert not result.failures
    left_out = {task["name"]: task["left_out"] for task in numbers(glue_place / "runs/some")["tasks"]}
    assert left_out["rte"] == "it starts from mnli, which is left out"
    assert left_out["mnli"].startswith("there is no train split (train has 0 of 392,702 examples;")
    assert left_out["second"] == ""
    text = (glue_place / "runs/some/suite.md").read_text()
    assert "| rte | left out |" in text
    assert "mnli is left out: there is no train split" in text
    assert "second is run on partial data: train has 40 of 2,490 examples" in text


def test_official_sizes_are_not_called_partial(finished_glue, glue_place, monkeypatch):
    """The fixture's suite says so of its two tasks; with these sizes they would be whole."""
    assert all(task["partial"] for task in numbers(glue_place / "runs/glue")["tasks"])
    for name, sizes in {"rte": {"train": 40, "validation": 20}, "mnli": mnli_sizes()}.items():
        layout = GLUE[name]
        monkeypatch.setitem(GLUE, name, layout.__class__(**{**layout.__dict__, "sizes": {**layout.sizes, **sizes}}))
    config = write_suite(glue_place / "whole.yaml", tasks=["rte"], seeds=[0], compress=[])
    assert not run_suite(config).failures
    assert numbers(glue_place / "runs/whole")["tasks"][0]["partial"] == []


def mnli_sizes():
    return {"train": 48, "validation": 30, "validation_mismatched": 27}


def test_rtes_teacher_starts_from_mnlis_with_a_new_output_layer(glue_place):
    folder = glue_place / "runs/glue"
    results = json.loads((folder / "rte/seed-0/results.json").read_text())
    assert results["base_model"].endswith("runs/glue/mnli/seed-0/0-teacher")
    rte = bc.load_task("rte")
    start = Model.from_pretrained(folder / "mnli/seed-0/0-teacher", rte, seed=0)
    assert start.spec.head.num_labels == 2
    ours = bc.FineTune(**{**ONCE, "seed": 0}).compress(start, rte)
    made = Model.from_pretrained(folder / "rte/seed-0/0-teacher", rte)
    weights, expected = made.network.state_dict(), ours.network.state_dict()
    assert all(bool((weights[name] == expected[name]).all()) for name in expected)


def test_another_source_teacher_makes_the_run_anew(glue_place, monkeypatch):
    executed, execute = [], Run.execute
    monkeypatch.setattr(Run, "execute", lambda run, *rest: (executed.append(run.name), execute(run, *rest)))
    values = {"tasks": {"rte": None, "mnli": {"teacher": {"learning_rate": 0.002}}}, "start_from": {"rte": "mnli"}}
    config = write_suite(glue_place / "glue.yaml", name="glue", seeds=[0], allow_partial=True, **values)
    run_suite(config, only=["rte"])
    assert executed == ["glue: mnli, seed 0", "glue: rte, seed 0"]


def test_mnli_is_the_mean_of_matched_and_mismatched(glue_place):
    mnli = numbers(glue_place / "runs/glue")["tasks"][1]
    task = bc.load_task("mnli")
    assert mnli["score"] == "accuracy, mean of matched and mismatched"
    for found in mnli["runs"][0]["models"]:
        model = Model.from_pretrained(glue_place / "runs/glue/mnli/seed-0" / found["name"], task)
        scored = {
            split: bc.evaluate(model, task, metrics=["accuracy"], split=split).scores["accuracy"]
            for split in ("validation", "validation_mismatched")
        }
        assert found["scores"]["accuracy"] == scored["validation"]
        assert found["further"]["validation_mismatched"] == {"accuracy": scored["validation_mismatched"]}
        assert found["score"] == pytest.approx(sum(scored.values()) / 2)


def test_the_diagnostic_set_is_scored_by_mnlis_models_where_its_labels_are(glue_place):
    rte, mnli = numbers(glue_place / "runs/glue")["tasks"]
    diagnostic = bc.load_task("ax")
    found = mnli["runs"][0]["models"][1]
    model = Model.from_pretrained(glue_place / "runs/glue/mnli/seed-0" / found["name"], bc.load_task("mnli"))
    expected = bc.evaluate(model, diagnostic, metrics=["accuracy"], split="test").scores
    assert found["further"]["ax"] == {"matthews_correlation": expected["matthews_correlation"]}
    assert "ax" not in rte["runs"][0]["models"][0]["further"]
    assert "mnli on the diagnostic set AX: 0-teacher" in (glue_place / "runs/glue/suite.md").read_text().replace(
        "\\", ""
    )


def test_the_average_is_named_for_what_it_is(glue_place):
    found = numbers(glue_place / "runs/glue")
    assert found["average"]["name"] == (
        "GLUE average of 2 of 8 tasks (validation scores; without WNLI, as usual; on partial data: rte, mnli; "
        "missing: cola, sst2, mrpc, qqp, stsb, qnli)"
    )
    for role, place in (("teacher", 0), ("student", -1)):
        scores = [task["models"][place]["score"]["median"] for task in found["tasks"]]
        assert found["average"][role] == pytest.approx(sum(scores) / 2)
