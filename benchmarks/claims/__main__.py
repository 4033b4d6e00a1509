"""The command line of the claims; see the package's own words."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import claims
from benchmarks.claims import etd, execute, kdlsq, layer_mapping, plans, texts
from benchmarks.claims.claim import HEAD, markdown
from benchmarks.claims.experiment import load
from benchmarks.peers.common import require_data
from bertcompress.errors import BertCompressError

WORK = Path("runs/claims")
TEXTS = WORK / "texts.txt"
PAPERS = {"etd": etd, "layer_mapping": layer_mapping, "kdlsq": kdlsq}


def main(arguments: list[str] | None = None) -> None:
    """Write the texts, do an experiment, plan it, or write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=claims.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    sampled = commands.add_parser("texts", help="write the sample of texts that students are distilled on")
    sampled.add_argument("--count", type=int, default=1000, help="texts of each of three sources")
    for name, about in (("run", "do what is left of an experiment"), ("plan", "check an experiment; trains nothing")):
        command = commands.add_parser(name, help=about)
        command.add_argument("experiment", type=Path)
        command.add_argument("--scale", default="laptop")
        command.add_argument("--only", default="", help="a part of the names of cells")
        command.add_argument("--minutes", type=float, help="begin no cell after so many")
    commands.add_parser("table", help="write what was claimed and measured")
    options = parser.parse_args(arguments)
    if options.command in ("run", "plan") and not options.experiment.is_file():
        ours = ", ".join(str(Path("benchmarks/claims", f"{name}.yaml")) for name in PAPERS)
        parser.error(f"{options.experiment}: no such file; those of this project are {ours}.")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    for noisy in ("httpx", "filelock", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        _do(options)
    except BertCompressError as error:
        hint = "" if TEXTS.is_file() else f" {TEXTS} is not there yet: python -m benchmarks.claims texts"
        sys.exit(f"{error}{hint}")


def _do(options: argparse.Namespace) -> None:
    if options.command == "texts":
        _write_texts(options.count)
    elif options.command == "table":
        _write_table()
    elif options.command == "plan":
        print(plans.plan(options.experiment, options.scale, options.only))
    else:
        left = execute.run(load(options.experiment, options.scale), WORK, options.only, options.minutes)
        print(f"left: {len(left)} cells" if left else "done")


def _write_texts(count: int) -> None:
    require_data("news, reviews and encyclopedia text")
    TEXTS.parent.mkdir(parents=True, exist_ok=True)
    found = texts.sample(Path(os.environ["BERTCOMPRESS_DATA"]), count)
    TEXTS.write_text("\n".join(found) + "\n", encoding="utf-8")
    print(f"{len(found)} texts: {TEXTS}")


def results_of(name: str, scale: str = "laptop") -> list[dict[str, Any]]:
    """Return the results of an experiment that are kept and were made with today's settings, on one set of texts.

    Raises:
        SystemExit: they were made on different texts.
    """
    experiment = load(Path(claims.__file__).with_name(f"{name}.yaml"), scale)
    places = {execute.kept_at(experiment, cell): cell for cell in experiment.cells}
    done = [place for place, cell in places.items() if execute.is_done(place, cell)]
    found = [json.loads(place.read_text(encoding="utf-8")) for place in done]
    if len({each["texts"]["fingerprint"] for each in found if "texts" in each}) > 1:
        sys.exit(f"{execute.KEPT / name}: its results were made on different texts; remove those of one of them.")
    return found


def _write_table() -> None:
    parts = [INTRODUCTION]
    for name, paper in PAPERS.items():
        found = results_of(name)
        if not found:
            continue
        rows = [HEAD, *(claim.row() for claim in paper.claims(found))]
        parts += [f"## {name}\n", markdown(rows)]
        if hasattr(paper, "table"):
            parts.append(markdown(paper.table(found)))
        parts.append(_machines(found))
    if len(parts) == 1:
        sys.exit(f"{execute.KEPT}: no result of any experiment; do one first: python -m benchmarks.claims run FILE.")
    text = "\n".join(parts)
    (execute.KEPT / "README.md").write_text(text, encoding="utf-8")
    print(text)


def _machines(found: Sequence[Mapping[str, Any]]) -> str:
    """Say on what, and at which commits, the results were measured."""
    cpus = sorted({each["machine"]["hardware"]["cpu"] for each in found})
    commits = sorted({each["machine"]["commit"] for each in found})
    minutes = sum(each["measured"]["seconds"] for each in found) / 60
    size = f" on {found[0]['texts']['examples']:,} texts" if "texts" in found[0] else ""
    return (
        f"{len(found)} cells{size}; training took {minutes:.0f} minutes of one process on "
        f"{', '.join(cpus)}; commits {', '.join(commits)}.\n"
    )


INTRODUCTION = """# Claims of the papers, measured again

Written by `python -m benchmarks.claims table` from the raw results beside this file; how to measure them again stands
in `benchmarks/claims/__init__.py`. All of it is at a laptop's scale: the teacher is the built-in MiniLM, the texts are
a few thousand sentences, the tasks have few examples. A verdict holds for that scale alone. Intervals are of 95 %, over
seeds (Student's) or over mappings (bootstrap); "undecided" says that the interval includes what it is held against.
Scores are in percent.

"""

if __name__ == "__main__":
    main()
