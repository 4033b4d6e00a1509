from __future__ import annotations

import gzip
import json
import logging
import math
from pathlib import Path

import pytest

from bertcompress.data.glue import GLUE, find_folder
from bertcompress.data.tasks import TASKS, load_task
from bertcompress.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_cola_has_no_header_in_train_and_dev(root: Path) -> None:
    write(root / "CoLA/train.tsv", 'gj04\t1\t\tHe said "no', "gj04\t0\t*\tHim left.")
    write(root / "CoLA/dev.tsv", "gj04\t1\t\tShe left.")
    write(root / "CoLA/test.tsv", "index\tsentence", "0\tBill left.")
    cola = load_task("cola")
    assert cola.train[:] == {"text": ['He said "no', "Him left."], "label": [1, 0]}
    assert cola.labels == ("unacceptable", "acceptable")
    assert cola.test[:] == {"text": ["Bill left."], "label": [-1]}
    assert cola.scoring_split()[0] == "validation"
    with pytest.raises(DataError, match="hidden"):
        cola.scoring_split("test")


@pytest.mark.parametrize("parent", ["", "glue", "glue_data"])
def test_both_layouts_are_found(root: Path, parent: str) -> None:
    write(root / parent / "SST-2/dev.tsv", "sentence\tlabel", "good \t1")
    assert find_folder("sst2", root) == root / parent / "SST-2"
    assert load_task("sst2").validation[:] == {"text": ["good"], "label": [1]}


def test_a_local_folder_comes_before_the_data_folder(root: Path, tmp_path_factory) -> None:
    write(root / "glue/SST-2/dev.tsv", "sentence\tlabel", "below\t1")
    other = write(tmp_path_factory.mktemp("own") / "SST-2/dev.tsv", "sentence\tlabel", "own\t0").parent
    assert load_task(other).validation["text"][:] == ["own"]
    assert load_task("SST-2", relative_to=other.parent).validation["text"][:] == ["own"]
    assert load_task("sst2").validation["text"][:] == ["below"]


def test_a_folder_called_like_a_task_does_not_hide_it(root: Path) -> None:
    write(root / "glue/SST-2/dev.tsv", "sentence\tlabel", "below\t1")
    write(root / "sst2/results.json", "{}")
    assert load_task("sst2").validation["text"][:] == ["below"]
    assert load_task("SST-2").validation["text"][:] == ["below"]
    write(root / "sst2/dev.tsv", "sentence\tlabel", "here\t1")
    assert load_task("sst2").validation["text"][:] == ["here"]


def test_quotes_are_text_and_odd_spaces_end_no_line(root: Path) -> None:
    line = '1\t10\t11\t"Half a quote\u2028next\x85 more\ta "second" one'
    write(root / "MRPC/train.tsv", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", line, "0\t1\t2\tx\ty\r")
    mrpc = load_task("mrpc")
    pairs = [(row["text"], row["text_pair"]) for split in (mrpc.train, mrpc.validation) for row in split]
    assert sorted(pairs) == [('"Half a quote\u2028next\x85 more', 'a "second" one'), ("x", "y")]


def test_a_carriage_return_inside_a_line_does_not_end_it(root: Path) -> None:
    write(root / "SST-2/dev.tsv", "sentence\tlabel\r", "a good\rfilm\t1\r")
    assert load_task("sst2").validation[:] == {"text": ["a good\rfilm"], "label": [1]}


def test_the_rebuilt_mrpc_train_file_is_preferred(root: Path) -> None:
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    write(root / "MRPC/train.tsv", header, "0\t1\t2\tshort\ty")
    write(root / "MRPC/train.rebuilt.tsv", header, "0\t1\t2\trebuilt\ty")
    write(root / "MRPC/dev.tsv", header, "1\t1\t2\tx\ty")
    assert load_task("mrpc").train["text"][:] == ["rebuilt"]


def test_malformed_lines_are_left_out_counted_and_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{number}\t1\t2\tq{number}\tr{number}\t{number % 2}" for number in range(5)]
    rows[2] = "2\t1\t2\tq2\tfused 0"
    rows[4] = "4\t1\t2\tq4\tr4\tmaybe"
    write(root / "QQP/train.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", *rows)
    write(root / "QQP/dev.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "9\t1\t2\ta\tb\t1")
    with caplog.at_level(logging.WARNING, logger="bertcompress"):
        qqp = load_task("qqp")
    assert qqp.train["text"][:] == ["q0", "q1", "q3"]
    note = qqp.notes[0]
    assert "2 malformed of 5 lines of train.tsv" in note
    assert "line 4 (5 fields, expected are 6), line 6 (label 'maybe')" in note
    assert note in caplog.text
    assert note in qqp.describe()["notes"]


def test_a_file_that_is_mostly_malformed_is_refused(root: Path) -> None:
    write(root / "SST-2/train.tsv", "sentence\tlabel", *["no label here"] * 50)
    with pytest.raises(DataError, match=r"train.tsv: 50 of 50 lines are malformed: line 2 \(1 fields"):
        load_task("sst2")


def test_a_wrong_file_names_the_missing_column(root: Path) -> None:
    write(root / "SST-2/train.tsv", "phrase\tlabel", *["good\t1"] * 50)
    with pytest.raises(DataError, match="no column 'sentence'"):
        load_task("sst2")


def test_qqp_sample_has_no_header_and_gets_its_own_dev(root: Path) -> None:
    rows = [f"{number}\t1\t2\tquestion {number}\tother {number}\t{number % 2}" for number in range(300)]
    write(root / "QQP/train_sample.tsv.gz", "7\t1\t2\tq\tfused 0", *rows)
    first, again = load_task("qqp"), load_task("qqp")
    assert len(first.train) + len(first.validation) == 300
    assert 15 <= len(first.validation) <= 45
    assert first.fingerprint() == again.fingerprint()
    assert not set(first.train["text"][:]) & set(first.validation["text"][:])
    assert any("held out of train" in note for note in first.notes)
    assert any("the official set has 363846" in note for note in first.notes)


def test_mnli_reads_json_lines_and_keeps_mismatched_apart(root: Path) -> None:
    folder = root / "MNLI"
    row = {"premise": "p", "hypothesis": "h", "label": "contradiction"}
    write(folder / "train_sample_5genres.jsonl.gz", json.dumps(row), json.dumps(row | {"label": "entailment"}))
    write(folder / "dev_matched.jsonl", json.dumps(row | {"label": "neutral"}))
    write(folder / "dev_mismatched.tsv", "index\tsentence1\tsentence2\tgold_label", "0\tp\th\tneutral")
    write(folder / "test_mismatched.tsv", "index\tsentence1\tsentence2", "0\tp\th")
    mnli = load_task("mnli")
    assert mnli.train["label"][:] == [2, 0]
    assert mnli.validation[:] == {"text": ["p"], "text_pair": ["h"], "label": [1]}
    assert mnli.scoring_split("validation_mismatched")[0] == "validation_mismatched"
    assert list(mnli.extra) == ["validation_mismatched", "test_mismatched"]
    with pytest.raises(DataError, match="hidden"):
        mnli.scoring_split("test_mismatched")


def test_stsb_scores_are_floats_and_hidden_ones_are_nan(root: Path) -> None:
    write(root / "STS-B/train.tsv", "index\tsentence1\tsentence2\tscore", "0\ta\tb\t3.800", "1\tc\td\t5")
    write(root / "STS-B/dev.tsv", "index\tsentence1\tsentence2\tscore", "0\ta\tb\t5.1", "1\tc\td\t0")
    write(root / "STS-B/test.tsv", "index\tsentence1\tsentence2", "0\ta\tb")
    stsb = load_task("stsb")
    assert stsb.train["label"][:] == [3.8, 5.0]
    assert stsb.kind == "regression"
    assert math.isnan(stsb.test["label"][0])
    assert stsb.validation["label"][:] == [0.0]  # 5.1 is beyond the scale
    assert any("label '5.1'" in note for note in stsb.notes)


def test_qnli_without_train_has_no_train_and_says_so(root: Path) -> None:
    write(root / "QNLI/dev.tsv", "index\tquestion\tsentence\tlabel", "0\tq\ts\tnot_entailment")
    qnli = load_task("qnli")
    assert qnli.train is None
    assert qnli.validation["label"][:] == [1]
    assert any(note.startswith("train: not in") for note in qnli.notes)


@pytest.mark.parametrize(
    ("name", "labels"),
    [  # the order of the hub's nyu-mll/glue
        ("mnli", ("entailment", "neutral", "contradiction")),
        ("ax", ("entailment", "neutral", "contradiction")),
        ("rte", ("entailment", "not_entailment")),
        ("qnli", ("entailment", "not_entailment")),
        ("wnli", ("not_entailment", "entailment")),
        ("mrpc", ("not_equivalent", "equivalent")),
        ("qqp", ("not_duplicate", "duplicate")),
        ("sst2", ("negative", "positive")),
        ("cola", ("unacceptable", "acceptable")),
        ("stsb", ()),
    ],
)
def test_labels_are_numbered_as_on_the_hub(name: str, labels: tuple[str, ...]) -> None:
    assert GLUE[name].labels == labels


def test_an_empty_folder_is_refused_naming_the_files(root: Path) -> None:
    (root / "RTE").mkdir()
    with pytest.raises(DataError, match=r"RTE holds none of its files, which are train.tsv, dev.tsv, test.tsv"):
        load_task("rte")


def test_a_damaged_gzip_file_is_refused(root: Path) -> None:
    path = write(root / "QQP/train_sample.tsv.gz", *[f"{n}\t1\t2\tq {n * n}\tr\t1" for n in range(3000)])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"train_sample.tsv.gz, after line \d+: the file is damaged"):
        load_task("qqp")


def test_bytes_that_are_not_utf8_are_refused(root: Path) -> None:
    path = write(root / "SST-2/train.tsv", "sentence\tlabel", "good\t1")
    path.write_bytes(path.read_bytes() + b"caf\xe9\t1\n")
    with pytest.raises(DataError, match="not UTF-8"):
        load_task("sst2")


def test_unknown_names_are_refused_with_a_hint(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"task 'ss2': there is no such task.*did you mean 'sst2'"):
        load_task("ss2")
    (root / "notes").mkdir()
    with pytest.raises(DataError, match="not that of a known task"):
        load_task("notes")
    write(root / "mine.csv", "text,label")
    with pytest.raises(ConfigError, match="describe it in a YAML file"):
        load_task("mine.csv")


def test_a_data_folder_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"BERTCOMPRESS_DATA: .* is not a folder"):
        load_task("sst2")


def test_the_table_lists_every_task() -> None:
    assert set(GLUE) < set(TASKS)
    assert {"movie-reviews", "movie-reviews-rating", "movie-reviews-text", "tweets", "editorials"} < set(TASKS)
    assert TASKS["stsb"][:3] == ("stsb", "regression", "spearmanr")
    assert all(info.source for info in TASKS.values())
