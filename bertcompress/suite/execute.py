"""Runs a suite: one run after the other, each resumable, and the table written again after every one."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bertcompress.errors import BertCompressError, RunError
from bertcompress.pipeline.folder import RunFolder, to_json
from bertcompress.suite.config import SuiteConfig
from bertcompress.suite.member import Member
from bertcompress.suite.reading import load_suite
from bertcompress.suite.summary import summarize
from bertcompress.suite.survey import Survey, survey
from bertcompress.suite.tables import render_markdown

logger = logging.getLogger(__name__)

SUITE_JSON, SUITE_TABLE = "suite.json", "suite.md"
# What a run may fail with without being at fault: settings and data, files and disk, memory and device, and what the
# libraries below make of unusual data. Defects of this library are none of these and end the suite.
FAILURES = (BertCompressError, OSError, MemoryError, RuntimeError, SafetensorError, ValueError)


@dataclass(frozen=True)
class SuiteResult:
    """What a suite found.

    Attributes:
        folder: that holds everything.
        results: what suite.json says.
        failures: run -> error, of the runs that failed this time.
    """

    folder: Path
    results: Mapping[str, Any]
    failures: Mapping[str, str]


def run_suite(
    config: SuiteConfig | str | Path,
    *,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    only: Sequence[str] = (),
) -> SuiteResult:
    """Run every task with every seed, skipping what is finished; a run that fails does not cost the others.

    Args:
        config: a suite, or the path of its YAML file.
        overrides: `key.path=value` texts for the file.
        output: the suite's folder; by default the configuration's, else `runs/` and the file's stem or suite's name.
        only: tasks to run; what they start from is run as well. The table shows what there is of the others.

    Raises:
        ConfigError: the file or the chain of a task cannot work; nothing was trained then.
        DataError: data are absent or partial here; likewise.
        RunError: another process runs this suite, the folder cannot be written, or the disk is full.
    """
    suite = config if isinstance(config, SuiteConfig) else load_suite(config, overrides)
    stem = suite.name if isinstance(config, SuiteConfig) else Path(config).stem
    folder = Path(output or suite.output or Path("runs") / stem)
    plan = survey(suite, suite.order(only), folder)
    for task, reason in plan.left_out.items():
        logger.warning("%s is left out: %s", task, reason)
    for task, parts in plan.partial.items():
        logger.warning("%s is run on partial data: %s", task, "; ".join(parts))
    owned = RunFolder(folder)
    with owned.owned():
        return _Execution(suite, owned, plan).all()


class _Execution:
    """The runs that are under way, and what became of those before."""

    def __init__(self, suite: SuiteConfig, folder: RunFolder, plan: Survey) -> None:
        self.suite, self.folder, self.plan = suite, folder, plan
        self.failures: dict[str, str] = {}

    def all(self) -> SuiteResult:
        """Do every run."""
        members = [
            Member(self.suite, self.folder.path, task, seed) for task in self.plan.order for seed in self.suite.seeds
        ]
        self.write()
        for place, member in enumerate(members, start=1):
            logger.info("run %d of %d: %s", place, len(members), member.name)
            try:
                self.one(member)
            except FAILURES as error:
                message = str(error) or type(error).__name__
                self.failures[member.name] = message
                logger.error("%s failed: %s", member.name, message, exc_info=logger.isEnabledFor(logging.DEBUG))
            gc.collect()  # a run's task and models refer to each other in circles
            results = self.write()
        return SuiteResult(self.folder.path, results, self.failures)

    def one(self, member: Member) -> None:
        """Do one run, unless the one that it starts from has failed."""
        source = self.suite.start_from.get(member.task)
        failed = f"{source}/seed-{member.seed}"
        if failed in self.failures:
            raise RunError(f"it starts from the teacher of {failed}, which failed.")
        member.execute(self.plan.partial.get(member.task, ()))

    def write(self) -> dict[str, Any]:
        """Write what there is by now."""
        results = summarize(self.suite, self.folder.path, self.plan.left_out, self.failures)
        self.folder.write(SUITE_JSON, to_json(results))
        self.folder.write(SUITE_TABLE, render_markdown(results))
        return results
