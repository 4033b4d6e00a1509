"""The claims' runner: which cells there are, each done once, and what is made of their results."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from benchmarks.claims import __main__ as command
from benchmarks.claims import etd, execute, layer_mapping, mapping_controls, plans, texts
from benchmarks.claims.claim import HEAD, markdown
from benchmarks.claims.experiment import load
from benchmarks.claims.statistics import FAILS, HOLDS, UNDECIDED, agreements, mean, spread
from bertcompress.compressors.extract.compressor import ExtractThenDistill
from bertcompress.compressors.layer_mapping.genes import Space
from bertcompress.compressors.layer_mapping.sampler import GeneticSampler
from bertcompress.compressors.layer_mapping.search import GeneticSearch
from bertcompress.encoder.spec import Embeddings, EncoderSpec, uniform_layers
from bertcompress.search.board import Outcome
from bertcompress.search.studies import open_storage, open_study

FILES = sorted(Path(execute.__file__).parent.glob("*.yaml"))
TUNING = {"epochs": 1, "batch_size": 16, "precision": "fp32", "max_length": 32}


@pytest.fixture
def place(tmp_path, monkeypatch, letters_tokenizer):
    """A folder with a teacher, texts, a task and an experiment of four cells; results are kept in it as well."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(letters_tokenizer), max_position_embeddings=32, **sizes)).save_pretrained(
            tmp_path / "bert"
        )
    letters_tokenizer.save_pretrained(tmp_path / "bert")
    (tmp_path / "texts.txt").write_text("".join(f"ab{letter}z cde{letter}\n" for letter in "bcdefgh" * 4))
    (tmp_path / "task.csv").write_text("text,label\n" + "".join(f"a{c}z,x\nz{c}a,y\n" for c in "bcdefgh"))
    files = dict.fromkeys(("train", "validation"), "task.csv")
    run = {
        "task": {"name": "texts", "kind": "unlabelled", "train": "texts.txt"},
        "teacher": {"model": "bert", "epochs": 0},
        "compress": [{"method": "extract_then_distill", "num_layers": 2, **TUNING}],
        "evaluate": ["efficiency"],
        "downstream": {
            "tasks": [{"name": "few", "kind": "classification", "text": "text", "label": "label", **files}],
            **TUNING,
        },
    }
    axes = {"start": {"random": {"compress.0.initialization": "random"}, "cut": None}}
    groups = [{"name": "students", "run": run, "seeds": [0, 3], "axes": axes}]
    (tmp_path / "toy.yaml").write_text(
        yaml.safe_dump({"name": "toy", "scales": {"laptop": {"groups": groups}}}, sort_keys=False)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "KEPT", tmp_path / "kept")
    execute._task.cache_clear()
    execute._teacher.cache_clear()
    execute._loaded.cache_clear()
    return tmp_path


def test_cells_are_all_combinations_and_seeds(place):
    cells = load(place / "toy.yaml").cells
    assert [cell.name for cell in cells] == [
        "students/random/seed-0", "students/random/seed-3", "students/cut/seed-0", "students/cut/seed-3",
    ]  # fmt: skip
    config = cells[1].config()
    assert config.compress[0].initialization == "random"
    assert (config.seed, config.compress[0].seed, config.downstream.seeds) == (3, 3, (3,))
    assert cells[2].config().compress[0].initialization == "extracted"
    with pytest.raises(ValueError, match="got the scale 'huge', allowed are laptop"):
        load(place / "toy.yaml", "huge")


def test_a_cell_is_done_once_and_says_all(place, monkeypatch):
    experiment = load(place / "toy.yaml")
    left = execute.run(experiment, place / "work", only="cut/seed-0")
    assert left == []
    result = json.loads((place / "kept" / "toy" / "laptop" / "students" / "cut" / "seed-0.json").read_text())
    assert (result["cell"], result["seed"], result["group"]) == ({"start": "cut"}, 0, "students")
    assert result["history"][-1]["curves"]["score"][-1][1] < 0
    assert set(result["downstream"]["few"]["scores"]) >= {"accuracy"}
    assert result["machine"]["commit"]
    assert result["texts"]["examples"] == 20
    assert not list((place / "work").rglob("step-*"))  # no checkpoint is left
    assert result["compute"]["importance"] == 0
    assert result["compute"]["distillation"] > 0
    monkeypatch.setattr(execute, "measure", lambda *given: pytest.fail("done again"))
    assert execute.run(experiment, place / "work", only="cut/seed-0") == []
    assert len(execute.run(experiment, place / "work", minutes=-1.0)) == 3


def test_a_cell_whose_settings_have_changed_is_done_again(place, monkeypatch):
    experiment = load(place / "toy.yaml")
    execute.run(experiment, place / "work", only="cut/seed-0")
    text = (place / "toy.yaml").read_text()
    (place / "toy.yaml").write_text(text.replace("batch_size: 16", "batch_size: 8"))
    changed = load(place / "toy.yaml")
    assert len(execute.run(changed, place / "work", minutes=-1.0)) == 4
    done = []
    monkeypatch.setattr(execute, "measure", lambda cell, *_: done.append(cell.name) or {"mark": execute.mark_of(cell)})
    assert execute.run(changed, place / "work", only="cut/seed-0") == []
    assert done == ["students/cut/seed-0"]


def test_a_student_that_is_finished_is_not_distilled_again(place, monkeypatch):
    cell = load(place / "toy.yaml").cells[2]
    first = execute.measure(cell, place / "work", place / "shared")
    monkeypatch.setattr(ExtractThenDistill, "compress", lambda *given, **named: pytest.fail("distilled again"))
    second = execute.measure(cell, place / "work", place / "shared")
    assert second["history"] == first["history"]
    assert second["downstream"] == first["downstream"]


def test_the_same_cell_gives_the_same_result(place):
    cell = load(place / "toy.yaml").cells[2]
    first, second = (execute.measure(cell, _folder(place / name), place / "shared") for name in ("a", "b"))
    assert first["downstream"]["few"]["scores"] == second["downstream"]["few"]["scores"]
    assert first["history"][-1]["curves"] == second["history"][-1]["curves"]
    assert len(list((place / "shared").rglob("outputs.json"))) == 2  # training and held-out texts, for both


def test_fewer_examples_can_be_scored_on(place):
    content = yaml.safe_load((place / "toy.yaml").read_text())
    content["scales"]["laptop"]["scored_examples"] = 5
    (place / "few.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    whole, cut = (load(place / name).cells[2] for name in ("toy.yaml", "few.yaml"))
    assert execute.mark_of(cut) != execute.mark_of(whole)
    found = execute.measure(cut, place / "work", place / "shared")["downstream"]["few"]
    assert found["examples"] == {"train": 14, "validation": 5}


def test_compute_counts_both_networks_and_the_importance_pass(place):
    teacher = EncoderSpec(Embeddings(74, 16, max_positions=32), uniform_layers(4, 16, 2, 32))
    student = EncoderSpec(Embeddings(74, 16, max_positions=32), uniform_layers(2, 16, 2, 32))
    (step,) = load(place / "toy.yaml").cells[2].config().compress
    found = execute.compute([step], student, teacher, examples=100, tokens=8)
    assert found == {"distillation": 100 * (3 * student.macs(8) + teacher.macs(8)), "importance": 0}


def _folder(path):
    path.mkdir()
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", ["laptop", "full"])
def test_every_cell_of_the_experiments_is_well_formed(path, scale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "claims").mkdir(parents=True)
    (tmp_path / "runs" / "claims" / "texts.txt").write_text("a text\n")
    cells = load(path, scale).cells
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        config = cell.config()
        assert config.downstream is not None or config.teacher.fine_tune.epochs > 0  # it is judged by something
    assert {cell.seed for cell in cells} == {0, 1, 2}


def test_a_mean_is_decided_by_its_interval():
    assert mean([1.0, 1.1, 0.9]).verdict() == HOLDS
    assert mean([-1.0, -1.1, -0.9]).verdict() == FAILS
    assert mean([1.0, -1.1, 0.9]).verdict() == UNDECIDED
    assert mean([5.0]).verdict() == UNDECIDED
    found = mean([1.0, 2.0, 3.0])
    assert (found.low, found.high) == (
        pytest.approx(2 - 4.302653 / math.sqrt(3)),
        pytest.approx(2 + 4.302653 / math.sqrt(3)),
    )


def test_agreement_is_held_against_that_of_two_seeds():
    ranks = np.arange(12.0)[:, None]
    noise = np.random.default_rng(0).normal(0, 1, (12, 3))
    tau, ceiling, lacking = agreements(ranks + 0.01 * noise, ranks + 0.01 * noise[:, ::-1])
    assert (tau.value, ceiling.value, lacking.value) == (pytest.approx(1), pytest.approx(1), pytest.approx(0))
    tau, ceiling, lacking = agreements(noise, ranks + 0.01 * noise)
    assert ceiling.value == pytest.approx(1)
    assert abs(tau.value) < 0.5
    assert lacking.high < 0
    tau, _, _ = agreements(-ranks + np.zeros((12, 3)), ranks + np.zeros((12, 3)))
    assert tau.verdict() == FAILS


def test_noise_that_both_share_is_no_agreement():
    noise = np.random.default_rng(2).normal(0, 1, (27, 3))
    tau, _, _ = agreements(noise, noise)  # the same seed gives the same value on both sides, other seeds do not
    assert tau.verdict() == UNDECIDED


def test_spread_beyond_noise():
    random = np.random.default_rng(0)
    true, noise, chance = spread(random.normal(0, 1, (50, 3)) + 3 * np.arange(50)[:, None])
    assert true == pytest.approx(np.std(3 * np.arange(50), ddof=1), rel=0.05)
    assert noise == pytest.approx(1, rel=0.2)
    assert chance < 1e-6
    true, noise, chance = spread(random.normal(0, 1, (50, 3)))
    assert true < 0.6
    assert chance > 0.01


def student(objective, start, budget, seed, score, loss):
    tasks = {"sst2": {"metric": "accuracy", "scores": {"accuracy": [score]}}}
    cell = {"objective": objective, "size": "3x384", "start": start, "budget": budget}
    curves = {"score": [[1, -2 * loss], [2, -loss]]}
    return {
        "group": "students", "cell": cell, "seed": seed, "downstream": tasks, "history": [{"curves": curves}],
        "compute": {"distillation": 1e12 * float(budget), "importance": 1e10},
    }  # fmt: skip


def test_verdicts_on_extraction_follow_from_paired_seeds():
    results = []
    for seed, noise in enumerate((0.0, 0.01, -0.01)):
        results += [
            student("tinybert", "random", "1", seed, 0.80 + noise, 1.0),
            student("tinybert", "etd-rand", "1", seed, 0.85 + noise, 0.8),
            student("tinybert", "etd-rand", "0.3", seed, 0.75 + noise, 1.2),
            student("tinybert", "etd-impt", "1", seed, 0.80 - noise, 0.8),
            student("tinybert", "etd-impt", "0.3", seed, 0.797 + noise, 0.8),  # 0.3 points below, within the margin
        ]
    said = list(etd.claims(results))
    assert [claim.verdict for claim in said if "half of the steps" in claim.says] == [FAILS, FAILS]  # at the very end
    said = [claim for claim in said if "half of the steps" not in claim.says]
    found = {(claim.says.split()[0], "0.3" in claim.says): claim for claim in said}
    assert {key: claim.verdict for key, claim in found.items()} == {
        ("ETD-Rand", False): HOLDS, ("ETD-Rand", True): FAILS, ("ETD-Impt", False): UNDECIDED,
        ("ETD-Impt", True): HOLDS,
    }  # fmt: skip
    assert "at 1.00 of the compute: score +5.00" in found["ETD-Rand", False].measured
    assert "at 0.31 of the compute" in found["ETD-Rand", True].measured
    assert "-0.20" in found["ETD-Rand", False].measured
    rows = etd.table(results)
    assert len(rows) == 1 + 5
    assert all(len(row) == len(rows[0]) for row in rows)
    assert "| tinybert | 3x384 | random | 1 |" in markdown(rows)


def test_extraction_is_held_against_its_embeddings_alone_as_well():
    results = []
    for seed, noise in enumerate((0.0, 0.01, -0.01)):
        scores = {"random": 0.5, "embeddings": 0.8, "etd": 0.7}
        results += [student("minilm", start, "1", seed, score + noise, 1.0) for start, score in scores.items()]
    against = {claim.source: claim for claim in etd.claims(results) if "half of the steps" not in claim.says}
    assert {source: claim.verdict for source, claim in against.items()} == {etd.SOURCE: HOLDS, "our control": FAILS}
    assert "random layers behind the same embeddings" in against["our control"].says


def mapped(group, gene, seed, scores):
    tasks = {name: {"metric": "accuracy", "scores": {"accuracy": [value / 100]}} for name, value in scores.items()}
    return {"group": group, "cell": {"mapping": "-".join(map(str, gene))}, "seed": seed, "downstream": tasks}


def planted(noise):
    """Results where a mapping's worth is how near it is to (2, 5), and is the same for all tasks."""
    random = np.random.default_rng(1)
    results = [
        mapped("space", gene, 0, dict.fromkeys(layer_mapping.SEEN, 80 - sum(map(abs, np.subtract(gene, (1, 3, 6))))))
        for gene in Space(3, 6, ordered=True).all()
    ]
    for gene in Space(2, 6, ordered=True).all():
        worth = 80 - abs(gene[0] - 2) - abs(gene[1] - 5)
        for seed in range(3):
            for group in ("proxy", "full"):
                tasks = (*layer_mapping.SEEN, "rte")
                results.append(mapped(group, gene, seed, {name: worth + noise * random.normal() for name in tasks}))
    return results


def test_a_planted_mapping_is_found_and_beats_every_heuristic():
    found = list(layer_mapping.claims(planted(0.05)))
    claims = {claim.says: claim for claim in found if "9 evaluations" not in claim.where}  # 9 evaluations tell little
    assert sum("random draws" in claim.measured for claim in found) == 2
    assert {says: claim.verdict for says, claim in claims.items()} == dict.fromkeys(claims, HOLDS)
    assert any(
        "+1.00" in claim.measured or "+0.9" in claim.measured for says, claim in claims.items() if "ranks" in says
    )
    assert sum("beats" in says for says in claims) >= 5
    assert all("(2-5) beats" in says for says in claims if "beats" in says)


def test_each_task_is_looked_at_alone_and_an_unseen_one_is_not_foreseen_by_luck():
    random = np.random.default_rng(2)
    results = planted(0.05)
    for each in results:  # what the proxy cannot see: another mapping is best
        if each["group"] == "full":
            gene = tuple(map(int, each["cell"]["mapping"].split("-")))
            score = (80 - 3 * abs(gene[0] - 6) + 3 * abs(gene[1] - 5) + random.normal() * 0.1) / 100
            each["downstream"]["rte"]["scores"]["accuracy"] = [score]
    claims = list(layer_mapping.each_task(results))
    tasks = sorted((*layer_mapping.SEEN, "rte"))
    assert [(task, claim.verdict) for task, claim in zip(tasks, claims, strict=False)] == [(t, HOLDS) for t in tasks]
    assert [task in claim.where for task, claim in zip(tasks, claims, strict=False)] == [True] * len(tasks)
    assert "foreseeing rte" in claims[-1].says
    assert claims[-1].verdict == FAILS


def test_a_table_is_searched_as_a_study_is():
    truth = {
        "-".join(map(str, gene)): -sum(map(abs, np.subtract(gene, (1, 3, 6))))
        for gene in Space(3, 6, ordered=True).all()
    }
    order = []

    def evaluate(gene):
        order.append(gene)
        return Outcome(float(truth["-".join(map(str, gene))]))

    sampler = GeneticSampler(Space(3, 6, ordered=True), layer_mapping.SETTINGS, 4, ())
    GeneticSearch(open_study(open_storage(None, None), "table", sampler), sampler, evaluate, "table").run()
    assert layer_mapping.searched(truth, 4) == order


def test_where_all_mappings_are_alike_nothing_is_claimed():
    claims = list(layer_mapping.claims(planted_alike()))
    assert {claim.verdict for claim in claims if "difference" in claim.says} == {UNDECIDED}
    assert [claim.verdict for claim in claims if claim.says.startswith("the proxy setting ranks")] == [UNDECIDED]


def test_controls_of_mappings_are_read_from_the_group_that_is_theirs():
    results = planted(0.05)
    for seed in range(3):
        results.append(mapped("reversed", (6, 3), seed, dict.fromkeys(layer_mapping.SEEN, 70 + seed / 10)))
        for terms, score in {"attention": 70, "hidden": 76.5, "hidden-embeddings": 99, "all": 70}.items():
            each = mapped("terms", (), seed, dict.fromkeys(layer_mapping.SEEN, score + seed))
            results.append({**each, "cell": {"terms": terms}})
    for gene in Space(2, 6, ordered=True).all():
        for share, worth in {"0.02": -sum(gene), "0.5": 80 - abs(gene[0] - 2) - abs(gene[1] - 5)}.items():
            each = mapped("shares", gene, 0, dict.fromkeys(layer_mapping.SEEN, worth))
            results.append({**each, "cell": {**each["cell"], "share": share}})
    results += [mapped("unordered", gene, 0, dict.fromkeys(layer_mapping.SEEN, 10 * sum(gene))) for gene in [(5, 4)]]
    found = {
        claim.says: claim for claim in mapping_controls.controls(results, layer_mapping.by_mapping(results, "full"))
    }
    verdicts = {says: claim.verdict for says, claim in found.items() if "ranks" not in says}
    assert list(verdicts.values()) == [HOLDS, UNDECIDED, FAILS, FAILS, HOLDS, FAILS]
    ranked = {says.split(" ranks")[0]: claim.verdict for says, claim in found.items() if "ranks" in says}
    assert ranked.pop("a proxy of 2% of the texts") == FAILS
    assert ranked == dict.fromkeys(
        ["a proxy of 50% of the texts", *(f"the proxy setting with {task} alone" for task in layer_mapping.SEEN)], HOLDS
    )


def test_mappings_that_do_not_rise_are_the_rest_of_the_space():
    cells = load(Path(layer_mapping.__file__).with_suffix(".yaml")).cells
    names = {cell.choices["mapping"] for cell in cells if cell.group == "unordered"}
    rising = {cell.choices["mapping"] for cell in cells if cell.group == "full"}
    assert len(names) == 7**2 - 1 - len(rising) == 21
    assert {"6-3", "3-3"} <= names
    assert not names & rising


def test_loss_of_the_baseline_is_reached_after_a_share_of_the_steps():
    curve = {"history": [{"curves": {"score": [[10, -3.0], [20, -2.0], [40, -1.0]]}}]}
    assert [etd.share_to_reach(curve, loss) for loss in (3.5, 2.5, 2.0, 1.0, 0.5)] == [0.25, 0.5, 0.5, 1.0, 1.0]


def test_results_that_are_not_complete_yet_give_what_they_can():
    results = [each for each in planted(0.05) if (each["cell"]["mapping"], each["seed"]) != ("5-6", 2)]
    assert len(list(layer_mapping.claims(results))) >= 5  # of the two seeds that all mappings have
    few = [each for each in results if each["seed"] == 0 or each["cell"]["mapping"] == "0-1"]
    assert any("random draws" in claim.measured for claim in layer_mapping.claims(few))
    assert list(layer_mapping.claims([])) == []


def planted_alike():
    random = np.random.default_rng(3)
    return [
        mapped(group, gene, seed, {name: 80 + random.normal() for name in (*layer_mapping.SEEN, "rte")})
        for gene in Space(2, 6, ordered=True).all()
        for seed in range(3)
        for group in ("proxy", "full")
    ]


def test_the_table_is_written_from_what_is_kept(place, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="no result of any experiment"):
        command.main(["table"])
    cells = {cell.name: cell for cell in load(Path(layer_mapping.__file__).with_suffix(".yaml")).cells}
    for result in planted(0.05):
        name = f"{result['group']}/{result['cell']['mapping']}/seed-{result['seed']}"
        path = place / "kept" / "layer_mapping" / "laptop" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        result |= {"machine": {"hardware": {"cpu": "a processor"}, "commit": "abc"}, "measured": {"seconds": 60.0}}
        result |= {"mark": execute.mark_of(cells[name]), "texts": {"examples": 2708, "fingerprint": "x"}}
        path.write_text(json.dumps(result))
    stale = place / "kept" / "layer_mapping" / "laptop" / "proxy" / "0-1" / "seed-0.json"
    stale.write_text(json.dumps({**json.loads(stale.read_text()), "mark": "of other settings"}))
    command.main(["table"])
    text = (place / "kept" / "README.md").read_text()
    assert "| " + " | ".join(HEAD) + " |" in text
    assert "244 cells on 2,708 texts; training took 244 minutes of one process on a processor; commits abc." in text
    assert capsys.readouterr().out.strip() == text.strip()


def test_texts_are_the_same_every_time_and_of_three_kinds(data_root):
    first, second = (texts.sample(data_root, 30) for _ in range(2))
    assert first == second
    assert len(first) == len(set(first)) == 90
    assert all(8 <= len(text.split()) <= 40 and "<unk>" not in text for text in first)


def test_a_plan_checks_every_cell_and_estimates(place):
    told = plans.plan(place / "toy.yaml", "laptop")
    assert told.count("multiply-accumulates") == 4
    assert "4 cells, about" in told


def test_a_wrong_path_and_texts_that_were_not_written_are_told_in_a_sentence(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as stopped:
        command.main(["plan", "nowhere.yaml"])
    assert stopped.value.code == 2
    assert "nowhere.yaml: no such file; those of this project are benchmarks/claims/etd.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"texts.txt', which is no file.*python -m benchmarks.claims texts"):
        command.main(["plan", str(Path(execute.__file__).with_name("etd.yaml")), "--scale", "full"])
