"""The benchmarks run, on networks so small that no number means anything: they must not rot unseen."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import sys

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, concatenate_datasets
from transformers import BertConfig, BertModel

import bertcompress as bc

pytest.importorskip("benchmarks", reason="the benchmarks are part of the repository, not of the source archive")

from benchmarks.peers import (
    common,
    distillation,
    distillation_run,
    evaluation,
    evaluation_memory,
    evaluation_sides,
    exported,
    forward,
    quantized,
    search,
    search_run,
    trainer,
    training,
    training_run,
)
from bertcompress.training import settings


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


@pytest.fixture
def tiny_questions(tmp_path):
    """A YAML file that describes 24 questions, on contexts of one window and of several."""
    generator = random.Random(0)
    for name in ("train", "dev"):
        paragraphs = []
        for number in range(12):
            words = ["".join(generator.choices("abcdef", k=5)) for _ in range(generator.choice((8, 15, 60)))]
            context, questions = " ".join(words), []
            for place in (0, len(words) // 2):
                answer = {"text": words[place], "answer_start": 6 * place}
                questions.append({"id": f"{name}-{number}-{place}", "question": "  which?", "answers": [answer]})
            paragraphs.append({"context": context, "qas": questions})
        (tmp_path / f"questions.{name}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    files = {"train": "questions.train.json", "validation": "questions.dev.json"}
    path = tmp_path / "questions.yaml"
    path.write_text(yaml.safe_dump({"name": "which", "kind": "question_answering", **files}))
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


def test_evaluations_agree_and_are_timed(tmp_path, tiny_model, tiny_task, tiny_questions):
    output = tmp_path / "evaluation.json"
    options = ["--model", tiny_model, "--tasks", tiny_task, tiny_questions, "--pairs", "2", "--memory-examples", "0"]
    evaluation.main([*options, "--output", str(output)])
    sentences, questions = json.loads(output.read_text())["tasks"]
    assert (sentences["examples"], questions["examples"]) == (24, 24)
    assert questions["sides"]["ours"]["rows"] > 24
    for found in (sentences, questions):
        sides, agreement = found["sides"], found["agreement"]
        for name in ("best_case", "example_defaults"):
            assert agreement[name]["largest_difference_of_logits"] < 1e-5
            assert agreement[name]["differing_answers"] == 0
            whole = [[sum(seconds.values()) for seconds in sides[side]["seconds"]] for side in (name, "ours")]
            mean = sum(peer / ours for peer, ours in zip(*whole, strict=True)) / 2  # the median of two
            assert found["faster_than_peer"][name]["whole"]["median"] == pytest.approx(mean)
        assert sides["ours"]["rows"] == sides["best_case"]["rows"]
        # The tokenizer's limit is beyond the model's 160 positions, which both sides keep to.
        longest = {"letters": 128, "which": 160}[found["task"]]
        assert sides["example_defaults"]["padded_tokens"] == longest * sides["ours"]["rows"]
        assert sides["ours"]["padded_tokens"] <= sides["best_case"]["padded_tokens"]


def test_an_evaluation_that_differs_is_not_compared(tiny_model, tiny_task):
    task = bc.load_task(tiny_task)
    found = evaluation.sides(bc.Model.from_pretrained(tiny_model, task=task), task)
    with torch.no_grad():
        found["best_case"].network.classifier.bias[0] += 1.0
    runs = [(side, evaluation_sides.run(side)) for side in (found["ours"], found["best_case"])]
    ours, peer = (side.evidence(run.rows, run.output) for side, run in runs)
    with pytest.raises(SystemExit, match="ours differs from the peer by 1"):
        evaluation.agreement(task, ours, peer)


@pytest.mark.parametrize("context_only", [True, False])
def test_the_peers_answers_are_the_best_pairs(context_only):
    # Three question tokens whose logits are higher than those of 30 context tokens: 20 best starts, or 17 of them.
    generator = torch.Generator().manual_seed(3)
    logits = torch.rand(2, 1, 33, generator=generator).numpy()
    logits[:, :, :3] += 5
    places = [None] * 3 + [[2 * number, 2 * number + 1] for number in range(30)]
    rows = Dataset.from_dict({"example_id": ["a"], "offset_mapping": [places]})
    examples = Dataset.from_dict(
        {"id": ["a"], "context": ["".join(chr(97 + number % 26) + " " for number in range(30))]}
    )
    [(text, score)] = evaluation_sides.best_answers(examples, rows, tuple(logits), context_only=context_only)
    kept = [set(side[0].argsort()[-20:] if not context_only else side[0, 3:].argsort()[-20:] + 3) for side in logits]
    pairs = [(start, end) for start in kept[0] for end in kept[1] if 3 <= start <= end]
    best = max(pairs, key=lambda pair: float(logits[0, 0, pair[0]]) + float(logits[1, 0, pair[1]]))
    assert score == pytest.approx(float(logits[0, 0, best[0]]) + float(logits[1, 0, best[1]]))
    assert text == examples[0]["context"][places[best[0]][0] : places[best[1]][1]]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="anonymous memory is read from /proc")
@pytest.mark.parametrize("kind", ["sentences", "questions"])
def test_memory_hardly_grows_with_the_data(tmp_path, tiny_model, tiny_task, tiny_questions, kind):
    # The sizes are several times those that tokenization and the decoding of answers work on at once.
    task, examples = bc.load_task(tiny_task if kind == "sentences" else tiny_questions), 4000
    repeated = {name: concatenate_datasets([data] * (4 * examples // len(data))) for name, data in task.splits.items()}
    task = dataclasses.replace(task, **repeated)
    found = evaluation_memory.growth(bc.Model.from_pretrained(tiny_model, task=task), task, examples, tmp_path)
    assert found["examples"][1] == 4 * found["examples"][0] > 15_900
    assert found["anonymous_bytes_per_example"] - found["logits_bytes_per_example"] < 1024


def test_ratios_are_taken_pair_by_pair():
    found = common.ratios([2.0, 12.0, 9.0], [1.0, 3.0, 3.0])
    assert (found["median"], found["range"], found["pairs"]) == (3.0, [2.0, 4.0], 3)


def test_absent_data_is_explained(monkeypatch):
    monkeypatch.delenv("BERTCOMPRESS_DATA", raising=False)
    with pytest.raises(SystemExit, match="Set BERTCOMPRESS_DATA to the folder"):
        training.main(["--examples", "1"])


@pytest.fixture
def distillation_job(tmp_path, tiny_model, tiny_task):
    """A distillation that any side can do, of a student of two layers from a teacher of four."""
    task = bc.load_task(tiny_task)
    teacher = bc.Model.from_pretrained(tiny_model, task=task)
    student = bc.ExtractThenDistill(num_layers=2, epochs=0).compress(teacher, task)
    folders = training.save_twice(student, tmp_path / "student"), training.save_twice(teacher, tmp_path / "teacher")
    return distillation_run.Job("ours", "soft", *folders, tiny_task, examples=64, epochs=2, seed=0)


@pytest.mark.parametrize("objective", ["soft", "hidden"])
@pytest.mark.parametrize("side", list(distillation_run.SIDES))
def test_every_side_distils_in_as_many_steps(distillation_job, objective, side):
    package = distillation.PACKAGES.get(side)
    if package is not None:
        pytest.importorskip(
            package, reason="a peer of the benchmark; pip install textbrewer silverspoon-kd tensorboard"
        )
    job = dataclasses.replace(distillation_job, side=side, objective=objective)
    task = bc.load_task(job.task)
    before = distillation_run.final_loss(job, bc.Model.from_pretrained(f"{job.student}/ours", task=task), task)
    found = distillation_run.measure(job)
    assert found["steps"] == 4
    assert found["examples_per_second_from_second_epoch"] > 0
    assert math.isfinite(found["loss"])
    assert found["loss"] != before


def test_distillations_end_in_ratios_of_one_round(tmp_path, tiny_model, tiny_task, monkeypatch):
    monkeypatch.setattr(distillation, "sides_of", lambda objective: ["ours", "trainer"])
    rates = {"ours": 30.0, "trainer": 10.0}

    def execute(job):
        rate = rates[job.side] * (1 + job.seed)
        again = {"examples_per_second": rate, "examples_per_second_from_second_epoch": 2 * rate}
        return {"side": job.side, **again, "loss": 0.5}

    output = tmp_path / "distillation.json"
    options = ["--model", tiny_model, "--task", tiny_task, "--examples", "32", "--student-layers", "2", "--rounds", "2"]
    distillation.main([*options, "--output", str(output)], execute)
    found = json.loads(output.read_text())
    for objective in ("soft", "hidden"):
        assert found[objective]["ours_over"]["trainer"]["examples_per_second"]["median"] == pytest.approx(3.0)
        assert found[objective]["final_loss"]["ours"]["mean"] == 0.5
        assert len(found[objective]["runs"]) == 4
    assert {"commit", "load_before"} <= found["machine"].keys()


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(distillation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="silverspoon_kd is not installed; pip install"):
        distillation.sides_of("soft")


@pytest.mark.slow
def test_a_search_and_a_loop_over_its_mappings_do_the_same_work(tmp_path, tiny_model, tiny_task):
    output = tmp_path / "search.json"
    options = ["--model", tiny_model, "--task", tiny_task, "--tasks", tiny_task, "--texts", "40", "--rounds", "1"]
    options += ["--student-layers", "2", "--fitness-examples", "24", "--population", "2", "--output", str(output)]
    search.main(options, search_run.measure)
    found = json.loads(output.read_text())
    ours, naive = found["runs"]
    assert [each["mapping"] for each in ours["candidates"]] == [each["mapping"] for each in naive["candidates"]]
    assert len(ours["candidates"]) >= 2
    assert all(0 <= each["fitness"] <= 100 for run in (ours, naive) for each in run["candidates"])
    cost = ours["seconds_each"] / naive["seconds_each"]
    assert found["cost_over_naive"]["median"] == pytest.approx(cost)


def test_a_loop_over_mappings_distils_as_the_search_does(tmp_path, letters_tokenizer, tiny_task, monkeypatch):
    # Without dropout, with all texts in one batch, no warm-up (Trainer's begins one step later, at a rate of 0) and the
    # same arithmetic (ours is bf16 by default where the processor has it), nothing is left to do differently.
    from bertcompress.compressors.layer_mapping.proxy import Proxy

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    BertModel(BertConfig(vocab_size=len(letters_tokenizer), **sizes, **still)).save_pretrained(tmp_path / "model")
    letters_tokenizer.save_pretrained(tmp_path / "model")
    texts = search.write_texts(tiny_task, 24, tmp_path / "texts.txt")
    job = search_run.Job("naive", str(tmp_path / "model"), texts, [], 2, 24, 3, seed=0, epochs=4)
    usual = search_run.Job.search
    monkeypatch.setattr(
        search_run.Job, "search", lambda job: dataclasses.replace(usual(job), warmup=0.0, precision="fp32")
    )
    task, model = job.start()
    ours = Proxy(job.search(), model, task, model, [], None)._distilled((3, 0), 0)
    begun = job.search().extraction(0).compress(model, task)
    folders = [f"{training.save_twice(each, tmp_path / name)}/peer" for name, each in (("s", begun), ("t", model))]
    given = trainer.tokenized(task.train, letters_tokenizer, 128)
    naive = search_run._distilled(job, (3, 0), given, letters_tokenizer, folders, tmp_path / "trainer")
    batch = letters_tokenizer(["abcde", "cab"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = [
            network.eval()(**batch, output_hidden_states=True).hidden_states[1]
            for network in (naive.cpu(), begun.to_bert(), ours.to_bert())
        ]
    torch.testing.assert_close(states[0], states[2], rtol=1e-3, atol=1e-4)
    assert (states[0] - states[1]).abs().max() > 0.003  # something was learnt


def test_a_step_is_compared_with_the_same_step_without_quantizers(tiny_model, tiny_task, tmp_path, monkeypatch):
    compared = []
    measured = quantized.seconds_of
    monkeypatch.setattr(
        quantized, "seconds_of", lambda method, *rest: compared.append(method) or measured(method, *rest)
    )
    path = tmp_path / "found.json"
    chosen = ["--model", tiny_model, "--task", tiny_task, "--examples", "64", "--batch-size", "8", "--rounds", "1"]
    quantized.main([*chosen, "--threads", "1", "--output", str(path)])
    found = json.loads(path.read_text(encoding="utf-8"))
    for name in ("kdlsq", "lsq"):
        for epoch in ("first_epoch", "second_epoch"):
            assert found[name][epoch]["times_as_long"]["median"] > 0.2
    for method, plain in (compared[:2], compared[2:]):
        for field in dataclasses.fields(settings.TrainingSettings):
            assert getattr(method, field.name) == getattr(plain, field.name), field.name
        assert method.objective_weights() == plain.objective_weights()
        assert (method.mapping, method.temperature) == (plain.mapping, plain.temperature)
        assert (method.method, plain.method) == ("kdlsq", "distill")


def test_exported_files_are_compared_with_their_model(tiny_model, tiny_task, tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    monkeypatch.setattr(exported, "MODEL", tiny_model)
    monkeypatch.setattr(exported, "EXAMPLES", {tiny_task: 32})
    path = tmp_path / "found.json"
    exported.main(["--seeds", "1", "--work", str(tmp_path / "work"), "--output", str(path)])
    (found,) = json.loads(path.read_text(encoding="utf-8"))["found"]
    for way in ("alone", "onnxruntime", "openvino", "float64"):
        assert found[way]["answers"] > 0
        assert found[way]["difference"]["largest"] < 0.1
    assert found["float64"]["difference"]["largest"] > 0  # it was another computation


def test_answers_that_are_others_are_counted_with_their_margins():
    expected = np.array([[1.0, 0.0], [0.0, 0.25], [2.0, 0.0], [0.0, 2.0]], np.float32)
    found = expected + np.array([[0.0, 0.5], [0.5, 0.0], [0.0, 0.0], [0.0, 0.0]], np.float32)
    told = exported.compared(expected, found)
    assert (told["answers"], told["others"], told["same"]) == (4, 1, 0.75)
    assert told["margins_of_others"] == [0.25]
    assert told["difference"] == {"mean": 0.25, "largest": 0.5}
