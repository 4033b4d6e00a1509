"""What a run does, as a frozen dataclass, and how it is read from YAML and written back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertcompress.config import checks
from bertcompress.config.downstream import downstream_dict, read_downstream
from bertcompress.config.values import MISSING, build, choice, read, unknown_keys
from bertcompress.data.yaml_positions import (
    ConfigFileError,
    Place,
    Problem,
    Value,
    join,
    read_text,
    read_yaml,
    write_yaml,
)
from bertcompress.downstream.settings import Downstream

Methods = Mapping[str, type[Any]]


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The model to compress and how it is fine-tuned first.

    Attributes:
        model: a folder, a folder under `$BERTCOMPRESS_DATA`, `minilm-l6`, or a name on the Hugging Face hub.
        fine_tune: the `FineTune` step; in YAML its fields stand beside `model`.
    """

    model: str
    fine_tune: Any


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run does: fine-tune a teacher, compress it step by step, evaluate every model, report.

    Attributes:
        name: the run's name in its report; the file's stem if left out.
        task: a task's name, a folder or a task file, or the mapping that a task file would contain.
        teacher: the model that is compressed.
        compress: the compressors, in order; each is given in YAML as `method:` and its own fields.
        evaluate: what is measured of every model: accuracy (the task's own scores), loyalty to the teacher, efficiency
            (size and speed); if left out, all that the task allows: of unlabelled text, efficiency alone.
        downstream: other tasks that models are fine-tuned on and scored by, see `Downstream`: how students that were
            distilled on unlabelled text are judged.
        export: formats that the last model is exported to, of onnx, openvino, and openvino-bf16 (OpenVINO's file, run
            with bfloat16 between integer products); the files are judged as well.
        seed: the seed of every step that has none of its own.
        output: the run's folder, relative to where the command runs; `runs/<file's stem>` if left out.
    """

    name: str
    task: str | Mapping[str, Any]
    teacher: TeacherConfig
    compress: tuple[Any, ...] = ()
    evaluate: tuple[str, ...] = checks.EVALUATIONS
    downstream: Downstream | None = None
    export: tuple[str, ...] = ()
    seed: int | None = None
    output: str | None = None

    def to_dict(self, methods: Methods | None = None) -> dict[str, Any]:
        """Return plain YAML types with every default written out; `parse_config` reads them back."""
        names = {cls: name for name, cls in known_methods(methods).items()}
        result: dict[str, Any] = {"name": self.name, "task": _plain(self.task)}
        result["teacher"] = {"model": self.teacher.model, **_plain(dataclasses.asdict(self.teacher.fine_tune))}
        result["compress"] = [
            {"method": names[type(step)], **_plain(dataclasses.asdict(step))} for step in self.compress
        ]
        result["evaluate"] = list(self.evaluate)
        if self.downstream is not None:
            result["downstream"] = _plain(downstream_dict(self.downstream))
        result["export"] = list(self.export)
        return result | {key: getattr(self, key) for key in ("seed", "output") if getattr(self, key) is not None}

    def to_yaml(self, methods: Methods | None = None) -> str:
        """Return the configuration as YAML with every default written out."""
        return write_yaml(self.to_dict(methods))


def load_config(path: str | Path, overrides: Sequence[str] = (), *, methods: Methods | None = None) -> RunConfig:
    """Read and check a run's YAML file, as far as that is possible without torch and without fetching anything.

    Args:
        path: the file.
        overrides: `key.path=value` texts, as `--set` takes them; values are YAML.
        methods: method name -> compressor dataclass; bertcompress's own if left out.

    Raises:
        ConfigFileError: with all problems of the file, a line each: `FILE:LINE: key.path: got X, allowed Y.`
    """
    path = Path(path)
    return parse_config(read_text(path), str(path), overrides, folder=path.parent, methods=methods)


def parse_config(
    text: str,
    source: str = "config",
    overrides: Sequence[str] = (),
    *,
    folder: Path | None = None,
    methods: Methods | None = None,
) -> RunConfig:
    """Read and check a run's YAML text; see `load_config`.

    Args:
        text: the YAML.
        source: what the messages call it; the run's default name is its stem.
        overrides: `key.path=value` texts.
        folder: where relative paths start; the working directory if left out.
        methods: method name -> compressor dataclass; bertcompress's own if left out.

    Raises:
        ConfigFileError: something is wrong with the text or what it says.
    """
    top, problems = read_yaml(text, source)
    if not isinstance(top.content, dict):
        got = "an empty file" if top.content is None else str(top)
        message = f"got {got}, allowed is a mapping with at least task and teacher."
        raise ConfigFileError([Problem(top.place, "", message)])
    apply_overrides(top, overrides, problems)
    return read_run(top, Path(source).stem, problems, folder=folder, methods=methods)


def read_run(
    top: Value, name: str, problems: list[Problem], *, folder: Path | None = None, methods: Methods | None = None
) -> RunConfig:
    """Turn a mapping of located values into a run; for files that hold more than one, such as a suite's.

    Args:
        top: the mapping.
        name: of the run, where the mapping has none.
        problems: what is wrong already; receives the rest.
        folder: where relative paths start; the working directory if left out.
        methods: method name -> compressor dataclass; bertcompress's own if left out.

    Raises:
        ConfigFileError: with all `problems`, if there are any in the end.
    """
    return _Reader(known_methods(methods), folder or Path(), problems).run(top, name)


class _Reader:
    """Turns the located values into a RunConfig and gathers what is wrong on the way."""

    def __init__(self, methods: Methods, folder: Path, problems: list[Problem]) -> None:
        self.methods, self.folder, self.problems = methods, folder, problems
        self.seed: dict[str, int] = {}

    def run(self, top: Value, stem: str) -> RunConfig:
        """Read the whole file."""
        values = top.content
        assert isinstance(values, dict)
        unknown_keys(top, [each.name for each in dataclasses.fields(RunConfig)], self.problems)
        plain = {
            "name": self._field(values, "name", str, stem),
            "seed": self._field(values, "seed", int | None, None),
            "output": self._field(values, "output", str | None, None),
        }
        if isinstance(plain["seed"], int):
            self._check_seed(values["seed"], plain["seed"])
        task = self._required(values, top, "task", "a task's name, a file, or a mapping")
        teacher = self._teacher(self._required(values, top, "teacher", "a mapping such as {model: minilm-l6}"))
        steps, complete = self._steps(values.get("compress"))
        checked_task = checks.check_task(task, self.folder, self.problems) if task is not None else None
        downstream = read_downstream(values.get("downstream"), self.methods["fine_tune"], self.folder, self.problems)
        if checked_task is not None:
            checks.check_scored(checked_task.kind, task, values.get("downstream"), self.problems)
        kind = "classification" if checked_task is None else checked_task.kind
        evaluate = checks.check_metrics(values.get("evaluate"), self.problems, kind)
        export = checks.check_exports(values.get("export"), self.problems)
        if teacher is not None:
            self._check_chain(values, teacher, steps)
        if self.problems or teacher is None or checked_task is None or not complete:
            raise ConfigFileError(self.problems)
        return RunConfig(
            task=checked_task.source,
            teacher=teacher,
            compress=tuple(steps),
            evaluate=evaluate,
            downstream=downstream,
            export=export,
            **plain,
        )

    def _check_chain(self, values: Mapping[str, Value], teacher: TeacherConfig, steps: list[Any]) -> None:
        """Plan fine-tuning and the steps that could be read, if the teacher's sizes are known already."""
        written, listed = values["teacher"], values["compress"].content if "compress" in values else []
        assert isinstance(written.content, dict)
        spec = checks.teacher_spec(written.content["model"], teacher.model, self.problems)
        if spec is None:
            return
        chain = [(teacher.fine_tune, written)] if teacher.fine_tune is not None else []
        chain += zip(steps, listed if isinstance(listed, list) else [], strict=False)
        checks.check_chain(spec, chain, self.problems)

    def _check_seed(self, value: Value, seed: int) -> None:
        if not 0 <= seed < 2**32:
            message = f"got {value}, allowed is a whole number from 0 to {2**32 - 1}."
            self.problems.append(Problem(value.place, value.path, message))
        else:
            self.seed = {"seed": seed}

    def _field(self, values: Mapping[str, Value], name: str, hint: Any, default: Any) -> Any:
        return read(values[name], hint, self.problems) if name in values else default

    def _required(self, values: Mapping[str, Value], top: Value, name: str, what: str) -> Value | None:
        if name not in values:
            self.problems.append(Problem(top.place, name, f"got no {name!r}, which is needed; allowed is {what}."))
        return values.get(name)

    def _teacher(self, value: Value | None) -> TeacherConfig | None:
        """Read the teacher: a model's name and the fields of FineTune."""
        if value is None:
            return None
        if not isinstance(value.content, dict):
            message = f"got {value}, allowed is a mapping such as {{model: minilm-l6, epochs: 2}}."
            self.problems.append(Problem(value.place, value.path, message))
            return None
        fine_tune = build(self.methods["fine_tune"], value, self.problems, skip=("model",), defaults=self.seed)
        if "model" not in value.content:
            message = "got no 'model', which is needed; allowed is a folder, minilm-l6, or a name on the hub."
            self.problems.append(Problem(value.place, "teacher.model", message))
            return None
        model = read(value.content["model"], str, self.problems)
        if model is MISSING:
            return None
        located = checks.check_model(value.content["model"], self.folder, self.problems)
        return TeacherConfig(model=located, fine_tune=fine_tune) if located is not None else None

    def _steps(self, value: Value | None) -> tuple[list[Any], bool]:
        """Return the steps up to the first wrong one, and whether that is all of them."""
        if value is None:
            return [], True
        if not isinstance(value.content, list):
            message = f"got {value}, allowed is a list of steps, each with `method:`."
            self.problems.append(Problem(value.place, value.path, message))
            return [], False
        built = [self._step(each) for each in value.content]
        wrong = built.index(None) if None in built else len(built)
        return built[:wrong], wrong == len(built)

    def _step(self, value: Value) -> Any | None:
        if not isinstance(value.content, dict):
            message = f"got {value}, allowed is a mapping with `method:` and the method's settings."
            self.problems.append(Problem(value.place, value.path, message))
            return None
        method = value.content.get("method")
        if method is None:
            message = f"got no 'method', which is needed; allowed are {', '.join(self.methods)}."
            self.problems.append(Problem(value.place, join(value.path, "method"), message))
            return None
        if not choice(method, self.methods, self.problems):
            return None
        return build(self.methods[str(method.content)], value, self.problems, skip=("method",), defaults=self.seed)


def known_methods(methods: Methods | None) -> Methods:
    """Return the given methods or bertcompress's own; the compressors' dataclasses need no torch."""
    if methods is not None:
        return methods
    from bertcompress.compressors import METHODS

    known: Methods = METHODS
    return known


def apply_overrides(top: Value, overrides: Sequence[str], problems: list[Problem]) -> None:
    """Change the tree of values as `--set` options ask, one after the other; what cannot be set becomes a problem."""
    for override in overrides:
        _override(top, override, problems)


def _override(top: Value, override: str, problems: list[Problem]) -> None:
    """Change the tree of values as one `--set key.path=value` asks."""
    source = f"--set {override}"
    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        message = "got no `key.path=value`, allowed is for example compress.0.epochs=2."
        problems.append(Problem(Place(source), "", message))
        return
    value, found = read_yaml(text, source, path=key.strip(), numbered=False)
    problems.extend(found)
    parent = top
    for depth, step in enumerate(keys):
        path = ".".join(keys[:depth])
        last = depth == len(keys) - 1
        if isinstance(parent.content, dict):
            if last:
                parent.content[step], parent.key_places[step] = value, value.place
                return
            parent = parent.content.setdefault(step, Value({}, value.place, join(path, step)))
        elif isinstance(parent.content, list) and re.fullmatch(r"[0-9]{1,6}", step) and int(step) < len(parent.content):
            if last:
                parent.content[int(step)] = value
                return
            parent = parent.content[int(step)]
        else:
            count = len(parent.content) if isinstance(parent.content, list) else 0
            inside = f"are the numbers 0 to {count - 1}" if count else "is nothing inside it"
            message = f"got {step!r} inside {path}, which is {parent}; allowed {inside}."
            problems.append(Problem(value.place, ".".join(keys), message))
            return


def _plain(value: Any) -> Any:
    """Return YAML's types: lists for tuples, dicts for mappings, text for paths."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
