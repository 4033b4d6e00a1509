"""The claims about few bits: cells of a fine-tuned teacher, and what is made of their results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from benchmarks.claims import execute, kdlsq, supervised
from benchmarks.claims.experiment import load
from benchmarks.claims.statistics import FAILS, HOLDS

TUNING = {"batch_size": 8, "precision": "fp32", "max_length": 32}
KEPT = [place for place in (Path(execute.__file__).parents[1] / "results/claims").glob("*/laptop") if place.is_dir()]


@pytest.fixture
def place(tmp_path, monkeypatch, letters_tokenizer):
    """A folder with a checkpoint, a task, and an experiment of one cell for each of two seeds."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(letters_tokenizer), max_position_embeddings=32, **sizes)).save_pretrained(
            tmp_path / "bert"
        )
    letters_tokenizer.save_pretrained(tmp_path / "bert")
    (tmp_path / "task.csv").write_text("text,label\n" + "".join(f"a{c}z,x\nz{c}a,y\n" for c in "bcdefgh" * 3))
    files = dict.fromkeys(("train", "validation"), "task.csv")
    run = {
        "task": {"name": "few", "kind": "classification", "text": "text", "label": "label", **files},
        "teacher": {"model": "bert", "epochs": 1, **TUNING},
        "compress": [{"method": "kdlsq", "epochs": 1, "weight_bits": 4, **TUNING}],
        "evaluate": ["accuracy", "loyalty"],
    }
    axes = {"task": {"few": {}}, "bits": {"4-8-8": {}}}
    scale = {
        "train_examples": 20,
        "scored_examples": 12,
        "groups": [{"name": "kdlsq", "run": run, "seeds": [0, 1], "axes": axes}],
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({"name": "toy", "scales": {"laptop": scale}}, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "KEPT", tmp_path / "kept")
    return tmp_path


def test_a_cell_of_a_fine_tuned_teacher_is_measured_beside_it(place, monkeypatch):
    experiment = load(place / "toy.yaml")
    assert execute.run(experiment, place / "work") == []
    first, second = (json.loads(execute.kept_at(experiment, cell).read_text()) for cell in experiment.cells)
    assert first["found"]["examples"] == {"train": 20, "scored": 12}
    assert first["found"]["metric"] in first["found"]["scores"].keys() & first["found"]["teacher_scores"].keys()
    assert 0 <= first["found"]["loyalty"]["label"] <= 1
    assert first["found"]["bytes"] > 0
    assert second["seed"] == 1
    teachers = {place.name for place in (place / "work" / "teacher").iterdir() if place.is_dir()}
    assert len([name for name in teachers if "." not in name]) == 2  # one for each seed

    def never(*_):
        raise AssertionError("done twice")

    monkeypatch.setattr(supervised, "measured", never)
    assert execute.run(experiment, place / "work") == []


def test_a_teacher_is_made_once(place):
    cell = load(place / "toy.yaml").cells[0]
    config = cell.config()
    task = supervised.task_of(cell, config)
    first, second = (supervised.teacher_of(config, task, place / "shared") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))
    assert [step.method for step in first.history] == ["fine_tune"]


@pytest.mark.parametrize("folder", KEPT, ids=lambda place: place.parent.name)
def test_results_that_are_kept_are_of_todays_experiment(folder):
    experiment = load(Path(execute.__file__).with_name(f"{folder.parent.name}.yaml"))
    done = [cell for cell in experiment.cells if execute.is_done(execute.kept_at(experiment, cell), cell)]
    assert len(done) == len(list(folder.rglob("*.json")))


def planted(group, seed, score, teachers=90.0, bits="2-2-8", label=96.0, **cell):
    found = {
        "metric": "accuracy",
        "scores": {"accuracy": score / 100},
        "teacher_scores": {"accuracy": teachers / 100},
        "loyalty": {"label": label / 100},
        "bytes": 2**20,
    }
    return {"group": group, "seed": seed, "cell": {"task": "sst2", "bits": bits, **cell}, "found": found}


def test_verdicts_follow_from_planted_results():
    results = [
        *(planted("kdlsq", seed, 88.0 + 0.1 * seed) for seed in range(3)),
        *(planted("lsq", seed, 85.0 + 0.1 * seed) for seed in range(3)),
        *(planted("post-training", seed, 51.0 + seed) for seed in range(3)),
        *(planted("aware", seed, 89.0 + 0.2 * seed) for seed in range(3)),
        *(planted("kdlsq", seed, 88.5 + 0.1 * seed, bits="8-8-8") for seed in range(3)),
        planted("initializations", 0, 99.0, begins="max"),
    ]
    verdicts = {claim.says: claim.verdict for claim in kdlsq.claims(results)}
    assert verdicts["2-2-8 bits are within 3 points of float"] == HOLDS
    assert verdicts["8-8-8 bits are within 1 points of float"] == FAILS
    assert verdicts["8-8-8 bits give the teacher's answer to at least 97 % of examples"] == FAILS
    assert verdicts["at 2-2-8 bits kdlsq scores above lsq"] == HOLDS
    assert verdicts["at 2-2-8 bits lsq scores above post-training"] == HOLDS
    assert verdicts["at 2-2-8 bits kdlsq scores above aware"] == FAILS
    rows = kdlsq.table(results)
    assert ["sst2", "2-2-8", "kdlsq", "max", "99.0", "90.0", "96.0", "1.0", "1"] in rows
    assert ["sst2", "2-2-8", "kdlsq", "kl", "88.1 (88.0 to 88.2)"] in [row[:5] for row in rows]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"training": "9-epochs"}, "sst2 (9 epochs)"),
        ({"teacher": "10-epochs"}, "sst2 (teacher of 10 epochs)"),
        ({"training": "9-epochs", "teacher": "10-epochs"}, "sst2 (9 epochs, teacher of 10 epochs)"),
    ],
)
def test_other_trainings_are_compared_among_themselves(other, told):
    results = [
        planted("kdlsq", 0, 80.0),
        *(planted("longer", seed, 89.0 + 0.1 * seed, method="kdlsq", **other) for seed in range(3)),
        *(planted("longer", seed, 88.0 + 0.1 * seed, method="lsq", **other) for seed in range(3)),
    ]
    found = {(claim.says, claim.where.partition(", seeds")[0]): claim.verdict for claim in kdlsq.claims(results)}
    assert found["2-2-8 bits are within 3 points of float", "sst2"] == "undecided"
    assert found["2-2-8 bits are within 3 points of float", told] == HOLDS
    assert found["at 2-2-8 bits kdlsq scores above lsq", told] == HOLDS
    assert [told, "2-2-8", "lsq", "kl", "88.1 (88.0 to 88.2)"] in [row[:5] for row in kdlsq.table(results)]


def test_a_group_may_have_limits_of_its_own(place):
    written = yaml.safe_load((place / "toy.yaml").read_text(encoding="utf-8"))
    scale = written["scales"]["laptop"]
    scale["groups"].append({**scale["groups"][0], "name": "whole", "train_examples": None})
    (place / "whole.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    limits = {cell.group: cell.train_examples for cell in load(place / "whole.yaml").cells}
    assert limits == {"kdlsq": scale["train_examples"], "whole": None}
    assert scale["train_examples"] is not None


def test_results_that_are_not_complete_yet_give_what_they_can():
    assert list(kdlsq.claims([])) == []
    assert [claim.verdict for claim in kdlsq.claims([planted("kdlsq", 0, 90.0)])] == ["undecided"]
