"""What a reader should know of a task of one's own, said from what was counted when its files were read.

What was counted may come from the cache; the metric and the paths are those of the task that is loaded now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertcompress.data.columns import unit_of
from bertcompress.errors import allowed

RARE, FREQUENT = 0.01, 0.9  # shares of a class from which on accuracy says little


def written_notes(
    known: Mapping[str, Any], paths: Mapping[str, Path], labels: Sequence[str], metric: str
) -> Iterator[str]:
    """Yield a note on whatever of this there is.

    Args:
        known: `late`: split -> tags that train lacks; `blank`: split -> number of empty texts and line of the first;
            `counts`: examples of each class in train; `shared`: split -> number of examples whose text train has too,
            and of all; `held`: number of examples held out of train. Keys may be missing.
        paths: of the file of each split.
        labels: names of the classes.
        metric: that a model is chosen by.
    """
    for split, tags in known.get("late", {}).items():
        yield f"{split}: it has tags that no model can learn, as train lacks them: {allowed(tags[:9])}"
    for split, (count, first) in known.get("blank", {}).items():
        where = f"{paths[split]}, {unit_of(paths[split])} {first}"
        yield f"{split}: {count} examples have an empty text, the first in {where}"
    if "counts" in known:
        yield from _imbalance(known["counts"], labels, metric)
    for split, (shared, examples) in known.get("shared", {}).items():
        yield (
            f"{split}: {shared} of {examples} examples have a text that is in train as well (but for case and "
            "punctuation), so that scores on them say little"
        )
    if "held" in known:
        yield f"validation: {known['held']} examples held out of train by a hash of their text"


def _imbalance(counts: Mapping[str, int], labels: Sequence[str], metric: str) -> Iterator[str]:
    """Yield a note on classes that are so frequent or rare that accuracy says little.

    A class is rare below 1 %, or, where there are more than fifty, below half of an even share.
    """
    ordered = Counter({name: counts.get(name, 0) for name in labels}).most_common()
    (most, high), (least, low) = ordered[0], ordered[-1]
    total = sum(counts.values())
    if high <= FREQUENT * total and low >= min(RARE, 0.5 / len(labels)) * total:
        return
    others = "matthews_correlation or f1" if len(labels) == 2 else "matthews_correlation"
    advice = f"; accuracy says little then, metric: {others} says more" if metric == "accuracy" else ""
    yield f"train: the classes are unbalanced, {high} of {total} examples are {most!r} and {low} are {least!r}{advice}"
