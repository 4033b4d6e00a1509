"""Where students depart from their teachers: on the page and in the Markdown, for every kind of task."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bertcompress.report import Run, breakdown, compare, model_card, render_html, render_markdown
from bertcompress.report.departures import ROWS, TITLE

KINDS = ("classification", "tagging", "question_answering", "regression", "embedding")
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x00\u202e`|**\n# x"
HEBREW = "\u05d4\u05e1\u05e8\u05d8 \u05d4\u05d9\u05d4 \u05de\u05e6\u05d5\u05d9\u05df"
VOID = ("meta", "link", "br", "wbr")


class Page(HTMLParser):
    """Collects tags and visible text, and checks that every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def section(html: str) -> str:
    found = re.search(r'<section id="departures".*?</section>', html, flags=re.DOTALL)
    return found[0] if found else ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_bars_and_its_examples(kinds: ModuleType, kind: str) -> None:
    results = kinds.of_kind(kind)
    html = render_html([Run(results)])
    Page(html)
    part = section(html)
    drawings = [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", part, flags=re.DOTALL)]
    students = [entry["breakdown"] for entry in results["models"][1:]]
    parts = [(each, name) for each in students for name in ("by_group", "by_confidence") if each[name]]
    assert len(drawings) == len(parts)
    for drawing, (each, name) in zip(drawings, parts, strict=True):
        bars = [mark for mark in drawing.iter() if mark.get("class") == "share s0"]
        full = 396.0 - 150.0
        assert [float(bar.get("width", "")) / full for bar in bars] == pytest.approx(
            [share["label"] for share in each[name]], abs=1e-4
        )
    assert part.count('<td data-label="Student">') == sum(len(each["departures"]) for each in students)
    assert len(html.encode()) < 300_000


@pytest.mark.parametrize("kind", KINDS)
def test_markdown_says_the_same(kinds: ModuleType, kind: str) -> None:
    results = kinds.of_kind(kind)
    html = MarkdownIt("commonmark").enable("table").render(render_markdown([Run(results)]))
    assert f"<h2>{TITLE}</h2>" in html
    part = html[html.index(TITLE) : html.index("What it cost to make")]
    rows = sum(len(re.findall("<tr>", body)) for body in re.findall(r"<tbody>.*?</tbody>", part, flags=re.DOTALL))
    lists = ("by_group", "by_confidence", "departures")
    assert rows == sum(len(entry["breakdown"][name]) for entry in results["models"][1:] for name in lists)


@pytest.mark.parametrize(
    ("kind", "titles", "clause"),
    [
        ("classification", ("Label loyalty", "Prob. loyalty"), "agrees with the teacher on 93.1 % of examples"),
        ("tagging", ("Label loyalty", "Entity loyalty (F1)"), "agrees with the teacher on 95.7 % of words"),
        ("question_answering", ("Answer loyalty", "Prob. loyalty"), "agrees with the teacher on 71.2 % of questions"),
        ("regression", ("Concordance",), "predicts with a concordance of \u22120.123 to the teacher"),
        ("embedding", ("Shared neighbours", "Similarity correlation"), "shares 62.1 % of the teacher's nearest"),
    ],
)
def test_loyalty_is_named_by_kind(kinds: ModuleType, kind: str, titles: tuple[str, ...], clause: str) -> None:
    run = Run(kinds.of_kind(kind))
    html = render_html([run])
    heads = " ".join(Page(re.findall(r"<thead>.*?</thead>", html, flags=re.DOTALL)[0]).words.split())
    assert all(title in heads for title in titles)
    if kind in ("regression", "embedding"):
        assert "Label loyalty" not in html
        assert "Prob. loyalty" not in heads
    assert clause in compare.verdict(run).headline.replace("\u202f", " ")
    defined = html[html.index('id="definitions"') :]
    assert f"<dt>{compare.loyalty_name(kind, 'label')}</dt>" in defined
    assert titles[0] in render_markdown([run])


def test_loyalty_below_zero_is_shown_as_it_is(kinds: ModuleType) -> None:
    words = Page(render_html([Run(kinds.of_kind("regression"))])).words
    assert "\u22120.123" in words
    assert "\u22120.143 to \u22120.123" in words
    card = model_card(kinds.of_kind("regression"), "1-extract_then_distill")
    assert "\u22120.123" in card
    assert "Loyalty to the teacher was not measured" not in card


def test_kinds_side_by_side_have_columns_and_definitions_of_both(kinds: ModuleType) -> None:
    html = render_html([Run(kinds.of_kind("classification")), Run(kinds.of_kind("regression"))])
    words = Page(html).words
    assert "Label loyalty / Concordance" in words
    assert "probability loyalty was not measured" in words
    assert "Label loyalty (classification)" in words
    assert "Concordance (regression)" in words


def test_runs_without_a_breakdown_show_nothing(kinds: ModuleType) -> None:
    results = kinds.of_kind("classification")
    for entry in results["models"]:
        entry.pop("breakdown", None)
    html = render_html([Run(results)])
    assert section(html) == ""
    assert TITLE not in html + render_markdown([Run(results)])
    assert "McNemar" not in html


@pytest.mark.parametrize("damage", [None, "text", 3, [], [None], ["x"], {}, {"a": 1}, [{"units": "many", "label": 2}]])
@pytest.mark.parametrize("field", ["by_group", "by_confidence", "departures", "mcnemar", "unit", "whole"])
def test_damaged_breakdowns_are_no_trouble(kinds: ModuleType, field: str, damage: object) -> None:
    results = kinds.of_kind("classification")
    if field == "whole":
        results["models"][1]["breakdown"] = damage
    else:
        results["models"][1]["breakdown"][field] = damage
    html = render_html([Run(results)])
    Page(html)
    assert section(html)
    assert TITLE in render_markdown([Run(results)])


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_the_data_never_become_markup(kinds: ModuleType, kind: str) -> None:
    results = kinds.of_kind(kind)
    found = results["models"][1]["breakdown"]
    for each in found["departures"]:
        each |= dict.fromkeys(("text", "text_pair", "gold", "teacher", "student"), HOSTILE) | {"at": [3, 9]}
    for place, each in enumerate(found["by_group"]):
        each["name"] = HOSTILE + str(place)
    found |= {"group": HOSTILE, "agreement": HOSTILE, "distance": HOSTILE, "unit": HOSTILE}
    long = copy.deepcopy(found["departures"][0])
    found["departures"].append({**long, "text": HOSTILE * 100, "at": [2000, 2040], "student": HOSTILE * 40})
    html = render_html([Run(results)])
    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "alert(1)" in page.words
    text = render_markdown([Run(results)])
    assert not set("\x00\u202e") & set(html + text)
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert "<script>" not in rendered
    assert "<img" not in rendered
    assert rendered.count("<h1>") == 1


def test_text_from_right_to_left_keeps_to_itself(kinds: ModuleType) -> None:
    results = kinds.of_kind("classification")
    departures = results["models"][1]["breakdown"]["departures"] = [
        {"example": 0, "text": HEBREW, "gold": HEBREW, "teacher": "x", "student": HEBREW, "distance": 0.5}
    ]
    part = section(render_html([Run(results)]))
    assert part.count(f'<div class="foreign" dir="auto">{HEBREW}</div>') == 3
    line = next(line for line in render_markdown([Run(results)]).splitlines() if HEBREW in line)
    assert line.count("\u2068") == line.count("\u2069") == line.count(HEBREW) == 3
    assert len(departures) == 1


def test_texts_are_shortened_and_the_rest_is_folded(kinds: ModuleType) -> None:
    results = kinds.of_kind("classification")
    long = "word " * 1000
    departure = {"text": long, "gold": None, "teacher": "", "student": "b", "teacher_probability": None, "distance": 1}
    results["models"][1]["breakdown"]["departures"] = [departure] * (ROWS + 3)
    del results["models"][2]["breakdown"]
    part = section(render_html([Run(results)]))
    assert "3 more departures" in part
    assert part.count("<details") == 1 + ROWS + 3
    assert part.count("word ") < 300 * (ROWS + 3)
    assert "3,800 characters of it left out here" in part
    assert ">Gold<" not in part
    assert "(empty)" in part
    assert "sure" not in part


def test_many_groups_are_cut_to_the_largest(kinds: ModuleType) -> None:
    results = kinds.of_kind("classification")
    groups = [{"name": f"g{place}", "units": 1 + place, "label": 0.5, "interval": [0.4, 0.6]} for place in range(150)]
    results["models"][1]["breakdown"]["by_group"] = groups
    run = Run(results)
    found = breakdown.read(run.entries[1])
    assert found is not None
    assert [each.name for each in found.groups] == [f"g{place}" for place in range(130, 150)]
    units = sum(range(1, 131))
    for words in (Page(render_html([run])).words, render_markdown([run])):
        told = words.replace("\u202f", " ")
        assert f"Not shown: 130 smaller groups of {units:,} examples in all, 50.0 % kept." in told


def test_the_dotted_line_is_all_units_and_not_only_those_shown(kinds: ModuleType) -> None:
    results = kinds.of_kind("classification")
    large = [{"name": f"g{place}", "units": 100, "label": 1.0, "interval": [0.9, 1.0]} for place in range(20)]
    small = [{"name": f"s{place}", "units": 50, "label": 0.25, "interval": [0.1, 0.4]} for place in range(40)]
    found = results["models"][1]["breakdown"]
    found["by_group"] = small + large
    found["by_confidence"] = [{"from": 0.9, "to": 1.0, "units": 7, "label": 0.0, "interval": [0.0, 0.4]}]
    del results["models"][2]["breakdown"]
    html = render_html([Run(results)])
    assert "dotted: all examples together" in Page(html).words
    drawings = [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", section(html), flags=re.DOTALL)]
    dotted = [float(mark.get("x1", "")) for each in drawings for mark in each.iter() if mark.get("class") == "front"]
    assert dotted == pytest.approx([150 + 246 * 0.625] * 2, abs=0.1)


Test = Callable[..., str]


@pytest.fixture
def tested(kinds: ModuleType) -> Test:
    """Return the sentence about a test."""

    def sentence(student: int, teacher: int, p_value: Any, unit: str = "examples") -> str:
        results = kinds.of_kind("classification")
        counts = {"both": 900, "neither": 10, "student_only": student, "teacher_only": teacher, "p_value": p_value}
        results["models"][1]["breakdown"] = {"unit": unit, "mcnemar": counts, "by_group": []}
        found = breakdown.read(Run(results).entries[1])
        return found.tested if found else ""

    return sentence


def test_mcnemar_in_plain_words(tested: Test) -> None:
    assert tested(12, 20, 0.2153) == (
        "Of 942 examples, both models have 900 right and 10 wrong; the student alone is right on 12, the teacher alone "
        "on 20; p = 0.22 (McNemar's exact test): no difference shown."
    )
    assert "p < 0.001 (McNemar's exact test): the teacher is right more often" in tested(12, 70, 1e-9)
    assert "the student is right more often" in tested(70, 12, 0.002)
    assert "p = 1 (" in tested(3, 3, 1.0)
    assert "over whole sentences" in tested(12, 20, 0.2, "words")
    assert tested(12, 20, None) == tested(12, 20, 7) == tested(12, -1, 0.5) == ""


@pytest.mark.parametrize(
    ("p_value", "shown"), [(0.0499, "p = 0.0499"), (0.04999, "p = 0.04999"), (0.0501, "p = 0.050")]
)
def test_p_values_are_not_rounded_over_their_level(tested: Test, p_value: float, shown: str) -> None:
    sentence = tested(12, 25, p_value)
    assert shown + " " in sentence
    assert ("no difference" in sentence) is (p_value >= 0.05)


@given(st.text(max_size=90), st.integers(0, 90), st.integers(1, 40), st.integers(5, 60))
def test_windows_hold_the_marked_part(content: str, start: int, length: int, most: int) -> None:
    at = (start, start + length) if start + length <= len(content) else None
    before, inside, after = breakdown.window(content, at, most)
    assert len(before + inside + after) <= most + 2 or len(content) <= most
    if at:
        cleaned = breakdown.text.foreign(content[at[0] : at[1]])
        assert cleaned.startswith(inside)
        assert inside == cleaned or len(content) > most
    else:
        assert inside == ""
