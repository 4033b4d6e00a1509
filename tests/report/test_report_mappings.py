"""What the report says of a search, also where trainings failed."""

from __future__ import annotations

import json

from bertcompress.report import mappings
from bertcompress.report.charts import Numbered
from bertcompress.report.runs import Entry

FOUND = {
    "student_layers": 2,
    "teacher_layers": 3,
    "mappings": 15,
    "evaluated": 3,
    "population": 2,
    "generations": [[50.0, None], [50.0, 61.25]],
    "fitness_tasks": [],
    "baselines": {
        "uniform": {"mapping": [2, 3], "fitness": None, "rank": 3},
        "last": {"mapping": [0, 3], "fitness": 61.25, "rank": 1},
        "top": {"mapping": [1, 2], "fitness": None, "rank": None},
    },
    "candidates": [],
    "finalists": [
        {"mapping": [0, 3], "searched": 61.25, "fitness": 60.5, "values": [60.0, 61.0]},
        {"mapping": [1, 1], "searched": 50.0, "fitness": None, "values": [None, 49.0]},
    ],
}


def entry(found):
    values = {"name": "1-layer_mapping_search", "method": "layer_mapping_search"}
    return Entry("run", {**values, "facts": {"mapping": [0, 3], "search": found}}, {}, None)


def test_rows_tell_chosen_failed_and_not_evaluated():
    assert mappings.rows_of(FOUND) == [
        ("chosen, last", "none, 3", "61.25", "60.50 (60.00, 61.00)"),
        ("finalist 2", "1, 1", "50.00", "failed (failed, 49.00)"),
        ("uniform", "2, 3", "failed", ""),
        ("top", "1, 2", "not evaluated", ""),
    ]


def test_the_page_draws_mapping_and_fitness():
    json.dumps(FOUND, allow_nan=False)
    page = mappings.of_models([Numbered(1, entry(FOUND), 0, False)])
    assert "student layer 1 from none; student layer 2 from teacher layer 3" in page
    assert "best 50.00 in the first generation, 61.25 in the last" in page
    assert "3 of 15 mappings evaluated" in page


def test_a_step_that_searched_nothing_has_no_section():
    assert mappings.of_models([Numbered(1, Entry("run", {"name": "x", "facts": {}}, {}, None), 0, False)]) == ""
