"""Checks beyond types: files that are not there, names that nobody knows, and a chain of steps that cannot work.

Nothing here is fetched and nothing needs torch: the chain is planned from the teacher's config.json alone. Where that
is not on this machine yet (a model of the hub), the pipeline plans again once it is.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertcompress.config.values import attempt, choice, locate, refusal, unknown_keys
from bertcompress.data.kinds import BARE_METRICS, METRICS, SCORED_KINDS
from bertcompress.data.yaml_positions import ConfigFileError, Problem, Value, join, read_text, read_yaml
from bertcompress.errors import BertCompressError, ConfigError, allowed

if TYPE_CHECKING:
    from bertcompress.encoder.spec import EncoderSpec

SPLITS = ("train", "validation", "test")
# What `bertcompress.evaluation.evaluate` offers; written here as well because it imports torch (a test compares them).
EVALUATIONS = ("accuracy", "loyalty", "efficiency")
EXPORTS = ("onnx", "openvino", "openvino-bf16")  # likewise of `bertcompress.export.writing`
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# The built-in model's own config.json, so that a chain on it is checked before the first fetch.
MINILM = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "~", "/")) or text.count("/") > 1 or "\\" in text or text.endswith((".yaml", ".yml"))


def _local(text: str, folder: Path) -> Path | None:
    """Return the existing path that a text means, beside the configuration or where the command runs."""
    path = Path(text).expanduser()
    for candidate in (folder / path, path):
        try:
            if candidate.exists():
                return candidate.absolute()
        except (OSError, ValueError):  # a name that no file system can hold
            return None
    return None


def _in_data_folder(text: str) -> Path | None:
    root = os.environ.get("BERTCOMPRESS_DATA")
    if not root or _looks_like_path(text):
        return None
    places = (Path(root).expanduser() / part / text for part in ("", "models"))
    return next((place for place in places if place.is_dir()), None)


def _refuse(value: Value, message: str, problems: list[Problem]) -> None:
    problems.append(Problem(value.place, value.path, message))


def check_model(value: Value, folder: Path, problems: list[Problem]) -> str | None:
    """Return the teacher's name, absolute if it is a local folder; None after reporting that there is none."""
    text = str(value.content)
    path = _local(text, folder)
    if path is not None:
        if (path / "config.json").is_file():
            return str(path)
        _refuse(value, f"got {value}, which has no config.json; allowed is a saved model's folder.", problems)
        return None
    if not _looks_like_path(text) and _HUB_NAME.fullmatch(text):
        return text
    message = f"got {value}, which does not exist; allowed is a folder, minilm-l6, or a name on the Hugging Face hub."
    _refuse(value, message, problems)
    return None


def teacher_spec(value: Value, model: str, problems: list[Problem]) -> EncoderSpec | None:
    """Return the description of a model that is on this machine or built in.

    None stands for one that is yet to be fetched, or for one whose config.json is damaged or describes no encoder that
    we know, which is reported.

    Args:
        value: where the model is named.
        model: what `check_model` made of it.
        problems: receives what is wrong.
    """
    from bertcompress.encoder.checkpoints import read_config
    from bertcompress.encoder.convert import spec_from_config
    from bertcompress.encoder.spec import Head

    folder: Path | None = Path(model) if Path(model).is_dir() else _in_data_folder(model)
    if folder is None and model != "minilm-l6":
        folder = _cached(model)
        if folder is None:
            return None
    try:
        return spec_from_config(MINILM if folder is None else read_config(folder), Head())
    except BertCompressError as error:
        _refuse(value, f"got {value}, which cannot be compressed: {error}", problems)
        return None


def _cached(model: str) -> Path | None:
    """Return the folder of a hub model that was fetched before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def check_chain(teacher: EncoderSpec, steps: Sequence[tuple[Any, Value]], problems: list[Problem]) -> None:
    """Plan the steps one after the other from the teacher's sizes, and report the first that cannot work at its line.

    Args:
        teacher: its description.
        steps: compressors, each with the mapping that it was written as.
        problems: receives what is wrong.
    """
    spec = teacher
    for step, value in steps:
        try:
            spec = step.plan(spec, None, teacher=teacher)
        except ConfigError as error:
            problems.append(_say_what_was_got(locate(error, value), value, step.method))
            return


def _say_what_was_got(problem: Problem, step: Value, method: str) -> Problem:
    """Complete the message of a plan, which may speak of what the steps before made rather than of what was written."""
    assert isinstance(step.content, dict)
    if problem.message.startswith("got "):
        return problem
    key = problem.path.removeprefix(f"{step.path}.")
    if key in step.content:
        return dataclasses.replace(problem, message=f"got {step.content[key]}: {problem.message}")
    message = f"got {method} at this place: {problem.message.removeprefix(f'{method}: ')}"
    return dataclasses.replace(problem, message=message)


class CheckedTask(NamedTuple):
    """A task's name, file or mapping, with absolute paths, and its kind."""

    source: str | dict[str, Any]
    kind: str


def check_task(value: Value, folder: Path, problems: list[Problem]) -> CheckedTask | None:
    """Return the task, or None after reporting what is wrong with it."""
    from bertcompress.data.tasks import TASKS

    if isinstance(value.content, dict):
        return _check_mapping(value, folder, problems)
    text = value.content
    if not isinstance(text, str) or not text:
        message = f"got {value}, allowed is a task's name, a task file, or a mapping with kind, train, text and label."
        _refuse(value, message, problems)
        return None
    path = _local(text, folder)
    if path is not None:
        return _check_task_path(value, path, problems)
    if _looks_like_path(text):
        message = f"got {value}, which does not exist; allowed is a task's name, a folder or a task file."
        _refuse(value, message, problems)
        return None
    if text in TASKS:
        return CheckedTask(text, TASKS[text].kind)
    _refuse(value, f"{refusal(value, TASKS)} {', '.join(TASKS)}, a folder, or a task file.", problems)
    return None


def check_scored(kind: str, task: Value | None, downstream: Value | None, problems: list[Problem]) -> None:
    """Report a run in which there is nothing to judge a model by."""
    if kind not in SCORED_KINDS and downstream is None and task is not None:
        message = (
            f"got a task of the kind {kind!r}, allowed are {allowed(SCORED_KINDS)}: there is nothing to judge, unless "
            "models are fine-tuned on other tasks, named under `downstream:`."
        )
        _refuse(task, message, problems)


def check_fine_tuned(value: Value, task: CheckedTask | None, problems: list[Problem]) -> None:
    """Report a task that cannot be fine-tuned on and scored."""
    kinds = [kind for kind in SCORED_KINDS if kind != "embedding"]
    if task is not None and task.kind not in kinds:
        _refuse(value, f"got a task of the kind {task.kind!r}, allowed are {allowed(kinds)}.", problems)


def _check_task_path(value: Value, path: Path, problems: list[Problem]) -> CheckedTask | None:
    """Check a task's folder or file; what is wrong inside a task file is reported with that file's lines."""
    from bertcompress.data.glue import GLUE, task_of_folder

    if path.is_dir():
        name = task_of_folder(path)
        if name is None:
            known = ", ".join(task.folders[0] for task in GLUE.values())
            _refuse(value, f"got {value}, allowed are folders with the names of GLUE's tasks: {known}.", problems)
            return None
        return CheckedTask(str(path), GLUE[name].kind)
    if path.suffix.lower() not in (".yaml", ".yml"):
        message = f"got {value}, which is a data file; allowed is a mapping or a .yaml file that describes it."
        _refuse(value, message, problems)
        return None
    try:
        inside, found = read_yaml(read_text(path), str(path))
    except ConfigFileError as error:
        problems.extend(error.problems)
        return None
    problems.extend(found)
    if isinstance(inside.content, dict) and isinstance(inside.content.get("task"), Value):
        inside = inside.content["task"]
    if not isinstance(inside.content, dict):
        _refuse(inside, f"got {inside}, allowed is a mapping with kind, train, text and label.", problems)
        return None
    task = _check_mapping(inside, path.parent, problems)
    return CheckedTask(str(path), task.kind) if task is not None else None


def _check_mapping(value: Value, folder: Path, problems: list[Problem]) -> CheckedTask | None:
    """Check a task of one's own and make its files' paths absolute."""
    from bertcompress.data.mapping import FILE_KEYS, KEYS, check_mapping

    content, before = value.content, len(problems)
    assert isinstance(content, dict)
    unknown_keys(value, KEYS, problems)
    result = {key: each.plain() for key, each in content.items() if key in KEYS}
    if "kind" not in content:
        message = f"got no 'kind', which is needed; allowed are {allowed(task_kinds())}."
        problems.append(Problem(value.place, join(value.path, "kind"), message))
    attempt(lambda values: check_mapping(values, {}), value, result, {"kind"}, problems)
    for key in FILE_KEYS:
        if isinstance(result.get(key), str):
            result[key] = _check_file(content[key], folder, problems)
    return CheckedTask(result, str(result["kind"])) if len(problems) == before else None


def check_metrics(value: Value | None, problems: list[Problem], kind: str = "classification") -> tuple[str, ...]:
    """Return what is to be measured; left out, that is everything that the kind of task allows."""
    names = EVALUATIONS if kind in SCORED_KINDS else BARE_METRICS
    if value is None:
        return names
    if not isinstance(value.content, list) or not value.content:
        _refuse(value, f"got {value}, allowed is a list of at least one of {', '.join(names)}.", problems)
        return ()
    for item in value.content:
        choice(item, names, problems)
    return tuple(dict.fromkeys(str(item.content) for item in value.content))


def check_exports(value: Value | None, problems: list[Problem]) -> tuple[str, ...]:
    """Return the formats that the last model is exported to, each once."""
    if value is None:
        return ()
    if not isinstance(value.content, list):
        _refuse(value, f"got {value}, allowed is a list of {', '.join(EXPORTS)}, or [].", problems)
        return ()
    for item in value.content:
        choice(item, EXPORTS, problems)
    return tuple(dict.fromkeys(str(item.content) for item in value.content))


def task_kinds() -> tuple[str, ...]:
    """Return the kinds of tasks that files of one's own can be read for."""
    return tuple(METRICS)


def _check_file(value: Value, folder: Path, problems: list[Problem]) -> str:
    from bertcompress.data.saved import is_saved

    path = folder / Path(str(value.content)).expanduser()
    try:
        found = path.is_file() or is_saved(path)
    except (OSError, ValueError):  # a name that no file system can hold
        found = False
    if not found:
        message = f"got {value}, which is no file; allowed are existing files, named relative to {folder.absolute()}."
        _refuse(value, message, problems)
    return str(path.absolute())
