"""What a run's folder holds, read for the report: every field may be absent, and absence is kept as None."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from bertcompress.encoder.spec import EncoderSpec
from bertcompress.errors import ConfigError, RunError
from bertcompress.report import text

FORMAT_VERSION = 1
RESULTS, ENVIRONMENT, CONFIG = "results.json", "environment.json", "config.yaml"
TRAINING_FREE = ("post_training_quantization",)


@dataclass(frozen=True)
class Entry:
    """One model of a run: the teacher, or what a compression step made."""

    run: str
    values: Mapping[str, Any]
    task: Mapping[str, Any]
    macs_length: float | None

    @property
    def name(self) -> str:
        """The step's name, such as `1-extract_then_distill`."""
        return str(self.values.get("name", "unnamed"))

    @property
    def method(self) -> str:
        """The method that made the model, in snake case; empty where the run did not record it."""
        return str(self.values.get("method") or "")

    @cached_property
    def spec(self) -> EncoderSpec | None:
        """The model's architecture, or None where it is absent or unreadable."""
        values = self.values.get("spec")
        try:
            return EncoderSpec.from_dict(values) if isinstance(values, Mapping) else None
        except (ConfigError, AttributeError, ValueError):
            return None

    @property
    def exported(self) -> bool:
        """Whether it is a file for another runtime."""
        return self.method.startswith("export_")

    @property
    def metric(self) -> str:
        """Name of the task's primary metric; of text without labels, the mean over the tasks fine-tuned on."""
        return str(self.task.get("metric") or ("downstream" if self.downstream else "score"))

    @property
    def kind(self) -> str:
        """Kind of the task, such as `classification`."""
        return str(self.task.get("kind") or "")

    @property
    def settings(self) -> Mapping[str, object]:
        """The step's settings."""
        return text.mapping(self.values.get("settings"))

    @property
    def measured(self) -> Mapping[str, object]:
        """What was measured on a machine and varies from run to run."""
        return text.mapping(self.values.get("measured"))

    @property
    def latency(self) -> Mapping[str, object]:
        """The latency measurement and its conditions; empty where there was none."""
        return text.mapping(self.measured.get("latency"))

    @property
    def score(self) -> float | None:
        """Value of the primary metric."""
        if self.metric == "downstream":
            return self.score_downstream
        return text.number(text.mapping(self.values.get("scores")).get(self.metric))

    @property
    def downstream(self) -> Mapping[str, Any]:
        """What was found on other tasks after fine-tuning, by task; empty where that was not done."""
        return text.mapping(self.values.get("downstream"))

    @property
    def score_downstream(self) -> float | None:
        """Mean over these tasks of the mean main score over seeds."""
        means = [fmean(each["scores"][each["metric"]]) for each in self.downstream.values()]
        return fmean(means) if means else None

    @property
    def score_interval(self) -> tuple[float, float] | None:
        """Interval of the primary metric."""
        return text.interval(text.mapping(self.values.get("score_intervals")).get(self.metric))

    @property
    def score_difference(self) -> tuple[float, float] | None:
        """Interval of the score less the teacher's, both scored on the same resamples of the examples."""
        found = text.mapping(text.mapping(self.values.get("score_differences")).get(self.metric))
        return text.interval(found.get("interval"))

    @property
    def examples(self) -> int | None:
        """Number of examples that were scored; None where the score is that of other tasks."""
        if self.metric == "downstream":
            return None
        count = text.number(self.values.get("examples"))
        return None if count is None else int(count)

    @property
    def breakdown(self) -> Mapping[str, object]:
        """Where the model departs from its teacher; empty where that was not recorded."""
        return text.mapping(self.values.get("breakdown"))

    def number(self, name: str) -> float | None:
        """Return one of the model's own numbers, such as `file_bytes`."""
        return text.number(self.values.get(name))

    def loyalty_interval(self, name: str) -> tuple[float, float] | None:
        """Return the recorded interval of a loyalty, such as `label`."""
        return text.interval(text.mapping(self.values.get("loyalty_intervals")).get(name))

    def loyalty(self, name: str) -> float | None:
        """Return a loyalty, such as `label`: 1 at most, a correlation may be below 0."""
        return text.number(text.mapping(self.values.get("loyalty")).get(name))


@dataclass(frozen=True)
class Run:
    """One run: its results, its environment and its configuration as it was written."""

    results: Mapping[str, Any]
    environment: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.results.get("name") or "unnamed run")

    @property
    def task(self) -> Mapping[str, object]:
        """The task that the models were made for."""
        return text.mapping(self.results.get("task"))

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The models in the order of the pipeline; the first one is the teacher."""
        length = text.number(self.results.get("macs_length"))
        return tuple(
            Entry(self.name, text.mapping(each), self.task, length)
            for each in text.sequence(self.results.get("models"))
            if isinstance(each, Mapping)
        )

    @property
    def cpu(self) -> str:
        """The processor's name, empty where it is not recorded."""
        found = self.environment.get("cpu") or text.mapping(self.environment.get("hardware")).get("cpu")
        return str(found or "")

    @property
    def planned(self) -> tuple[str, ...]:
        """Names of the steps that the configuration asks for; empty where it cannot be read."""
        try:
            values = yaml.safe_load(self.config) if self.config else None
        except yaml.YAMLError:
            return ()
        steps = text.sequence(text.mapping(values).get("compress"))
        if not text.mapping(values) or not all(isinstance(step, Mapping) for step in steps):
            return ()
        methods = [str(text.mapping(step).get("method")) for step in steps]
        return ("0-teacher", *(f"{place}-{method}" for place, method in enumerate(methods, 1)))

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Names of the planned steps that have no result: the run was interrupted before them."""
        return self.planned[len(self.entries) :]

    @property
    def command(self) -> str:
        """The command that makes the run again."""
        recorded = self.environment.get("command")
        folder = shlex.quote(f"runs/{self.name}")
        return str(recorded) if recorded else f"bertcompress run config.yaml --output {folder}"


def load_run(folder: Path) -> Run:
    """Read a run's folder; only results.json has to be there.

    Raises:
        RunError: the folder has no results, or they are damaged or of a newer format.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise RunError(
            f"{folder}: got no {RESULTS}, so there is nothing to report yet. "
            "Run the same `bertcompress run` command again: it resumes where it was interrupted."
        )
    results = _read(path)
    version = results.get("format_version")
    if version != FORMAT_VERSION:
        raise RunError(
            f"{path}: format_version is {version!r}, allowed is {FORMAT_VERSION}. "
            "Update bertcompress to read results of a newer version."
        )
    if not isinstance(results.get("models"), list):
        raise RunError(f"{path}: has no list of models; it is damaged. Run the command again to write it anew.")
    environment = folder / ENVIRONMENT
    config = folder / CONFIG
    return Run(
        {"name": folder.resolve().name, **results},
        _read(environment) if environment.is_file() else {},
        config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}). Run the command again to write it anew.") from error
    if not isinstance(values, dict):
        raise RunError(f"{path}: got a JSON {type(values).__name__}, allowed is an object.")
    return values
