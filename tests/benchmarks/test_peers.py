"""The benchmarks run, on networks so small that no number means anything: they must not rot unseen."""

from __future__ import annotations

import json
import random

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

import bertcompress as bc

pytest.importorskip("benchmarks", reason="the benchmarks are part of the repository, not of the source archive")

from benchmarks.peers import common, forward, training, training_run


@pytest.fixture
def tiny_model(tmp_path, letters_tokenizer):
    """A folder with a BERT of four layers of width 16."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    folder = tmp_path / "model"
    config = BertConfig(vocab_size=len(letters_tokenizer), max_position_embeddings=160, initializer_range=0.2, **sizes)
    BertModel(config).save_pretrained(folder)
    letters_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tiny_task(tmp_path):
    """A YAML file that describes 72 short texts, and 24 to score on."""
    generator = random.Random(0)
    for name, count in (("train", 72), ("dev", 24)):
        rows = [("".join(generator.choices("abcdef", k=generator.randint(1, 12))), place % 2) for place in range(count)]
        text = "".join(f"{word}\t{'yes' if label else 'no'}\n" for word, label in rows)
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + text)
    described = {"kind": "classification", "text": "text", "label": "label", "labels": ["no", "yes"]}
    path = tmp_path / "letters.yaml"
    path.write_text(yaml.safe_dump({"name": "letters", "train": "train.tsv", "validation": "dev.tsv", **described}))
    return str(path)


def compare_training(tmp_path, model, task, execute, pairs=1):
    output = tmp_path / "results" / "training.json"
    options = ["--model", model, "--task", task, "--examples", "64", "--epochs", "2", "--student-layers", "2"]
    training.main([*options, "--pairs", str(pairs), "--output", str(output)], execute)
    return json.loads(output.read_text())


def test_trainings_are_of_equal_size_and_end_in_ratios(tmp_path, tiny_model, tiny_task):
    result = compare_training(tmp_path, tiny_model, tiny_task, training_run.measure)
    assert result["setting"]["examples"] == 64
    assert {"commit", "load_before", "load_after", "threads"} <= set(result["machine"])
    for work in ("fine_tune", "distill"):
        ours, peer = result[work]["runs"]
        assert (ours["side"], peer["side"]) == ("ours", "peer")
        assert ours["steps"] == peer["steps"] == 4
        assert ours["examples_seen"] == peer["examples_seen"] == 128
        taught = [run["teacher_seconds"] > 0 for run in (ours, peer)]
        assert taught == [work == "distill"] * 2
        ratio = result[work]["ours_over_peer"]["training_loop"]["median"]
        assert ratio == pytest.approx(peer["loop_seconds"] / ours["loop_seconds"])
        assert 0 <= result[work]["accuracy"]["ours"][0] <= 1


@pytest.mark.slow
def test_trainings_run_in_processes_of_their_own(tmp_path, tiny_model, tiny_task):
    result = compare_training(tmp_path, tiny_model, tiny_task, training.in_fresh_process, pairs=2)
    assert [run["seed"] for run in result["fine_tune"]["runs"]] == [0, 0, 1, 1]


def test_the_peers_distillation_loss_is_ours(tmp_path, tiny_model, tiny_task):
    # Without dropout, on a batch of texts of several lengths: otherwise the race would be between different works.
    from transformers import AutoTokenizer

    from benchmarks.peers import trainer
    from bertcompress.data.features import featurize
    from bertcompress.training.objectives import build_objective
    from bertcompress.training.settings import TrainingSettings
    from bertcompress.training.teacher import run_network

    task = bc.load_task(tiny_task)
    teacher = bc.Model.from_pretrained(tiny_model, task=task)
    student = bc.ExtractThenDistill(num_layers=2, epochs=0, intermediate_size=20).compress(teacher, task)
    features = featurize(task.train.select(range(8)), student.tokenizer, max_length=128)
    batch = features.collate(range(8))
    objective = build_objective(training_run.OBJECTIVE, student=student.spec, teacher=teacher.spec)
    outputs = [run_network(model.network.eval(), batch, ["hidden_states"]) for model in (student, teacher)]
    ours = objective(*outputs, batch, features.counts(range(len(features))))
    folder = training.save_twice(student, tmp_path / "student")
    race = trainer.DistillationTrainer(
        model=trainer.load(f"{folder}/peer").eval(),
        teacher=trainer.load(f"{training.save_twice(teacher, tmp_path / 'teacher')}/peer"),
        temperature=2.0,
        pairs=((1, 2), (2, 4)),
        args=trainer.arguments(TrainingSettings(), tmp_path / "trainer"),
        processing_class=AutoTokenizer.from_pretrained(f"{folder}/peer"),
    )
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "labels")}
    peer = race.compute_loss(race.model, {name: tensor.to(race.args.device) for name, tensor in given.items()})
    assert len(set(features.lengths.tolist())) > 1
    torch.testing.assert_close(peer.cpu(), ours, rtol=1e-4, atol=1e-5)


def test_forward_passes_agree_and_are_timed(tmp_path, tiny_model):
    output = tmp_path / "forward.json"
    forward.main(["--model", tiny_model, "--rounds", "3", "--output", str(output)])
    shapes = json.loads(output.read_text())["shapes"]
    assert [(each["batch"], each["length"], each["padded"]) for each in shapes] == [
        (*shape, padded) for shape in forward.SHAPES for padded in (False, True)
    ]
    for each in shapes:
        assert each["largest_difference_from_peer"]["ours"] <= forward.TOLERANCE
        assert each["ms"]["ours"]["p50"] > 0
        assert each["faster_than_peer"]["ours"]["pairs"] == 3


def test_a_forward_pass_that_differs_is_not_compared(tiny_model):
    found = forward.networks(tiny_model)
    with torch.no_grad():
        found["ours"].layers[0].operations[1].output.bias[0] += 1.0
    with pytest.raises(SystemExit, match="ours differs from BertModel"):
        forward.compare(found, (2, 8), False, 1)


def test_ratios_are_taken_pair_by_pair():
    found = common.ratios([2.0, 12.0, 9.0], [1.0, 3.0, 3.0])
    assert (found["median"], found["range"], found["pairs"]) == (3.0, [2.0, 4.0], 3)


def test_absent_data_is_explained(monkeypatch):
    monkeypatch.delenv("BERTCOMPRESS_DATA", raising=False)
    with pytest.raises(SystemExit, match="Set BERTCOMPRESS_DATA to the folder"):
        training.main(["--examples", "1"])
