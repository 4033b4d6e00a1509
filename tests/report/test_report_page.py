"""The HTML page: well formed, self-contained, true to the results, and safe with hostile names."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest

from bertcompress.report import Run, render_html

Fictional = Callable[[str], dict[str, Any]]
NAMES = ("quickstart", "bert_base", "nas", "regression", "worse")
VOID = {"meta", "link", "br", "wbr"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\x00\x1b${title}$style|`]]>"


class Page(HTMLParser):
    """Collects tags, attributes, table cells and visible text, and checks that every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def drawings(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)]


@pytest.mark.parametrize("name", NAMES)
def test_page_is_well_formed_and_its_drawings_are_xml(fictional: Fictional, name: str) -> None:
    html = render_html([Run(fictional(name))])
    page = Page(html)
    assert len(page.named("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    labelled = [each for each in drawings(html) if each.get("role") == "img"]
    assert len(labelled) >= 3
    assert all(each.get("aria-label") for each in labelled)
    hidden = [each for each in drawings(html) if each.get("role") != "img"]
    assert all(each.get("aria-hidden") == "true" for each in hidden)


@pytest.mark.parametrize("name", NAMES)
def test_page_loads_nothing_and_is_small(fictional: Fictional, name: str) -> None:
    html = render_html([Run(fictional(name))])
    page = Page(html)
    assert not page.named("script")
    assert not page.named("iframe")
    assert not page.named("img")
    loading = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "srcset")]
    assert loading == []
    assert [each["href"] for each in page.named("link")] == ["data:,"]
    assert all(each["href"].startswith("https://") for each in page.named("a"))
    assert not re.search(r"@import|url\((?!#int8\))", html)
    assert len(html.encode()) < 300_000


def test_many_steps_stay_within_the_size_limit(fictional: Fictional) -> None:
    runs = [Run({**fictional(name), "name": f"{name}-{copy}"}) for name in NAMES for copy in range(2)]
    many = fictional("bert_base")
    for entry in many["models"]:
        entry["curves"] = {"loss": [[step, 1 / (step + 1)] for step in range(50_000)], "score": []}
    assert len(render_html([Run(many)]).encode()) < 300_000
    assert len(render_html(runs[:5]).encode()) < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_table_holds_the_results_own_numbers(fictional: Fictional, name: str) -> None:
    results = fictional(name)
    html = render_html([Run(results)])
    table = html[html.index('id="models"') : html.index("</table>", html.index('id="models"'))]
    rows = re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1], flags=re.DOTALL)
    assert len(rows) == len(results["models"])
    for row, entry in zip(rows, results["models"], strict=True):
        shown = {float(value) for value in re.findall(r'<data value="([^"]+)"', row)}
        latency = entry["measured"].get("latency", {})
        wanted = [
            entry["parameters"],
            entry["macs"],
            entry["file_bytes"],
            entry["scores"][results["task"]["metric"]],
            entry["measured"]["peak_memory_mib"],
            *[entry["loyalty"][each] for each in ("label", "probability") if "loyalty" in entry],
            *[latency[each] for each in ("p50_ms", "throughput_examples_per_second", "speedup") if latency],
        ]
        assert {float(value) for value in wanted} <= shown
        assert shown <= {float(value) for value in wanted}


def test_shown_numbers_are_the_results_rounded(fictional: Fictional) -> None:
    words = Page(render_html([Run(fictional("quickstart"))])).words.replace("\u202f", " ")
    for shown in ("22.7 M", "10.8 M", "1.43 G", "86.7", "0.863", "0.842 to 0.884", "93.1 %", "3.11\u00d7", "1,061"):
        assert shown in words


def test_hostile_names_stay_text(fictional: Fictional) -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(each) for key, each in value.items()}
        if isinstance(value, list):
            return [poison(each) for each in value]
        return HOSTILE if isinstance(value, str) else value

    results = fictional("quickstart")
    specs = [copy.deepcopy(entry["spec"]) for entry in results["models"]]
    poisoned = poison(results)
    for entry, spec in zip(poisoned["models"], specs, strict=True):
        entry["spec"] = spec
        entry["settings"] = {HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}}
        entry["scores"] = {HOSTILE: 0.5}
        entry["measured"]["assumptions"] = {HOSTILE: HOSTILE}
    poisoned["task"]["metric"] = HOSTILE
    html = render_html([Run(poisoned, {HOSTILE: HOSTILE, "command": HOSTILE}, f"compress: {HOSTILE}\n</pre>{HOSTILE}")])
    page = Page(html)
    assert not page.named("script")
    assert not page.named("img")
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert not set("\x00\x1b") & set(html)
    assert drawings(html)
    assert "alert(1)" in page.words


def test_same_runs_give_the_same_page(fictional: Fictional) -> None:
    first = render_html([Run(fictional("nas"), {"cpu": "x"}), Run(fictional("worse"))])
    second = render_html([Run(fictional("nas"), {"cpu": "x"}), Run(fictional("worse"))])
    assert first == second


def test_missing_parts_are_named_not_invented(fictional: Fictional) -> None:
    page = Page(render_html([Run(fictional("regression"))]))
    for reason in (
        "concordance was not measured",
        "Concordance is not plotted",
        "latency was not measured",
        "No plot against latency",
        "energy was not estimated",
        "not every step has this figure, so there is no sum",
        "No environment is recorded.",
        "No config.yaml is in the run's folder.",
        "The run recorded no assumptions",
        "The run did not record its command",
    ):
        assert reason in page.words


@pytest.mark.parametrize("field", ["spec", "parameters", "macs", "file_bytes", "scores", "measured", "curves", "seeds"])
@pytest.mark.parametrize("damage", [None, "nonsense", [], float("nan"), {"accuracy": float("inf")}])
def test_any_field_may_be_absent_or_damaged(fictional: Fictional, field: str, damage: object) -> None:
    results = fictional("quickstart")
    for entry in results["models"]:
        entry[field] = damage
    words = Page(render_html([Run(results)])).words
    assert "nan" not in words.lower().replace("finance", "")
    assert "nonsense" not in words


def test_run_without_models_says_so() -> None:
    words = Page(render_html([Run({"format_version": 1, "name": "empty", "models": []})])).words
    assert "no finished model" in words


def test_interrupted_run_names_what_has_no_result(fictional: Fictional, builders: ModuleType) -> None:
    results = fictional("quickstart")
    results["models"] = results["models"][:2]
    words = Page(render_html([Run(results, {}, builders.CONFIG)])).words
    assert "quickstart is not finished: 2-post_training_quantization has no result yet" in words
    finished = Page(render_html([Run(fictional("quickstart"), {}, builders.CONFIG)])).words
    assert "not finished" not in finished


def test_comparison_numbers_all_models_and_groups_them_by_run(fictional: Fictional) -> None:
    html = render_html([Run(fictional("quickstart")), Run(fictional("worse"))])
    table = html[html.index('id="models"') : html.index("</table>")]
    assert re.findall(r'<span class="badge[^"]*">(\d+)</span>', table) == ["1", "2", "3", "4", "5"]
    assert "quickstart makes the smallest file and answers fastest; no score is clearly highest." in Page(html).words


def test_comparison_of_different_tasks_warns(fictional: Fictional) -> None:
    words = Page(render_html([Run(fictional("quickstart")), Run(fictional("nas"))])).words
    assert "their scores do not compare" in words
    assert "scores highest" not in words


def test_comparison_across_machines_does_not_name_a_fastest(fictional: Fictional) -> None:
    runs = [Run(fictional("quickstart"), {"cpu": "one"}), Run(fictional("worse"), {"cpu": "other"})]
    words = Page(render_html(runs)).words
    assert "times do not compare" in words
    assert "fastest" not in words
