"""Writes the reports of run folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bertcompress.errors import RunError
from bertcompress.report.card import model_card
from bertcompress.report.markdown import render_markdown
from bertcompress.report.page import render_html
from bertcompress.report.runs import load_run


def write_report(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Write report.html and report.md of one run into its folder, or of several, compared, into `output`.

    Returns:
        The path of report.html.

    Raises:
        RunError: no run is given, several are given without `output`, or a run has no readable results.
    """
    if not runs:
        raise RunError("write_report: got no run, allowed is at least one run's folder.")
    if output is None and len(runs) > 1:
        raise RunError(f"write_report: got {len(runs)} runs and no output; say which folder the comparison goes to.")
    loaded = [load_run(Path(run)) for run in runs]
    folder = Path(runs[0]) if output is None else Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "report.md", render_markdown(loaded))
    _replace(folder / "report.html", render_html(loaded))
    return folder / "report.html"


def _replace(path: Path, content: str) -> None:
    # Written beside its place first: whoever reads the report meanwhile never sees half of it.
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content.encode("utf-8"))
    beside.replace(path)


def write_cards(run: Path) -> None:
    """Write the model card, README.md, of every model in a run's folder.

    Raises:
        RunError: the run has no readable results.
    """
    loaded = load_run(run)
    for model in loaded.results["models"]:
        card = model_card(loaded.results, model["name"], environment=loaded.environment)
        _replace(run / model["name"] / "README.md", card)
