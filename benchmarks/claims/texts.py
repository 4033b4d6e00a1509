"""A sample of news, reviews and encyclopedia text: what students are distilled on."""

from __future__ import annotations

import gzip
import html
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path

SEED = 20
SENTENCE = re.compile(r"(?<=[.!?])\s+")
WORDS = (8, 40)  # of a text


def sample(data: Path, count: int) -> list[str]:
    """Return as many texts of each source, mixed; the same ones every time.

    Args:
        data: the folder of the data sets.
        count: texts of each source.
    """
    mixed = []
    for source in (reuters, reviews, encyclopedia):
        found = list(dict.fromkeys(text for text in source(data) if WORDS[0] <= len(text.split()) <= WORDS[1]))
        mixed += random.Random(SEED).sample(found, count)
    random.Random(SEED).shuffle(mixed)
    return mixed


def reuters(data: Path) -> Iterator[str]:
    """Yield the sentences of Reuters' first 2,000 articles."""
    for name in ("reut2-000.sgm.gz", "reut2-001.sgm.gz"):
        with gzip.open(data / "reuters21578" / name, "rt", encoding="latin-1") as file:
            for body in re.findall(r"<BODY>(.*?)</BODY>", file.read(), re.DOTALL):
                yield from sentences(html.unescape(body))


def reviews(data: Path) -> Iterator[str]:
    """Yield the sentences of unlabelled film reviews."""
    with gzip.open(data / "imdb" / "unsup_10k.txt.gz", "rt", encoding="utf-8") as file:
        for line in itertools.islice(file, 3000):
            yield from sentences(line.replace("<br />", " "))


def encyclopedia(data: Path) -> Iterator[str]:
    """Yield the sentences of Wikipedia articles."""
    (path,) = sorted((data / "wikitext-2").glob("*valid*"))
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as file:
        for line in file:
            if not line.strip().startswith("="):
                yield from (each for each in sentences(re.sub(r" @(.)@ ", r"\1", line)) if "<unk>" not in each)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text, in one line each."""
    for each in SENTENCE.split(" ".join(text.split())):
        yield each.strip()
