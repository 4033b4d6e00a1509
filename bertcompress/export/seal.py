"""What exported files keep beside the graph: enough to use them as a model, and to notice that they are damaged."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress import __version__
from bertcompress.encoder.integrity import digest
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.encoder.tokenizers import load_tokenizer
from bertcompress.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bertcompress.model import Model

FORMAT = 2  # since 2, the graph of OpenVINO's files is sealed as well
GRAPH = 2  # raised where the same model becomes another graph, which older versions read all the same
SEALED_BYTES = "sealed_bytes"
_WEIGHTS, _FACTS = "weights_sha256", "facts_sha256"


def facts_of(model: Model) -> dict[str, str]:
    """Return what a model is beside its graph: texts by name, all of them ASCII."""
    with tempfile.TemporaryDirectory(prefix="bertcompress-") as folder:
        model.tokenizer.save_pretrained(folder)
        files = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}
    found = {
        "format": FORMAT,
        "version": __version__,
        "spec": model.spec.to_dict(),
        "labels": list(model.labels),
        "null_threshold": model.null_threshold,
        "tokenizer": files,
        "methods": [step.method for step in model.history],
    }
    return {name: json.dumps(value) for name, value in found.items()}


def sealed(facts: Mapping[str, str], body: bytes) -> dict[str, str]:
    """Return the facts with checksums, of themselves and of the file's other bytes."""
    whole = {**facts, SEALED_BYTES: str(len(body)), _WEIGHTS: hashlib.sha256(body).hexdigest()}
    return {**whole, _FACTS: digest(whole)}


def check_seal(path: Path, facts: Mapping[str, str], body: Callable[[], bytes]) -> None:
    """Refuse a file that is damaged, or none of this library's.

    Args:
        path: of the file.
        facts: that it keeps.
        body: returns its other bytes; called once the facts are known to be whole.

    Raises:
        CheckpointError: says which.
    """
    if not {"format", "spec", "tokenizer", SEALED_BYTES, _WEIGHTS, _FACTS} <= set(facts):
        raise CheckpointError(
            f"{path}: was not written by bertcompress, or its description was removed; export the model again."
        )
    if facts[_FACTS] != digest({name: value for name, value in facts.items() if name != _FACTS}):
        raise CheckpointError(f"{path}: its description is damaged; export the model again.")
    written = json.loads(facts["format"])
    if written != FORMAT:
        remedy = "pip install -U bertcompress" if written > FORMAT else "export the model again"
        raise CheckpointError(
            f"{path}: has format {written}, bertcompress {__version__} reads format {FORMAT}; {remedy}."
        )
    if facts[_WEIGHTS] != hashlib.sha256(body()).hexdigest():
        raise CheckpointError(f"{path}: its graph or weights are damaged (checksum differs); export the model again.")


def spec_in(facts: Mapping[str, str]) -> EncoderSpec:
    """Return the description of the network."""
    return EncoderSpec.from_dict(json.loads(facts["spec"]))


def tokenizer_in(facts: Mapping[str, str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Return the tokenizer."""
    files: dict[str, Any] = json.loads(facts["tokenizer"])
    with tempfile.TemporaryDirectory(prefix="bertcompress-") as folder:
        for name, text in files.items():
            (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
        return load_tokenizer(folder, vocab_size)
