"""The arithmetic of medians and of the GLUE average, on numbers that are made up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcompress.suite.summary import glue_average, score_of, spread
from bertcompress.suite.tables import COLUMNS, notes, render_markdown, rows

SCORES = st.floats(-1, 1)


@given(st.lists(st.one_of(st.none(), SCORES), max_size=7))
def test_a_spread_is_numpys_over_what_there_is(values):
    known = [value for value in values if value is not None]
    found = spread(values)
    if not known:
        assert found is None
        return
    assert found["median"] == pytest.approx(np.median(known), abs=1e-12)
    assert (found["min"], found["max"]) == (min(known), max(known))


@pytest.mark.parametrize(
    ("task", "scores", "further", "label", "score"),
    [
        ("cola", {"matthews_correlation": 0.5, "accuracy": 0.9}, {}, "matthews_correlation", 0.5),
        ("mrpc", {"f1": 0.8, "accuracy": 0.7}, {}, "mean of accuracy and f1", 0.75),
        ("stsb", {"spearmanr": 0.8, "pearson": 0.9}, {}, "mean of pearson and spearmanr", 0.85),
        ("qqp", {"f1": 0.8}, {}, "mean of accuracy and f1", None),
        ("mnli", {"accuracy": 0.8}, {}, "accuracy, matched only", 0.8),
        (
            "mnli",
            {"accuracy": 0.8},
            {"validation_mismatched": {"m": {"accuracy": 0.7}}, "ax": {"m": {"matthews_correlation": 0.1}}},
            "accuracy, mean of matched and mismatched",
            0.75,
        ),
        ("conll", {"entity_f1": 0.9, "token_accuracy": 0.99}, {}, "entity_f1", 0.9),
    ],
)
def test_a_tasks_number_is_the_usual_one(task, scores, further, label, score):
    about = {"name": task, "metric": "entity_f1", "split": "validation"}
    found = score_of(about, {"name": "m", "scores": scores}, further)
    assert found[0] == label
    assert found[1] == (None if score is None else pytest.approx(score))


def task_of(name, teacher, student=None, split="validation", partial=(), kind="classification", loyalty=None):
    scores = [teacher] if student is None else [teacher, 0.0, student]
    models = [
        {"name": f"{n}", "score": {"median": score, "min": score, "max": score}, "kept": None,
         "loyalty": {"label": loyalty} if loyalty else {}, "further": {}}
        for n, score in enumerate(scores)
    ]  # fmt: skip
    about = {"name": name, "kind": kind, "split": split, "counts": {split: 1000}}
    run = {"seed": 0, "folder": f"{name}/seed-0", "state": "finished", "error": ""}
    return {"name": f"my-{name}", "task": about, "score": "accuracy", "models": models, "partial": list(partial),
            "left_out": "", "start_from": None, "runs": [run]}  # fmt: skip


def waiting(name):
    run = {"seed": 0, "folder": f"{name}/seed-0", "state": "left out", "error": ""}
    return {"name": name, "task": None, "score": "", "models": [], "partial": [], "left_out": "there is [none]",
            "start_from": None, "runs": [run]}  # fmt: skip


def test_the_average_is_the_mean_of_teachers_and_of_last_models():
    tasks = [
        task_of("cola", 0.4, 0.2),
        task_of("rte", 0.8, 0.7),
        task_of("letters", 0.1, 0.1),
        task_of("wnli", 0.5, 0.5),
    ]
    found = glue_average(tasks)
    assert found["tasks"] == ["cola", "rte"]
    assert (found["teacher"], found["student"]) == (pytest.approx(0.6), pytest.approx(0.45))
    assert found["kept"] == pytest.approx(0.75)
    assert found["name"].startswith(
        "GLUE average of 2 of 8 tasks (validation scores; without WNLI, as usual; missing: "
    )
    assert found["missing"] == ["sst2", "mrpc", "qqp", "stsb", "mnli", "qnli"]
    with_wnli = glue_average(tasks, with_wnli=True)
    assert with_wnli["teacher"] == pytest.approx((0.4 + 0.8 + 0.5) / 3)
    assert with_wnli["name"].startswith("GLUE average of 3 of 9 tasks (validation scores; with WNLI; missing:")


def test_a_whole_average_misses_nothing():
    names = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
    found = glue_average([task_of(name, 0.1 * place, 0.1) for place, name in enumerate(names)])
    assert found["name"] == "GLUE average of 8 of 8 tasks (validation scores; without WNLI, as usual)"
    assert found["teacher"] == pytest.approx(0.35)


def test_the_average_says_what_is_special():
    found = glue_average([task_of("cola", 0.4), task_of("rte", 0.8, 0.7, split="test", partial=["few"])])
    assert (found["student"], found["kept"]) == (None, None)  # one task has no student
    assert "validation scores, but rte on test; without WNLI, as usual; on partial data: rte; missing" in found["name"]
    tested = glue_average([task_of("cola", 0.4, split="test"), task_of("rte", 0.8, split="test")])
    assert "(test scores; " in tested["name"]


@pytest.mark.parametrize("tasks", [[], [task_of("rte", 0.8)], [task_of("rte", 0.8), waiting("cola")],
                                   [task_of("letters", 0.8), task_of("wnli", 0.8)]])  # fmt: skip
def test_one_task_has_no_average(tasks):
    assert glue_average(tasks) is None


def test_the_table_has_a_row_for_every_task_whatever_became_of_it():
    tasks = [task_of("cola", 0.4, 0.2), task_of("rte", 0.8, 0.7), waiting("mnli")]
    results = {"name": "all | of it", "seeds": [0], "tasks": tasks, "average": glue_average(tasks),
               "environments": [], "environment": {}}  # fmt: skip
    found = rows(results)
    assert [row[0] for row in found] == ["my-cola", "my-rte", "mnli", "GLUE average"]
    assert all(len(row) == len(COLUMNS) for row in found)
    assert found[0][2:4] == ("0.400", "0.200")
    assert found[2][1] == "left out"
    assert found[3][1:5] == ("2 of 8 tasks", "0.600", "0.450", "75.0\u202f%")
    assert "mnli is left out: there is [none]." in notes(results)
    text = render_markdown(results)
    assert text.startswith("# Suite all \\| of it\n")
    assert "Validation scores: my-cola, my-rte." in text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("classification", ""),
        ("tagging", ""),
        ("question_answering", "answer loyalty "),
        ("regression", "concordance "),
        ("embedding", "shared neighbours "),
    ],
)
def test_what_is_no_label_loyalty_is_called_what_it_is(kind, said):
    loyalty = {"median": 0.75, "min": 0.5, "max": 0.875}
    tasks = [task_of("mine", 0.4, 0.2, kind=kind, loyalty=loyalty), task_of("yours", 0.4, kind=kind)]
    results = {"name": "all", "seeds": [0, 1], "tasks": tasks, "average": None, "environments": [], "environment": {}}
    place = COLUMNS.index("loyalty")
    assert [row[place] for row in rows(results)] == [f"{said}0.750 (0.500 to 0.875)", "\u2013"]
    assert "loyalty: label loyalty, unless a cell says what else it is" in notes(results)[0]
