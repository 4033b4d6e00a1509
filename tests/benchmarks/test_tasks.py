"""The table of the recipes' scores: what is kept of a run, and what is made of it."""

from __future__ import annotations

import json

import pytest
import yaml

from benchmarks import tasks


def make_run(folder, task, seed, scores, student=None, *, finished=True):
    path = folder / task / f"seed-{seed}"
    path.mkdir(parents=True)
    models = [{"name": "0-teacher", "scores": scores}]
    if student is not None:
        breakdown = {"departures": [{"text": "a sentence of somebody"}], "by_group": []}
        loyalty = {"loyalty": {"label": 0.9}, "loyalty_intervals": {"label": [0.85, 0.95]}}
        models.append({"name": "1-extract_then_distill", "scores": dict.fromkeys(student, 0.1)})
        models.append({"name": "2-distill", "scores": student, "breakdown": breakdown, **loyalty})
    results = {"models": models, "task": {"split": "validation", "source": "/somewhere/data/glue"}}
    results["base_model"] = str(folder.resolve() / "squad" / "seed-0" / "0-teacher")
    (path / "results.json").write_text(json.dumps(results))
    (path / "environment.json").write_text(json.dumps({"command": "run /home/me/x.yaml", "commit": "abc"}))
    if finished:
        (path / "report.html").write_text("")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "KEPT", tmp_path / "kept")
    monkeypatch.setenv("BERTCOMPRESS_DATA", "/somewhere/data")
    return tmp_path / "kept"


def test_finished_runs_are_kept_without_texts_and_folders(tmp_path, kept):
    make_run(tmp_path / "runs", "sst2", 0, {"accuracy": 0.9}, {"accuracy": 0.8})
    make_run(tmp_path / "runs", "sst2", 1, {"accuracy": 0.9}, finished=False)
    assert [path.name for path in tasks.collect(tmp_path / "runs")] == ["seed-0"]
    files = {path.name: path.read_text() for path in (kept / "sst2" / "seed-0").iterdir()}
    assert set(files) == {"results.json", "environment.json"}
    assert "sentence of somebody" not in files["results.json"]
    assert "$BERTCOMPRESS_DATA/glue" in files["results.json"]
    assert '"runs/tasks/squad/seed-0/0-teacher"' in files["results.json"]
    assert "/home/me" not in files["environment.json"]


def test_the_table_has_mean_range_published_scores_student_and_loyalty(tmp_path, kept):
    for seed, score in enumerate((0.90, 0.92, 0.91)):
        make_run(tmp_path / "runs", "sst2", seed, {"accuracy": score}, {"accuracy": 0.8} if seed == 0 else None)
    make_run(tmp_path / "runs", "unknown", 0, {"f1": 0.5})
    tasks.collect(tmp_path / "runs")
    sst2, unknown = tasks.table(kept).splitlines()[2:]
    assert sst2.startswith(
        "| sst2 | validation | accuracy | 0, 1, 2 | 91.0 (90.0 to 92.0) | MiniLM 6x384 (UniLMv2 teacher) 91.5"
    )
    assert sst2.endswith("| 80.0 | 90.0 (85.0 to 95.0) |")
    assert unknown == "| unknown | validation | f1 | 0 | 50.0 | none found |  |  |"


def test_every_published_score_says_where_it_is_from():
    published = yaml.safe_load(tasks.PUBLISHED.read_text(encoding="utf-8"))
    assert published
    for each in published:
        assert each["source"]
        assert 0 < each["score"] < 100
        assert each["split"] in ("", "validation", "test")


def test_a_folder_without_finished_runs_is_refused_with_a_sentence(tmp_path, kept):
    make_run(tmp_path / "runs", "sst2", 1, {"accuracy": 0.9}, finished=False)
    for folder in (tmp_path / "runs", tmp_path / "nowhere"):
        with pytest.raises(SystemExit, match="no finished run in it"):
            tasks.main(["collect", str(folder)])
