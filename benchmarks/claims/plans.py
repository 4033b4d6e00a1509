"""What an experiment would take, at any scale: every cell is checked, the first one is timed, the others follow.

A paper's own scale needs a teacher and texts that are not part of the project. Their place is taken by a network of the
teacher's shape, whose weights are never made, and by the texts of the laptop's scale. The hours are those of the cell
that was timed, times the others' multiply-accumulates: an order of magnitude, for one process on this machine.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from benchmarks.claims.execute import compute
from benchmarks.claims.experiment import load
from bertcompress.compressors.layer_mapping.compressor import LayerMappingSearch
from bertcompress.config import RunConfig
from bertcompress.data.base import Task
from bertcompress.data.sources import resolve_model
from bertcompress.data.tasks import load_task
from bertcompress.encoder.checkpoints import read_config
from bertcompress.encoder.convert import spec_from_config
from bertcompress.encoder.spec import EncoderSpec, Head
from bertcompress.model import spec_for
from bertcompress.pipeline.chain import Pipeline, check_objectives
from bertcompress.runs import plan as plan_of

STANDINS = Path("runs/claims/standins")
BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
PIECES = 1.3  # word pieces of an English word, about


def plan(path: Path, scale: str, only: str = "") -> str:
    """Check all cells of an experiment and estimate what it takes; return it as a text.

    Raises:
        ConfigError: a cell cannot work.
    """
    size = yaml.safe_load(path.read_text(encoding="utf-8"))["scales"][scale].get("texts")
    cells = [cell for cell in load(path, scale).cells if only in cell.name]
    lines, work, rate = [], {}, 0.0
    for cell in cells:
        config = _with_standins(cell.config())
        student, work[cell.name] = _checked(config, size)
        if config.compress and not rate:
            timed, rate = _timed(config)
            lines += timed
        shape = f"{student.num_layers} layers of {student.hidden_size}, {student.parameters() / 1e6:.1f} M parameters"
        lines.append(f"{cell.name}: {shape}, {work[cell.name]:.3g} multiply-accumulates")
    hours = sum(work.values()) / rate / 3600 if rate else 0.0
    return "\n".join(
        [*lines, f"{len(cells)} cells, about {hours:.3g} hours of one process here, fine-tunings not counted"]
    )


def _checked(config: RunConfig, size: dict[str, Any] | None) -> tuple[EncoderSpec, float]:
    """Plan a cell's steps; return what comes out, and the multiply-accumulates of making it."""
    task = load_task(config.task)
    folder = resolve_model(config.teacher.model)
    teacher = spec_from_config(read_config(folder or Path(config.teacher.model)), Head("masked_lm"))
    if config.teacher.fine_tune.epochs > 0:
        teacher = spec_for(teacher, task)
    specs = [spec for _, spec in Pipeline(config.compress).plan(teacher, task)]
    check_objectives(config.compress, specs, teacher, task)
    student = specs[-1] if specs else teacher
    examples, tokens = _size(task)
    if size is not None:
        examples, tokens = round(float(size["tokens"]) / 128), 128
    found = sum(compute(config.compress, student, teacher, examples, tokens).values())
    for step in config.compress:
        if isinstance(step, LayerMappingSearch):  # each mapping takes a share of the texts; most are new
            short = dataclasses.replace(step.training_settings(), epochs=step.proxy_share * step.proxy_epochs)
            each = sum(compute([short], student, teacher, examples, tokens).values())
            found += each * (step.population * step.generations + step.finalists * step.finalist_seeds)
    return student, found


def _size(task: Task) -> tuple[int, int]:
    """Return the number of training texts and their mean length in tokens, about."""
    assert task.train is not None
    column = "text" if "text" in task.train.column_names else "words"
    words = sum(len(text.split() if isinstance(text, str) else text) for text in task.train[column][:])
    return len(task.train), max(1, round(PIECES * words / len(task.train)))


def _timed(config: RunConfig) -> tuple[list[str], float]:
    """Return the plan of one cell on the texts that are here, and its multiply-accumulates in a second."""
    chain = [
        step.extraction(step.seed, epochs=step.epochs) if isinstance(step, LayerMappingSearch) else step
        for step in config.compress
    ]
    config = dataclasses.replace(config, compress=tuple(chain), downstream=None)
    steps, (_, work) = plan_of(config), _checked(config, None)
    lines = [
        f"    {step.name}: {step.seconds:.0f} s on the texts that are here, {step.memory_mib:.0f} MiB" for step in steps
    ]
    return ["timed:", *lines], work / sum(step.seconds for step in steps)


def _with_standins(config: RunConfig) -> RunConfig:
    """Return the configuration with a network of BERT-base's shape where the model is not on this machine."""
    model = config.teacher.model
    if model != "bert-base-uncased":
        return config
    folder = STANDINS / model
    if not (folder / "config.json").exists():
        source = Path(str(resolve_model("minilm-l6")))  # its tokenizer is BERT-base's
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
            if (source / name).exists():
                shutil.copy(source / name, folder / name)
        values = json.loads((source / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**values, **BERT_BASE}), encoding="utf-8")
    return dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, model=str(folder.absolute())))
