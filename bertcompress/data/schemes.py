"""Tags that mark spans of words: finding out the scheme they are in, and converting between schemes.

A tag is `O` (outside), or a letter and the span's type, such as `B-PER`; data sets with a single type may leave the
type out (`B`). With two persons side by side, then a place of one word, the schemes are:

    words    John  Smith  Ann    of  Kent
    IOB2     B-PER I-PER  B-PER  O   B-LOC     every span begins with B
    IOB1     I-PER I-PER  B-PER  O   I-LOC     B only where a span follows one of the same type at once
    IOBES    B-PER E-PER  S-PER  O   S-LOC     the last word has E, a span of one word S

Sequences that no scheme allows (I after O in IOB2) are read as the conlleval script reads them: a span ends where
the type changes, before B and S, and after E and S; any other word that is not outside goes on with the span before
it, or begins one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from bertcompress.data.base import SCHEMES
from bertcompress.errors import ConfigError, DataError, allowed

OUTSIDE = "O"
_LETTERS = {"IOB1": "BI", "IOB2": "BI", "IOBES": "BIES"}
_OTHER_LETTERS = {"L": "E", "U": "S", "M": "I", "W": "S"}  # BILOU and BMEWO are IOBES with other letters
_TYPED = re.compile(r"([BIESLUMW])-(.+)", re.DOTALL)


def split_tag(tag: str) -> tuple[str, str]:
    """Return letter and type of a tag that marks spans: ("B", "PER"), ("B", "") for a bare B, ("O", "")."""
    return tag[:1], tag[2:]


def marks_spans(tags: Mapping[str, int]) -> bool:
    """Return whether tags mark spans, given how often each occurs.

    They do where at least half of the words that are not outside have a letter and a type (`B-PER`), or where there
    are only bare letters, B or I among them. Tags of parts of speech are neither.
    """
    inside = {tag: count for tag, count in tags.items() if tag != OUTSIDE}
    typed = sum(count for tag, count in inside.items() if _TYPED.fullmatch(tag))
    bare = all(len(tag) == 1 and tag in "BIESLUMW" for tag in inside) and not inside.keys().isdisjoint("BI")
    return bare or (typed > 0 and 2 * typed >= sum(inside.values()))


def usual_tag(tag: str) -> str | None:
    """Return a tag in the letters of IOBES (`U-PER` is `S-PER`), or None if it marks neither a span nor its absence."""
    if tag == OUTSIDE:
        return tag
    if len(tag) != 1 and not _TYPED.fullmatch(tag):
        return None
    letter = _OTHER_LETTERS.get(tag[0], tag[0])
    return letter + tag[1:] if letter in "BIES" else None


def scheme_has(tag: str, scheme: str) -> bool:
    """Return whether a scheme has such a tag; the scheme "" has every tag."""
    return not scheme or tag == OUTSIDE or (usual_tag(tag) == tag and tag[0] in _LETTERS[scheme])


def tags_of(scheme: str) -> str:
    """Return what tags a scheme has, for messages."""
    return f"{scheme} has 'O', and {', '.join(f'{letter}-' for letter in _LETTERS[scheme])} with a type"


def find_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """Return the scheme of sentences of tags: one of `SCHEMES`, or "" where they mark no spans.

    IOBES is found by its letters E and S. Otherwise the spans that do not follow another of their type are counted:
    in IOB2 they begin with B, in IOB1 with I; the more frequent letter decides, IOB2 if both are equally frequent.
    """
    counts: Counter[str] = Counter()
    starts: Counter[str] = Counter()
    for tags in sentences:
        counts.update(tags)
        before: str | None = None  # type of the span that the word before is in
        for tag in tags:
            letter, kind = split_tag(tag)
            if letter != OUTSIDE and kind != before:
                starts[letter] += 1
            before = kind if letter != OUTSIDE else None
    if not marks_spans(counts):
        return ""
    if {split_tag(usual_tag(tag) or OUTSIDE)[0] for tag in counts} & set("ES"):
        return "IOBES"
    return "IOB1" if starts["I"] > starts["B"] else "IOB2"


def metric_of_tags(metric: str | None, scheme: str, where: str) -> str:
    """Return the metric of a tagging task: the one asked for, or the usual one if that is None.

    Args:
        metric: that was asked for.
        scheme: of the tags; "" if they mark no spans.
        where: the metric was asked for, for messages.

    Raises:
        ConfigError: for a metric of spans where the tags mark none.
    """
    if metric is None:
        return "entity_f1" if scheme else "token_accuracy"
    if metric.startswith("entity") and not scheme:
        raise ConfigError(f"{where}: got {metric!r}, allowed is token_accuracy here, as the tags mark no spans.")
    return metric


def read_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return type, first word and the word after the last of each span, in order, whatever the scheme.

    Raises:
        DataError: for a tag without one of the letters O, B, I, E, S.
    """
    spans: list[tuple[str, int, int]] = []
    open_span = False
    for at, tag in enumerate(tags):
        if tag == OUTSIDE:
            open_span = False
            continue
        letter, kind = split_tag(tag)
        if usual_tag(tag) != tag:
            raise DataError(f"word {at + 1}: its tag is {tag!r}; {tags_of('IOBES')}.")
        if open_span and letter in "IE" and spans[-1][0] == kind:
            spans[-1] = (kind, spans[-1][1], at + 1)
        else:
            spans.append((kind, at, at + 1))
        open_span = letter in "BI"
    return spans


def write_spans(spans: Sequence[tuple[str, int, int]], length: int, scheme: str) -> list[str]:
    """Return the tags of `length` words in a scheme, given their spans in order.

    Raises:
        ConfigError: for a scheme that does not exist.
    """
    _check_scheme("write_spans", scheme)
    tags = [OUTSIDE] * length
    previous, end = "", -1  # type of the span before, and the word after it
    for kind, first, after in spans:
        letters = ["I"] * (after - first)
        if scheme != "IOB1" or (first == end and kind == previous):
            letters[0] = "B"
        if scheme == "IOBES":
            letters[-1] = "E" if after - first > 1 else "S"
        tags[first:after] = [f"{letter}-{kind}" if kind else letter for letter in letters]
        previous, end = kind, after
    return tags


def convert_scheme(tags: Sequence[str], source: str, target: str) -> list[str]:
    """Return the tags of one sentence in another scheme; with both the same, tags that the scheme allows.

    Converting there and back gives the same tags, where they were what their scheme allows.

    Args:
        tags: of the words of one sentence.
        source: the scheme that they are in.
        target: the scheme to write them in.

    Raises:
        ConfigError: for a scheme that does not exist.
        DataError: for a tag that is not of the source scheme.
    """
    _check_scheme("source", source)
    _check_scheme("target", target)
    for at, tag in enumerate(tags):
        if not scheme_has(tag, source):
            raise DataError(f"word {at + 1}: its tag is {tag!r}; {tags_of(source)}.")
    return write_spans(read_spans(tags), len(tags), target)


def tag_order(tag: str) -> tuple[int, str, int]:
    """Return what tags that mark spans are sorted by: O first, then by type, the letters of a type together."""
    letter, kind = split_tag(tag)
    return (0, "", 0) if tag == OUTSIDE else (1, kind, "BIES".find(letter))


def _check_scheme(what: str, scheme: str) -> None:
    if scheme not in SCHEMES:
        raise ConfigError(f"{what}: the scheme is {scheme!r}, allowed are {allowed(SCHEMES)}.")
