"""A run: teacher, compression, judgement, each step kept in the run's folder and never done twice."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress import __version__
from bertcompress.compressors.base import Compressor, Context, require_task, settings_of
from bertcompress.downstream import scores as downstream_scores
from bertcompress.evaluation.evaluate import MACS_LENGTH, check_metrics
from bertcompress.export import writing as exports
from bertcompress.export.seal import FORMAT, GRAPH
from bertcompress.model import Model
from bertcompress.pipeline.chain import Pipeline, check_objectives
from bertcompress.pipeline.environment import describe_environment
from bertcompress.pipeline.folder import RunFolder, fingerprint, model_fingerprint, to_json
from bertcompress.pipeline.judging import RESULTS, Judge
from bertcompress.pipeline.stopwatch import Stopwatch
from bertcompress.training.checkpoint import digest
from bertcompress.training.objectives import build_objective
from bertcompress.training.settings import TrainingSettings

if TYPE_CHECKING:
    from bertcompress.compressors.fine_tune import FineTune
    from bertcompress.data.tasks import Task
    from bertcompress.downstream.settings import Downstream
    from bertcompress.encoder.spec import EncoderSpec

logger = logging.getLogger(__name__)

RESULTS_VERSION = 1
TEACHER = "0-teacher"
DOWNSTREAM = "downstream"  # the folder of finished fine-tunings, one in it for each model


@dataclass(frozen=True)
class Run:
    """What a run does and where it is kept.

    Attributes:
        name: shown in its report.
        task: data to train and to judge on.
        teacher: the name or folder of the model that is compressed.
        fine_tune: how the teacher is fine-tuned first; `epochs=0` takes it as it is.
        pipeline: the compressors.
        metrics: what is measured of every model.
        folder: where everything is kept.
        export: formats that the last model is exported to, see `writing.TARGETS`; the files are judged as models are.
        downstream: how models are fine-tuned on other tasks and scored there; None does not.
        downstream_tasks: these tasks, loaded.
        config: the resolved settings as YAML, kept beside the results.
        command: what was typed, kept in environment.json.
    """

    name: str
    task: Task
    teacher: str
    fine_tune: FineTune
    pipeline: Pipeline
    metrics: Sequence[str]
    folder: Path
    export: Sequence[str] = ()
    downstream: Downstream | None = None
    downstream_tasks: Sequence[Task] = ()
    config: str = ""
    command: str = ""

    def execute(self, finish: Callable[[Path], object] | None = None) -> Path:
        """Do what has not been done yet, and return the path of results.json.

        Args:
            finish: called with the folder when the results are written, while no other run can take it.

        Raises:
            ConfigError: the chain cannot work; nothing has been trained or written then.
            DataError: the task has nothing to score on; likewise.
            RunError: another run owns the folder, it cannot be written, or the disk is full.
        """
        metrics, origin = self._check()
        folder = RunFolder(self.folder)
        with folder.owned():
            if self.config:
                folder.write("config.yaml", self.config)
            folder.write("environment.json", to_json({**describe_environment(), "command": self.command}))
            results = self._work(folder, metrics, origin)
            folder.tidy()
            if finish is not None:
                finish(self.folder)
        return results

    def check(self) -> str:
        """Plan everything and return a digest of all that the results depend on; nothing is trained or written.

        Raises:
            ConfigError: the chain cannot work.
            DataError: the task has nothing to score on.
        """
        metrics, origin = self._check()
        chain = [(TEACHER, self.fine_tune), *self.pipeline.named_steps]
        steps = [(name, _lasting_settings(step)) for name, step in chain]
        parts: list[Any] = [__version__, steps, self.task.fingerprint(), origin, metrics]
        if self.downstream is not None:
            parts += [settings_of(self.downstream), [task.fingerprint() for task in self.downstream_tasks]]
        parts += [list(self.export)] if self.export else []
        return fingerprint(*parts)

    def _check(self) -> tuple[tuple[str, ...], str]:
        """Plan everything; return the metrics, and a digest of the model that the teacher is made from."""
        metrics = check_metrics(self.metrics, self.task.kind, has_teacher=True)
        self.task.measuring_split()
        for step in (self.fine_tune, *self.pipeline.steps):
            if isinstance(step, TrainingSettings) and step.trains:
                require_task(step.method, self.task)
        base = self._base()
        teacher = self.fine_tune.plan(base.spec, self.task)
        planned = self.pipeline.plan(teacher, self.task)
        if self.fine_tune.epochs > 0:
            build_objective(self.fine_tune.objective_weights(), student=teacher, kind=self.task.kind)
        check_objectives(self.pipeline.steps, [spec for _, spec in planned], teacher, self.task)
        self.check_exports(planned[-1][1] if planned else teacher)
        if self.downstream is not None:
            downstream_scores.check(self.downstream, {TEACHER: teacher, **dict(planned)})
        return metrics, digest(base.spec.to_dict(), base.labels, _tokenizer_facts(base), base.network)

    def check_exports(self, last: EncoderSpec) -> None:
        """Refuse exports that the last model does not allow.

        Raises:
            ConfigError: says what cannot be exported.
        """
        for to in self.export:
            exports.check(last, *exports.TARGETS[to])

    def _base(self) -> Model:
        return Model.from_pretrained(self.teacher, self.task, seed=self.fine_tune.seed)

    def _work(self, folder: RunFolder, metrics: Sequence[str], origin: str) -> Path:
        """Make and judge step after step; results.json has those so far, so that a run can be reported any time."""
        judged: list[dict[str, Any]] = []
        judge = Judge(folder, self.task, metrics, self.fine_tune.seed)
        before, made_of, task = None, [origin], self.task.fingerprint()
        teacher: dict[str, Any] = {}
        for name, step in [(TEACHER, self.fine_tune), *self.pipeline.named_steps]:
            mark = fingerprint(__version__, step.method, _lasting_settings(step), task, made_of)
            record = folder.finished(name, mark)
            if record is None:
                record = self._make(folder, name, step, before, mark)
            else:
                logger.info("%s: done before, taken as it is", name)
            teacher = teacher or record
            self._judge(folder, judge, record, teacher, judged)
            before = folder.step(name)
            made_of = [model_fingerprint(record), model_fingerprint(teacher)]
        for to in self.export:
            assert before is not None
            self._judge(folder, judge, self._exported(folder, to, before, made_of), teacher, judged)
        self._fine_tune_elsewhere(folder, judged)
        return folder.write(RESULTS, to_json(self._results(judged)))

    def _judge(
        self,
        folder: RunFolder,
        judge: Judge,
        record: Mapping[str, Any],
        teacher: Mapping[str, Any],
        judged: list[dict[str, Any]],
    ) -> None:
        """Add what is found of a finished step; results.json keeps it, so that nothing is evaluated twice."""
        entry, new = judge.judged(record, teacher)
        judged.append(entry)
        if new:
            folder.write(RESULTS, to_json(self._results(judged)))

    def _exported(self, folder: RunFolder, to: str, before: Path, made_of: Sequence[str]) -> dict[str, Any]:
        """Export the last model and move the file into its place, unless it is there."""
        name, (kind, precision) = f"export-{to}", exports.TARGETS[to]
        mark = fingerprint(__version__, name, FORMAT, GRAPH, made_of)
        record = folder.finished(name, mark)
        if record is not None:
            logger.info("%s: done before, taken as it is", name)
            return record
        work = folder.work(name)
        with Stopwatch(work, mark) as stopwatch:
            draft = work / "model"
            shutil.rmtree(draft, ignore_errors=True)
            found = Model.from_pretrained(before, self.task).export(draft / exports.FILES[kind], precision=precision)
        facts = dataclasses.asdict(found)
        record = {
            "name": name,
            "method": f"export_{kind}",
            "settings": {"to": kind, "precision": precision},
            "fingerprint": mark,
            "curves": {},
            "facts": {key: value for key, value in facts.items() if key not in ("path", "to")},
            "measured": {"seconds": stopwatch.seconds},
        }
        return folder.complete(name, draft, record)

    def _fine_tune_elsewhere(self, folder: RunFolder, judged: Sequence[dict[str, Any]]) -> None:
        """Add to what was found of the models how they do on other tasks once they are fine-tuned on them."""
        if self.downstream is None:
            return
        trained = [entry["name"] for entry in judged if not entry["method"].startswith("export_")]
        chosen = self.downstream.chosen_models(trained)
        for entry in judged:
            name = entry["name"]
            if name in chosen:
                kept, model = folder.path / DOWNSTREAM / name, Model.from_pretrained(folder.step(name))
                entry["downstream"] = downstream_scores.downstream_scores(
                    model, self.downstream, self.downstream_tasks, folder=kept, label=name
                )
                shutil.rmtree(kept / downstream_scores.CHECKPOINTS, ignore_errors=True)
                folder.write(RESULTS, to_json(self._results(judged)))

    def _make(self, folder: RunFolder, name: str, step: Compressor, before: Path | None, mark: str) -> dict[str, Any]:
        """Do one step and move it into its place; `before` is what it works on, None for the teacher."""
        logger.info("%s: %s", name, step.method)
        work = folder.work(name)
        with Stopwatch(work, mark) as stopwatch:
            model = self._base() if before is None else Model.from_pretrained(before, self.task)
            teacher = None if before is None else Model.from_pretrained(folder.step(TEACHER), self.task)
            result = step.compress(model, self.task, teacher=teacher, context=Context(work / "checkpoint", name))
            draft = work / "model"
            shutil.rmtree(draft, ignore_errors=True)
            result.save_pretrained(draft)
        last = result.history[-1]
        record = {
            "name": name,
            "method": step.method,
            "settings": settings_of(step),
            "fingerprint": mark,
            "curves": dict(last.curves),
            "facts": dict(last.facts),
            "measured": {"seconds": stopwatch.seconds, **last.measured},
        }
        return folder.complete(name, draft, record)

    def _results(self, judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what results.json says."""
        split, _ = self.task.measuring_split()
        counts = {name: len(data) for name, data in self.task.splits.items()}
        return {
            "format_version": RESULTS_VERSION,
            "name": self.name,
            "base_model": self.teacher,
            "task": {
                "name": self.task.name,
                "kind": self.task.kind,
                "metric": self.task.metric,
                "split": split,
                "labels": list(self.task.labels),
                "counts": counts,
                "source": self.task.source,
            },
            "macs_length": MACS_LENGTH,
            "models": list(judged),
        }


def _lasting_settings(step: Compressor) -> dict[str, Any]:
    """Return the settings that a step's outcome depends on; who watches it does not count, nor where it is kept."""
    return {name: value for name, value in settings_of(step).items() if name not in ("trackers", "storage")}


def _tokenizer_facts(model: Model) -> dict[str, Any]:
    """Return all that makes a tokenizer, but not where it was loaded from."""
    tokenizer = model.tokenizer
    rules = getattr(tokenizer, "backend_tokenizer", None)
    return {
        "rules": sorted(tokenizer.get_vocab().items()) if rules is None else rules.to_str(),
        "special_tokens": tokenizer.special_tokens_map,
        "max_length": tokenizer.model_max_length,
    }
