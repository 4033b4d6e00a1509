"""Reports of runs: one self-contained HTML page, the same as Markdown, and model cards."""

from bertcompress.report.card import model_card
from bertcompress.report.markdown import render_markdown
from bertcompress.report.page import render_html
from bertcompress.report.runs import Run, load_run
from bertcompress.report.write import write_cards, write_report

__all__ = ["Run", "load_run", "model_card", "render_html", "render_markdown", "write_cards", "write_report"]
