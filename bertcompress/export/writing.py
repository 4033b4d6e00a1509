"""Writes a model for another runtime, loads what was written, and compares."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bertcompress.drafts import in_one_piece
from bertcompress.encoder.bits import WHOLE
from bertcompress.encoder.chain import ChainModel
from bertcompress.encoder.logits import task_logits
from bertcompress.encoder.operations import AttentionOperation
from bertcompress.encoder.quantized import QuantizedLinear
from bertcompress.errors import CheckpointError, ConfigError
from bertcompress.export.graph import POOLED, check_head, last_mixing, steps_of
from bertcompress.export.installed import require
from bertcompress.export.onnx import export_onnx
from bertcompress.export.openvino import TOKEN_STEPS, export_openvino
from bertcompress.export.runtime import ExportedModel, load
from bertcompress.export.seal import facts_of
from bertcompress.export.sessions import SUFFIXES, check_precision

if TYPE_CHECKING:
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.model import Model

logger = logging.getLogger(__name__)
WRITERS = {"onnx": export_onnx, "openvino": export_openvino}
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}
FILES = {"onnx": "model.onnx", "openvino": "model.xml"}  # as a run calls them
# What a run may ask for -> the format, and the precision that its file is described and judged in.
TARGETS = {"onnx": ("onnx", "fp32"), "openvino": ("openvino", "fp32"), "openvino-bf16": ("openvino", "bf16")}
ROWS, LENGTH = 8, 32  # of the random examples that are compared
# A file is not the model where the root of the mean squared difference of logits exceeds this share of their spread; of
# calibrated networks at most 0.08 was seen, where a head was not trained, so that its logits hardly spread (in bfloat16
# 0.7, which is not held against the file). Where logits do not spread, this share of the largest is allowed.
UNLIKE, ROUNDING = 0.5, 1e-3


@dataclass(frozen=True)
class Export:
    """What was written, and how it compares with the model.

    Attributes:
        path: of the file; OpenVINO's weights are in a second one beside it.
        to: "onnx" or "openvino".
        runtime: what was used to check it.
        size_in_bytes: of the files.
        integer_products: products with weights that are executed in integers.
        kernels: how often each kind of kernel is executed.
        largest_difference: of the logits on random examples, from the model's own.
        spread: standard deviation of these logits, to hold the difference against.
        same_answers: share of these examples, tokens, or starts and ends of spans with the same answer; None where
            answers are numbers.
    """

    path: Path
    to: str
    runtime: str
    size_in_bytes: int
    integer_products: int
    kernels: dict[str, int]
    largest_difference: float
    spread: float
    same_answers: float | None

    def __str__(self) -> str:
        """Say it in a line."""
        integers = f"{self.integer_products} integer products" if self.integer_products else "no integer products"
        same = "" if self.same_answers is None else f", {self.same_answers:.1%} have the same answer"
        return (
            f"{self.path} ({self.runtime}): {self.size_in_bytes / 2**20:.1f} MiB, {integers}; on random examples "
            f"logits differ by at most {self.largest_difference:.2g} (they spread by {self.spread:.2g}){same}"
        )


def check(spec: EncoderSpec, to: str, precision: str = "fp32") -> None:
    """Refuse what cannot be exported, or not executed in that precision, before anything is made.

    Raises:
        ConfigError: says what, and what can.
    """
    if to not in WRITERS:
        raise ConfigError(f"export: got to={to!r}, allowed are {', '.join(WRITERS)}.")
    for package in PACKAGES[to]:
        require(package, to)
    check_head(spec)
    rounded = spec.quantization is not None and WHOLE not in (
        spec.quantization.weight_bits,
        spec.quantization.activation_bits,
    )
    if to == "openvino" and rounded and spec.quantization.activation_steps == "token":  # type: ignore[union-attr]
        raise ConfigError(TOKEN_STEPS)
    check_precision(to, precision)


def export(model: Model, path: str | Path, to: str | None = None, *, precision: str = "fp32") -> Export:
    """Write a model as a file of its own for ONNX Runtime or OpenVINO, and check what was written.

    Args:
        model: what to write.
        path: of the file: .onnx or .xml.
        to: "onnx" or "openvino"; by default what the file's name ends in.
        precision: of the floats between integer products in what is said of the file, see `runtime.load`; it is the
            same file, and always checked in "fp32".

    Raises:
        ConfigError: the name ends otherwise, a package is not installed, the target cannot compute what the network
            does, or it would execute in float what the model computes in integers.
        CheckpointError: the place cannot be written to, or what was written answers otherwise than the model; a file
            that was there before is unchanged then.
    """
    path = Path(path)
    if to is not None:
        check(model.spec, to, precision)
    if path.suffix not in SUFFIXES or to not in (None, SUFFIXES[path.suffix]):
        wanted = " or ".join(suffix for suffix, name in SUFFIXES.items() if to in (None, name))
        raise ConfigError(f"export: the file is {path}, its name has to end in {wanted}.")
    target = SUFFIXES[path.suffix]
    check(model.spec, target, precision)
    with in_one_piece(path.parent, f"export: {path}") as draft:
        WRITERS[target](model.network, draft / path.name, facts_of(model))
        found = _compared(model, load(draft / path.name, model.task), path, target)
        if precision != "fp32":
            found = _compared(model, load(draft / path.name, model.task, precision=precision), path, target)
    expected = rounded_maps(model)
    if found.integer_products < expected:
        raise ConfigError(
            f"export: {found.runtime} executes {found.integer_products} of the model's {expected} integer products as "
            f"such on this processor, the rest in float; the file {path} is right, but not as fast as it should be."
        )
    logger.debug("exported %s", found)
    return found


def _compared(model: Model, exported: ExportedModel, path: Path, target: str) -> Export:
    """Return what is found of a file; refuse one whose answers in float32 are others than the model's."""
    inputs = _random_inputs(model)
    (mine, my_answers), (theirs, their_answers) = (_told(each, inputs) for each in (model, exported))
    apart, spread = mine - theirs, float(mine.std())
    near = float(np.sqrt(np.square(apart).mean())) <= UNLIKE * spread + ROUNDING * float(np.abs(mine).max())
    if exported.precision == "fp32" and not near:
        raise CheckpointError(
            f"export: {exported.runtime} answers otherwise than the model: logits of random examples differ by up to "
            f"{np.abs(apart).max():.2g}, and spread by {spread:.2g}; {path} is not written. Use the other format, and "
            "please report it."
        )
    return Export(
        path=path,
        to=target,
        runtime=exported.runtime,
        size_in_bytes=exported.size_in_bytes(),
        integer_products=exported.integer_products(),
        kernels=exported.kernels(),
        largest_difference=float(np.abs(apart).max()),
        spread=spread,
        same_answers=None if my_answers is None else float((my_answers == their_answers).mean()),
    )


def rounded_maps(model: Model) -> int:
    """Return how many integer products lead to the logits.

    That is one for each quantized map, or group of its inputs, and where only the first token's queries are computed,
    these apart from the keys and values of all.
    """
    unused = "pooler" if model.spec.head.task not in POOLED else None
    maps = [
        part
        for name, part in model.network.named_modules()
        if isinstance(part, QuantizedLinear) and name.rpartition(".")[2] != unused
    ]
    apart = _query_of_first(model)
    return sum(max(1, part.input_steps, 2 * (part is apart)) for part in maps if part.activation_bits != WHOLE)


def _query_of_first(model: Model) -> nn.Module | None:
    """Return the map to queries, keys and values of which only the first token's queries are written."""
    encoder = model.network if isinstance(model.network, ChainModel) else model.network.encoder
    steps = steps_of(encoder)
    last = last_mixing(steps)
    mixing = steps[last] if last >= 0 and model.spec.head.task in POOLED else None
    return mixing.qkv if isinstance(mixing, AttentionOperation) else None


def _random_inputs(model: Model) -> dict[str, torch.Tensor]:
    """Return random examples of several lengths."""
    generator = np.random.default_rng(0)
    length = min(LENGTH, model.max_length)
    ids = torch.from_numpy(generator.integers(0, model.spec.embeddings.vocab_size, (ROWS, length)))
    mask = (torch.arange(length) < torch.from_numpy(generator.integers(1, length + 1, (ROWS, 1)))).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def _told(model: Model, inputs: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the logits, (examples or real tokens, C), and the answers that follow from them, if these are no numbers.

    Answers are classes, of examples or tokens, and in question answering the tokens of start and end, (examples, 2).
    """
    real, kind = inputs["attention_mask"].bool(), model.spec.head.task
    device = next(iter(model.network.state_dict().values())).device
    placed = {name: each.to(device) for name, each in inputs.items()}
    with torch.inference_mode():
        logits = task_logits(model.network.eval()(**placed), placed["attention_mask"]).float().cpu()
    flat = logits[real] if logits.ndim == 3 else logits
    if kind in ("none", "regression"):
        return flat.numpy(), None
    spans = logits.masked_fill(~real.unsqueeze(-1), -torch.inf).argmax(1) if kind == "question_answering" else None
    return flat.numpy(), (flat.argmax(-1) if spans is None else spans).numpy()
