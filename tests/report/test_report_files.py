"""Reading run folders, writing reports, Markdown and model cards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from bertcompress.errors import RunError
from bertcompress.report import Run, model_card, render_html, render_markdown, write_report

Fictional = Callable[[str], dict[str, Any]]
HOSTILE = "a | b\n# head `code` <b>x</b> [y](z) *w* --- \x00"


def test_fixtures_are_what_their_builder_writes(builders: ModuleType) -> None:
    for name, build in builders.BUILDERS.items():
        assert (builders.FOLDER / f"{name}.json").read_text(encoding="utf-8") == builders.content(build())


def test_one_run_is_reported_in_its_own_folder(
    fictional: Fictional, run_folder: Callable[..., Path], builders: ModuleType
) -> None:
    folder = run_folder(fictional("quickstart"), builders.CONFIG)
    path = write_report([folder])
    assert path == folder / "report.html"
    run = Run(fictional("quickstart"), builders.ENVIRONMENT, builders.CONFIG)
    assert path.read_text(encoding="utf-8") == render_html([run])
    assert (folder / "report.md").read_text(encoding="utf-8") == render_markdown([run])
    assert sorted(each.name for each in folder.iterdir()) == sorted(
        ["config.yaml", "environment.json", "report.html", "report.md", "results.json"]
    )


def test_several_runs_go_to_the_output(fictional: Fictional, run_folder: Callable[..., Path], tmp_path: Path) -> None:
    folders = [run_folder(fictional("quickstart")), run_folder(fictional("worse"))]
    path = write_report(folders, tmp_path / "deep" / "comparison")
    assert path.is_file()
    assert "2 runs compared" in path.read_text(encoding="utf-8")
    with pytest.raises(RunError, match="no output"):
        write_report(folders)
    with pytest.raises(RunError, match="no run"):
        write_report([])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "Run the same"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "allowed is an object"),
        ('{"format_version": 2, "models": []}', "Update bertcompress"),
        ('{"format_version": 1}', "no list of models"),
    ],
)
def test_unreadable_results_are_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=re.escape(said)):
        write_report([tmp_path])


def test_unreadable_configuration_is_shown_as_it_is(fictional: Fictional, run_folder: Callable[..., Path]) -> None:
    folder = run_folder(fictional("quickstart"), "task: [unclosed", {})
    assert "task: [unclosed" in write_report([folder]).read_text(encoding="utf-8")


def test_markdown_tables_are_rectangular_and_hold_the_numbers(fictional: Fictional) -> None:
    text = render_markdown([Run(fictional("quickstart"))]).replace("\u202f", " ")
    table = [line for line in text.splitlines() if line.startswith("|")]
    rows = table[: table.index(next(line for line in table if line.startswith("| Step")))]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    for shown in ("22.7 M (10.8 M)", "16.8 (5.2\u00d7 less)", "0.847 (0.826 to 0.869)", "93.1 % (91.4 to 94.5)"):
        assert shown in rows[-1] or shown in text
    assert "layers from 2, 4, 6 of 0-teacher" in text


def test_markdown_escapes_hostile_names(fictional: Fictional) -> None:
    results = fictional("quickstart")
    results["name"] = results["task"]["name"] = results["models"][1]["name"] = HOSTILE
    results["models"][1]["settings"] = {HOSTILE: HOSTILE}
    text = render_markdown([Run(results, {HOSTILE: HOSTILE}, "```\n# not a heading\n")])
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "\x00" not in text
    assert "<b>" not in html
    assert not re.search(r'href="(?!https://arxiv)', html)
    assert "not a heading</h1>" not in html
    assert html.count("<table>") == 2
    assert html.count("<h1>") == 1
    rows = re.findall(r"<tr>(.*?)</tr>", html.split("</table>")[0], flags=re.DOTALL)
    assert [row.count("</td>") for row in rows[1:]] == [rows[0].count("</th>")] * 3
    assert "a | b # head `code` &lt;b&gt;x&lt;/b&gt; [y](z) *w* ---" in html


def test_markdown_of_a_regression_gives_the_reasons(fictional: Fictional) -> None:
    text = render_markdown([Run(fictional("regression"))])
    assert "\u2013 (a)" in text
    assert "- (a) concordance was not measured" in text


def front_matter(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(front)
    return values


def test_model_card_front_matter_and_numbers(fictional: Fictional) -> None:
    card = model_card(fictional("bert_base"), "1-extract_then_distill", license="apache-2.0", language="en")
    front = front_matter(card)
    assert front["license"] == "apache-2.0"
    assert front["language"] == "en"
    assert front["base_model"] == "bert-base-uncased"
    assert front["pipeline_tag"] == "text-classification"
    assert front["metrics"] == ["accuracy"]
    assert front["model-index"][0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.8704}]
    assert "from transformers import AutoModelForSequenceClassification, AutoTokenizer" in card
    assert "bc.Model.from_pretrained(" in card
    # What was made from it later is not this model's story.
    assert "2-post" not in card
    assert "6 \u00d7 384" in card


def test_model_card_without_a_license_or_a_public_base_says_so(fictional: Fictional) -> None:
    results = fictional("quickstart")
    results["models"][0]["settings"]["model"] = "/home/somebody/secret/model"
    card = model_card(results, "0-teacher")
    assert front_matter(card)["license"] == "unknown"
    assert "base_model" not in front_matter(card)
    assert "The license is unknown" in card
    assert "The base model is not recorded under a public name." in card


def test_model_card_of_an_unknown_model_is_refused(fictional: Fictional) -> None:
    with pytest.raises(RunError, match="allowed are '0-teacher', '1-extract_then_distill'"):
        model_card(fictional("quickstart"), "3-nothing")


def test_model_card_with_hostile_names_keeps_its_front_matter(fictional: Fictional) -> None:
    results = fictional("quickstart")
    results["task"]["name"] = "x\n---\nlicense: mit\n"
    results["name"] = HOSTILE
    card = model_card(results, "0-teacher", license="other\n---\n", location='a"); import os  # ')
    front = yaml.safe_load(re.split(r"(?m)^---$", card)[1])
    assert front["license"] == "other\n---\n"
    for source in re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL):
        compile(source, "card", "exec")
        assert json.dumps('a"); import os  # ') in source


def test_cards_load_what_the_head_is_for(fictional: Fictional) -> None:
    results = fictional("quickstart")
    results["models"][0]["spec"]["head"] = {"task": "tagging", "num_labels": 9, "pooler": "none"}
    assert "AutoModelForTokenClassification" in model_card(results, "0-teacher")


def test_reports_need_no_torch() -> None:
    code = "import bertcompress.report, sys; sys.exit(int('torch' in sys.modules or 'transformers' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
