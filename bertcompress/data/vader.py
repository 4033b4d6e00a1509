"""The four sentiment data sets of the VADER paper, which work wherever `pip` works.

Each text was rated from -4 (very negative) to 4 (very positive) by about twenty people (Hutto and Gilbert, "VADER",
ICWSM 2014); the files give the mean. Every data set comes as four tasks:

- `movie-reviews`: positive if the mean rating is above 0, otherwise negative. No text is left out, so that the
  few with a mean of exactly 0 (37 of 10,605 movie reviews) count as negative.
- `movie-reviews-rating`: regression of the mean rating.
- `movie-reviews-text`: the texts alone, unlabelled.
- `movie-reviews-embedding`: the texts alone, for sentence encoders, which are judged by their loyalty to a teacher.

They share their splits: 80/10/10 by a hash of the text, so the texts of one never hold the test texts of another.
Two things are mended in the texts, both leftovers of an export: HTML entities (`&amp;amp;`) are decoded, and two
apostrophes that stand for a quotation mark (`''the other''`) become one.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

from bertcompress.data.base import Task, make_dataset
from bertcompress.data.sources import VADER, fetch, read_nested
from bertcompress.data.splits import position, split_three
from bertcompress.errors import DataError

_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_FILE = "hutto_ICWSM_2014/{}_GroundTruth.txt"
LABELS = ("negative", "positive")
VARIANTS = {
    "": ("classification", "accuracy"),
    "-rating": ("regression", "pearson"),
    "-text": ("unlabelled", ""),
    "-embedding": ("embedding", ""),
}


@dataclass(frozen=True)
class Corpus:
    """One of the data sets: the stem of its file and the number of texts in it."""

    file: str
    examples: int


CORPORA = {
    "movie-reviews": Corpus("movieReviewSnippets", 10605),
    "product-reviews": Corpus("amazonReviewSnippets", 3708),
    "tweets": Corpus("tweets", 4200),
    "editorials": Corpus("nytEditorialSnippets", 5190),
}


def load_vader(name: str) -> Task:
    """Return one of the tasks; the archive is fetched on the first use.

    Raises:
        DataError: if the archive cannot be fetched or does not hold what it should.
    """
    variant = next(suffix for suffix in VARIANTS if suffix and name.endswith(suffix)) if name not in CORPORA else ""
    corpus = CORPORA[name.removesuffix(variant)]
    member = _FILE.format(corpus.file)
    texts, ratings = parse(read_nested(fetch(VADER), _ARCHIVE, member).decode("utf-8"), member)
    if len(texts) != corpus.examples:
        raise DataError(f"{member}: it holds {len(texts)} texts, expected are {corpus.examples}.")
    columns: dict[str, list[str] | list[int] | list[float]] = {"text": texts}
    if variant == "":
        columns["label"] = [int(rating > 0) for rating in ratings]
    elif variant == "-rating":
        columns["label"] = ratings
    splits = {
        split: make_dataset({column: [values[row] for row in rows] for column, values in columns.items()})
        for split, rows in split_three([position(text) for text in texts]).items()
    }
    kind, metric = VARIANTS[variant]
    source = f"{VADER.requirement} (Hutto and Gilbert 2014), file {member}"
    return Task(name, kind, LABELS if variant == "" else (), metric, **splits, source=source)


def parse(content: str, where: str) -> tuple[list[str], list[float]]:
    """Return the texts and mean ratings of a ground-truth file: id, mean rating, text, separated by tabs.

    Raises:
        DataError: naming the line that is not of this form.
    """
    texts, ratings = [], []
    for number, line in enumerate(content.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line:
            continue
        fields = line.split("\t")
        try:
            _, rating, text = fields[0], float(fields[1]), fields[2]
        except (IndexError, ValueError):
            raise DataError(
                f"{where}, line {number}: got {line[:80]!r}, expected are id, mean rating and text."
            ) from None
        if len(fields) != 3 or not math.isfinite(rating):
            raise DataError(f"{where}, line {number}: got {line[:80]!r}, expected are id, mean rating and text.")
        texts.append(mend(text))
        ratings.append(rating)
    return texts, ratings


def mend(text: str) -> str:
    """Return the text with HTML entities decoded (some were encoded twice) and '' as a quotation mark."""
    return html.unescape(html.unescape(text)).replace("''", '"').strip()
