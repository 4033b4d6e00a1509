"""Model cards: a README.md with the front matter that the hub reads and what was measured about the model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from bertcompress.errors import RunError
from bertcompress.report import compare, describe, text
from bertcompress.report.markdown import chain_words, fenced, settings_words, table_of_costs, table_of_models
from bertcompress.report.page import task_words
from bertcompress.report.runs import Entry, Run
from bertcompress.report.text import markdown as escape

PIPELINE_TAGS = {
    "classification": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
    "question_answering": "question-answering",
    "embedding": "feature-extraction",
    "unlabelled": "fill-mask",
}
AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "tagging": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "masked_lm": "AutoModelForMaskedLM",
    "none": "AutoModel",
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def model_card(
    results: Mapping[str, Any],
    model_name: str,
    *,
    environment: Mapping[str, Any] | None = None,
    license: str = "unknown",
    base_model: str | None = None,
    language: str | None = None,
    location: str = "path/to/this/folder",
) -> str:
    """Return the README.md of one model of a run.

    Args:
        results: the run's results, as in results.json.
        model_name: the model's name in the results, such as `1-extract_then_distill`.
        environment: the run's environment, for the assumptions of its cost estimates.
        license: identifier of the license; it cannot be told from the results.
        base_model: name of the model that the teacher was made from; default: as the results tell.
        language: ISO 639-1 code of the language, left out where not given.
        location: where the loading examples say the model is: a folder or a hub name.

    Raises:
        RunError: the results have no model of that name.
    """
    run = Run(results, environment or {})
    places = [place for place, entry in enumerate(run.entries) if entry.name == model_name]
    if not places:
        names = ", ".join(repr(entry.name) for entry in run.entries) or "none"
        raise RunError(f"model_card: the results have no model {model_name!r}, allowed are {names}.")
    # A card tells of this model and of what it was made from, not of what was made from it later.
    until = Run({**results, "models": [dict(entry.values) for entry in run.entries[: places[0] + 1]]}, run.environment)
    entry = until.entries[-1]
    base_model = base_model or _base_model(until)
    front = yaml.safe_dump(
        _front_matter(entry, until, license, base_model, language), sort_keys=False, allow_unicode=True
    )
    parts = [
        f"---\n{front}---",
        f"# {escape(until.name)}: {escape(entry.name)}",
        *_summary(until),
        "## Measured",
        *table_of_models([until]),
        "## How it was made",
        _steps(until),
        *table_of_costs(until),
        "## How to load it",
        *(_loading_exported(entry, location) if entry.exported else _loading(entry, location)),
        "## Limits",
        _limits(entry, license, base_model),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _base_model(run: Run) -> str | None:
    name = run.results.get("base_model") or run.entries[0].settings.get("model")
    # A path of somebody's machine is not a name that a reader could use.
    return name if isinstance(name, str) and _HUB_NAME.fullmatch(name) else None


def _front_matter(entry: Entry, run: Run, license: str, base_model: str | None, language: str | None) -> dict[str, Any]:
    front: dict[str, Any] = {"license": text.clean(license)}
    if language:
        front["language"] = text.clean(language)
    if base_model:
        front["base_model"] = text.clean(base_model)
    tag = PIPELINE_TAGS.get(entry.kind)
    front |= {"library_name": "bertcompress" if entry.exported else "transformers"} | (
        {"pipeline_tag": tag} if tag else {}
    )
    methods = [each.method.replace("_", "-") for each in run.entries if each.method]
    front["tags"] = list(dict.fromkeys(["bertcompress", *methods]))
    scores = {str(name): text.number(value) for name, value in text.mapping(entry.values.get("scores")).items()}
    known = [{"type": text.clean(name), "value": value} for name, value in scores.items() if value is not None]
    if known:
        front["metrics"] = [each["type"] for each in known]
        front["model-index"] = [
            {"name": text.clean(f"{run.name}-{entry.name}"), "results": [_index_entry(run, tag, known)]}
        ]
    return front


def _index_entry(run: Run, tag: str | None, known: list[dict[str, Any]]) -> dict[str, Any]:
    name = text.clean(run.task.get("name") or "unknown")
    split = run.task.get("split")
    dataset = {"name": name, "type": name} | ({"split": text.clean(split)} if split else {})
    return {"task": {"type": tag or "other"}, "dataset": dataset, "metrics": known}


def _summary(run: Run) -> list[str]:
    entry = run.entries[-1]
    told = compare.verdict(run)
    labels = [escape(label) for label in text.sequence(run.task.get("labels"))]
    answers = f"Labels: {', '.join(labels)}." if labels else ""
    return [
        escape(told.headline[:1].upper() + told.headline[1:]),
        f"Made for {escape(task_words(run))}. {escape(told.detail)}",
        answers,
        f"Architecture: {escape(chain_words(entry, run.entries[-2] if len(run.entries) > 1 else None))}.",
    ]


def _steps(run: Run) -> str:
    return "\n".join(
        f"{place}. **{escape(entry.name)}**, {escape(describe.method_name(entry))}: {settings_words(entry)}"
        for place, entry in enumerate(run.entries, 1)
    )


def _loading(entry: Entry, location: str) -> list[str]:
    task = (
        entry.spec.head.task
        if entry.spec
        else {"unlabelled": "masked_lm", "embedding": "none"}.get(entry.kind, entry.kind)
    )
    auto = AUTO_CLASSES.get(task, "AutoModel")
    quoted = json.dumps(text.clean(location), ensure_ascii=False)
    ours = f"import bertcompress as bc\n\nmodel = bc.Model.from_pretrained({quoted})\nprint(model.spec)"
    theirs = (
        "import bertcompress  # registers the architecture with transformers\n"
        f"from transformers import {auto}, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({quoted})\n"
        f"model = {auto}.from_pretrained({quoted}).eval()\n"
        'outputs = model(**tokenizer("A sentence.", return_tensors="pt"))'
    )
    return ["With bertcompress:", fenced(ours, "python"), "With plain transformers:", fenced(theirs, "python")]


def _loading_exported(entry: Entry, location: str) -> list[str]:
    quoted = json.dumps(text.clean(location), ensure_ascii=False)
    precision = ', precision="bf16"' if entry.settings.get("precision") == "bf16" else ""
    ours = (
        "import bertcompress as bc\n\n"
        f"model = bc.runtime.load({quoted}{precision})  # the tokenizer is in the file\n"
        'print(model.predict(["A sentence."]).logits)'
    )
    return [
        "With bertcompress:",
        fenced(ours, "python"),
        "Other programs give the graph `input_ids`, `attention_mask` and `token_type_ids`, whole numbers of 64 bits, "
        "(batch, length), and take `logits`, or without a head the last hidden states. bc.runtime sets what keeps the "
        "answers those of the model: for OpenVINO `INFERENCE_PRECISION_HINT` of f32, and for ONNX Runtime on "
        "processors without int8 dot products `session.x64quantprecision` of 1.",
    ]


def _limits(entry: Entry, license: str, base_model: str | None) -> str:
    seeds = text.sequence(entry.values.get("seeds"))
    lines = [
        "The score holds for text like the test data; it was measured on nothing else.",
        "Latency, throughput and memory hold for the machine and the conditions that they were measured on.",
        "Compression can hurt some groups of inputs more than the mean score shows; measure on your own data.",
        "Energy, CO\u2082e and money are estimates.",
    ]
    if len(seeds) < 2:
        lines.append("It was trained with one seed at most, so the spread between training runs is not known.")
    if not any(entry.loyalty(name) is not None for name in ("label", "probability")):
        lines.append("Loyalty to the teacher was not measured.")
    if license == "unknown":
        lines.append("The license is unknown: that of the base model and of the training data decide what you may do.")
    if base_model is None:
        lines.append("The base model is not recorded under a public name.")
    return "\n".join(f"- {escape(line)}" for line in lines)
