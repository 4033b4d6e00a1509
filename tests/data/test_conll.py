from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bertcompress.data.conll import read_conll
from bertcompress.data.conll_task import load_conll_files
from bertcompress.errors import BertCompressError, ConfigError, DataError


def write(path: Path, content: str) -> Path:
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


CONLL2003 = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

-DOCSTART- -X- O O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
"""


def test_four_columns_and_documents(folder: Path) -> None:
    path = write(folder / "eng.train", CONLL2003)
    found = read_conll(path)
    assert found.words == [["EU", "rejects", "German", "call"], ["Peter", "Blackburn"]]
    assert found.tags == [["I-ORG", "O", "I-MISC", "O"], ["I-PER", "I-PER"]]
    assert found.lines == [3, 10]
    assert read_conll(path, tag=1).tags[1] == ["NNP", "NNP"]
    assert read_conll(path, word=-4, tag=-2).tags[1] == ["I-NP", "I-NP"]


def test_iob1_becomes_iob2_and_train_is_split(folder: Path) -> None:
    more = "".join(f"word{number} NNP I-NP I-PER\nand CC O O\n\n" for number in range(60))
    task = load_conll_files("news", {"train": write(folder / "eng.train", CONLL2003 + "\n" + more)})
    assert (task.kind, task.metric, task.scheme) == ("tagging", "entity_f1", "IOB2")
    assert task.labels == ("O", "B-MISC", "B-ORG", "B-PER", "I-PER")
    assert len(task.train) + len(task.validation) == 62
    assert 2 <= len(task.validation) <= 12
    tags = {
        row["words"][0]: [task.labels[tag] for tag in row["tags"]]
        for split in (task.train, task.validation)
        for row in split
    }
    assert tags["Peter"] == ["B-PER", "I-PER"]
    assert "eng.train: tags converted from IOB1 to IOB2" in task.notes
    assert any("sentences held out of eng.train" in note for note in task.notes)


def test_sentences_that_are_equal_fall_on_one_side(folder: Path) -> None:
    rows = "".join(f"Peter\tB-PER\nsaw\tO\nword{number % 40}\tO\n\n" for number in range(200))
    task = load_conll_files("news", {"train": write(folder / "t.tsv", rows)})
    sides = [{tuple(words) for words in split["words"]} for split in (task.train, task.validation)]
    assert not sides[0] & sides[1]
    assert len(task.train) + len(task.validation) == 200


def test_a_single_sentence_is_not_held_out(folder: Path) -> None:
    task = load_conll_files("news", {"train": write(folder / "t.tsv", "a\tB-X\nb\tO\n")})
    assert (len(task.train), task.validation) == (1, None)
    assert any("too small" in note for note in task.notes)


def test_blank_lines_and_odd_spaces(folder: Path) -> None:
    path = write(folder / "t.tsv.gz", "\ufeffa\u00a0b\tO\r\n\t\r\n \n\u3000c\tB-X\nNew York\tI-X\n\n\n")
    assert read_conll(path).words == [["a\u00a0b"], ["\u3000c", "New York"]]


def test_white_space_of_any_width_separates(folder: Path) -> None:
    path = write(folder / "t.txt", "   He        PRP  B-NP  \n   reckons   VBZ  B-VP\n")
    assert read_conll(path).words == [["He", "reckons"]]
    assert read_conll(path, tag=1).tags == [["PRP", "VBZ"]]


def test_words_that_begin_with_a_hash_are_no_comments(folder: Path) -> None:
    content = "# # I-NP\n1.8 CD I-NP\n\n# id 7\n# text = # b\nb NN B-NP\n# # I-NP\n\n#c NN O\n\n# end x\n"
    found = read_conll(write(folder / "t.txt", content))
    assert found.words == [["#", "1.8"], ["b", "#"], ["#c"]]
    assert found.tags == [["I-NP", "I-NP"], ["B-NP", "I-NP"], ["O"]]


def test_a_comment_before_the_first_word_does_not_count_as_columns(folder: Path) -> None:
    found = read_conll(write(folder / "t.conll", "# id 5239\tdomain=en\nthe _ _ O\nPeter _ _ B-PER\n\n"))
    assert found.words == [["the", "Peter"]]


CONLLU = """# sent_id = 1
# text = It's here
1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
1\tIt\tit\tPRON\tPRP\t_\t3\tnsubj\t_\t_
2\t's\tbe\tAUX\tVBZ\t_\t3\tcop\t_\t_
2.1\tgone\tgo\tVERB\tVBN\t_\t_\t_\t3:dep\t_
3\there\there\tADV\tRB\t_\t0\troot\t_\t_

1\t10 000\t10 000\tNUM\tCD\t_\t0\troot\t_\t_
"""


def test_conllu_has_words_and_no_ranges_or_empty_nodes(folder: Path) -> None:
    path = write(folder / "en.conllu.gz", CONLLU)
    assert read_conll(path).words == [["It", "'s", "here"], ["10 000"]]
    assert read_conll(path).tags == [["PRON", "AUX", "ADV"], ["NUM"]]
    assert read_conll(path, tag="xpos").tags == [["PRP", "VBZ", "RB"], ["CD"]]
    assert read_conll(path, word="lemma").words[0] == ["it", "be", "here"]
    assert read_conll(write(folder / "en.txt", CONLLU), word="form").tags == read_conll(path).tags
    task = load_conll_files("pos", {"train": path})
    assert (task.metric, task.scheme, task.labels) == ("token_accuracy", "", ("ADV", "AUX", "NUM", "PRON"))


def test_hidden_tags_of_a_test_file(folder: Path) -> None:
    train = write(folder / "train.tsv", "a x B-X\nb x O\n\nc y I-X\n")
    for name, content in (
        ("one.tsv", "a\nb\n\nc\n"),
        ("two.tsv", "a x\nb y\n\nc x\n"),
        ("three.tsv", "a x _\nb y _\n\nc y _"),
    ):
        if name == "one.tsv":
            train = write(folder / "train.tsv", "a B-X\nb O\n\nc I-X\n")
        elif name == "two.tsv":
            train = write(folder / "train.tsv", "a x B-X\nb x O\n\nc y I-X\n")
        task = load_conll_files("t", {"train": train, "test": write(folder / name, content)})
        assert task.test[:] == {"words": [["a", "b"], ["c"]], "tags": [[-1, -1], [-1]]}, name
        with pytest.raises(DataError, match="hidden"):
            task.scoring_split("test")
    with pytest.raises(DataError, match=r"two.tsv: its sentences have no tags"):
        load_conll_files("t", {"train": train, "validation": folder / "two.tsv"})


def test_tags_that_train_lacks_come_last_and_are_told(folder: Path) -> None:
    files = {
        "test": write(folder / "test.tsv", "a\tI-Z\nb\tB-A\n"),
        "train": write(folder / "train.tsv", "a\tB-Y\nb\tI-Y\n\na\tO\nc\tB-C\nc\tI-C\nd\tB-Y\n"),
        "validation": write(folder / "dev.tsv", "a\tB-Z\nb\tB-Y\n"),
    }
    task = load_conll_files("t", files)
    assert task.labels == ("O", "B-C", "I-C", "B-Y", "I-Y", "B-Z", "B-A", "I-Z")
    assert "dev.tsv: 1 tags that train.tsv does not have: 'B-Z'" in task.notes
    assert "test.tsv: 2 tags that train.tsv does not have: 'B-A', 'I-Z'" in task.notes
    with pytest.raises(DataError, match=r"test.tsv, line 2: the tag is 'B-A', allowed are 'O'"):
        load_conll_files("t", files, labels=("O", "B-C", "I-C", "B-Y", "I-Y", "B-Z", "I-Z"))


def test_every_file_is_converted_from_its_own_scheme(folder: Path) -> None:
    files = {
        "train": write(folder / "train.tsv", "a\tB-X\nb\tL-X\nc\tU-Y\n"),
        "validation": write(folder / "dev.tsv", "a\tI-X\nb\tI-X\nc\tI-Y\n"),
        "test": write(folder / "test.tsv", "a\tO\nb\tO\n"),
    }
    task = load_conll_files("t", files)
    assert (task.scheme, task.labels) == ("IOBES", ("O", "B-X", "E-X", "S-Y"))
    assert task.train["tags"][:] == task.validation["tags"][:] == [[1, 2, 3]]
    assert "train.tsv: 'L-X', 'U-Y' read as 'E-X', 'S-Y'" in task.notes
    assert load_conll_files("t", files, target="IOB2").labels == ("O", "B-X", "I-X", "B-Y")


def test_orders_that_the_scheme_does_not_allow_are_told_and_kept(folder: Path) -> None:
    path = write(folder / "t.tsv", "a\tB-X\n\nb\tB-X\n\nc\tO\nd\tI-X\n\ne\tB-X\nf\tI-Y\n")
    task = load_conll_files("t", {"train": path, "test": path})
    assert task.scheme == "IOB2"
    assert [task.labels[tag] for tag in task.test["tags"][2]] == ["O", "I-X"]
    assert any(
        "2 sentences have tags in an order that IOB2 does not allow, the first from line 5" in note
        for note in task.notes
    )


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("a\tO\nb\n", r"line 2: it has 1 columns by tabs, the lines before have 2: 'b'"),
        ("a O\n\nb x O\n", r"line 3: it has 3 columns by white space, the lines before have 2"),
        ("a\tB-X\n\tO\n", r"line 2: the word is empty"),
        ("a\tB-X\nb\tO\n\nc\tX-Y\n", r"line 4: the tag is 'X-Y'; IOB2 has 'O', and B-, I- with a type"),
        ("a\tB-X\nb\to\n", r"line 2: the tag is 'o'"),
        ("a\tB-X\nb\tO\n# id\nc\tO\n", r"line 3: it has 1 columns"),
        ("\n \n-DOCSTART- O\n\n", r"it holds no sentence"),
        ("", r"it holds no sentence"),
        ("a\tO\nb\tO\n", r"its tags are \['O'\], a task needs at least two"),
        ("a\nb\n", r"its sentences have no tags"),
        ("a\t_\nb\t_\n", r"its sentences have no tags"),
    ],
)
def test_malformed_columns(folder: Path, content: str, where: str) -> None:
    with pytest.raises(DataError, match=rf"t\.tsv(, |: ){where}"):
        load_conll_files("t", {"train": write(folder / "t.tsv", content)})


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("3\there\there", "3\there", "line 7: it has 9 columns by tabs, CoNLL-U has 10"),
        ("3\there", "4\there", "line 7: the id is 4, expected is 3"),
        ("3\there", "x\there", "line 7: the id is 'x', allowed are such as 1, 1-2 and 1.1"),
        ("ADV", "_", "line 7: the word's upos is '_', and other words have one"),
        ("ADV", "", "line 7: the word 'here' has no tag"),
        ("3\there", "3\t", "line 7: the word is empty"),
    ],
)
def test_malformed_conllu(folder: Path, old: str, new: str, where: str) -> None:
    path = write(folder / "en.conllu", CONLLU.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        read_conll(path)
    assert str(caught.value).startswith(f"{path}, {where}")


def test_bytes_that_cannot_be_read(folder: Path) -> None:
    bad = folder / "bad.tsv"
    bad.write_bytes(b"a\tO\n" * 5000 + b"caf\xe9\tO\n")
    with pytest.raises(DataError, match=r"bad.tsv, line 5001: the text is not UTF-8"):
        read_conll(bad)
    cut = write(folder / "cut.tsv.gz", "".join(f"word{number * number}\tO\n" for number in range(3000)))
    cut.write_bytes(cut.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"cut.tsv.gz: the file is damaged"):
        read_conll(cut)
    with pytest.raises(DataError, match=r"gone.tsv: there is no such file"):
        read_conll(folder / "gone.tsv")
    with pytest.raises(DataError, match=r"cannot be read"):
        read_conll(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tag": 5}, r"t.tsv: tag is column 5, and the file has 3"),
        ({"word": -4}, r"t.tsv: word is column -4, and the file has 3"),
        ({"tag": 0}, r"t.tsv: word and tag are both column 0"),
        ({"tag": "ner"}, r"t.tsv: tag is 'ner', allowed are a number, or for CoNLL-U 'id', 'form'"),
        ({"scheme": "BIO"}, r"scheme: got 'BIO', allowed are 'IOB1', 'IOB2', 'IOBES'"),
        ({"tag": 1, "target": "IOBES"}, r"target: got 'IOBES', but the tags mark no spans: 'DT', 'NN'"),
        ({"scheme": "IOB2"}, r"t.tsv, line 1: the tag is 'S-X'; IOB2 has 'O', and B-, I- with a type"),
    ],
)
def test_settings_that_do_not_fit(folder: Path, settings: dict[str, object], message: str) -> None:
    path = write(folder / "t.tsv", "a\tDT\tS-X\nb\tNN\tO\n")
    with pytest.raises(BertCompressError, match=message) as caught:
        load_conll_files("t", {"train": path}, **settings)  # type: ignore[arg-type]
    assert isinstance(caught.value, (ConfigError, DataError))


def test_files_of_one_task_have_the_same_columns(folder: Path) -> None:
    files = {
        "train": write(folder / "a.tsv", "a\tx\tB-X\nb\tx\tO\n"),
        "test": write(folder / "b.tsv", "a\tx\ty\tB-X\n"),
    }
    with pytest.raises(DataError, match=r"b.tsv: it has 4 columns, the other files of the task have 3"):
        load_conll_files("t", files)


def test_spans_may_be_taken_as_plain_tags(folder: Path) -> None:
    task = load_conll_files("t", {"train": write(folder / "t.tsv", "a\tX-Y\nb\tB-X\nc\tI-X\n")}, scheme="")
    assert (task.scheme, task.labels, task.metric) == ("", ("B-X", "I-X", "X-Y"), "token_accuracy")
