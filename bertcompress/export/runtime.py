"""Exported files as models: they predict, are evaluated and measured as any other, in the runtime that they are for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bertcompress.drafts import in_one_piece
from bertcompress.encoder.chain import ChainOutput, ChainPreTrainedModel
from bertcompress.encoder.network import TaskOutput
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.errors import CheckpointError, ConfigError
from bertcompress.export import onnx, openvino
from bertcompress.export.seal import check_seal, spec_in, tokenizer_in
from bertcompress.export.sessions import SUFFIXES, Session, open_session
from bertcompress.model import Model

if TYPE_CHECKING:
    from bertcompress.data.tasks import Task

CHECKED = {"onnx": onnx.checked_bytes, "openvino": openvino.checked_bytes}


class RuntimeNetwork(nn.Module):
    """Answers as the exported network did; it has no weights of its own, and no gradients."""

    def __init__(
        self, path: Path, spec: EncoderSpec, session: tuple[int, Session] | None = None, precision: str = "fp32"
    ) -> None:
        """Take the file, how it is loaded already (the number of threads, and the session), and its precision."""
        super().__init__()
        self.path, self.spec, self.precision = path, spec, precision
        self.register_buffer("place", torch.zeros(1), persistent=True)  # says that inputs belong on the CPU
        self._session = session

    def session(self) -> Session:
        """Return the loaded file; it is loaded again when torch's number of threads has changed."""
        threads = torch.get_num_threads()
        if self._session is None or self._session[0] != threads:
            self._session = (threads, open_session(self.path, threads, self.precision))
        return self._session[1]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> ChainOutput | TaskOutput:
        """Return the logits, or without a head the last hidden states, of ids (batch, length)."""
        given = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            "token_type_ids": torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        }
        longest = self.spec.embeddings.max_positions
        if input_ids.shape[1] > longest:
            raise ConfigError(
                f"The input has {input_ids.shape[1]} tokens, allowed are {longest} (the model's positions); tokenize "
                f"with truncation=True, max_length={longest}."
            )
        batch = {name: tensor.to("cpu", torch.int64).contiguous().numpy() for name, tensor in given.items()}
        found = torch.from_numpy(self.session().run(batch))
        return ChainOutput(last_hidden_state=found) if self.spec.head.task == "none" else TaskOutput(logits=found)


class ExportedModel(Model):
    """A model whose network is an exported file. It answers, and cannot be trained or compressed any further."""

    def __init__(self, path: Path, network: RuntimeNetwork, facts: Mapping[str, str], task: Task | None = None) -> None:
        """Take the file and what it says of itself."""
        super().__init__(
            cast(ChainPreTrainedModel, network),
            tokenizer_in(facts, network.spec.embeddings.vocab_size),
            task,
            (),
            json.loads(facts["labels"]),
            json.loads(facts["null_threshold"]),
        )
        self.path, self.runtime_network = path, network

    @property
    def precision(self) -> str:
        """The precision of the floats between integer products."""
        return self.runtime_network.precision

    @property
    def runtime(self) -> str:
        """What runs it, with its version, and the precision of its floats where that is not float32."""
        session = self.runtime_network.session()
        return f"{session.name} {session.version}" + ("" if self.precision == "fp32" else f" ({self.precision})")

    def kernels(self) -> dict[str, int]:
        """Return how often each kind of kernel is in the graph that is executed."""
        return self.runtime_network.session().kernels()

    def integer_products(self) -> int:
        """Return how many products with weights are executed in integers; attention's own do not count."""
        return self.runtime_network.session().integer_products()

    def files(self) -> list[Path]:
        """Return the files that are the model."""
        return [self.path] if self.path.suffix == ".onnx" else [self.path, self.path.with_suffix(".bin")]

    def size_in_bytes(self) -> int:
        """Bytes of its files, tokenizer included."""
        return sum(file.stat().st_size for file in self.files())

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy its files.

        Raises:
            CheckpointError: the folder cannot be written to.
        """
        with in_one_piece(Path(folder), f"{folder}: the exported model") as draft:
            for file in self.files():
                shutil.copy2(file, draft / file.name)

    def state(self) -> dict[str, Tensor]:
        """Refuse: an exported network has no weights to change."""
        raise self._fixed("compressed")

    def copy(self) -> Model:
        """Refuse: an exported network has no weights to change."""
        raise self._fixed("copied for training or compression")

    def after(self, *steps: Any, network: Any = None, task: Any = None) -> Model:
        """Refuse: an exported network has no weights to change."""
        raise self._fixed("compressed")

    def without_head(self) -> Model:
        """Return the model itself if it has no head; a head cannot be taken off.

        Raises:
            ConfigError: it has one.
        """
        if self.spec.head.task == "none":
            return self
        raise self._fixed("used without its head")

    def for_task(self, task: Task, *, seed: int = 0) -> Model:
        """Refuse: an exported network has the head that it was exported with."""
        raise self._fixed("given another head")

    def export(self, path: str | Path, to: str | None = None, *, precision: str = "fp32") -> Any:
        """Refuse: an exported network has no weights to write anew."""
        raise self._fixed("exported again")

    def to_bert(self) -> Any:
        """Refuse: an exported network has no weights to convert."""
        raise self._fixed("converted")

    def _fixed(self, what: str) -> ConfigError:
        return ConfigError(f"{self.path} is an exported model, which cannot be {what}; use the model it was made from.")


def load(path: str | Path, task: Task | None = None, *, precision: str = "fp32") -> ExportedModel:
    """Load an exported file (.onnx, or .xml with its .bin) as a model.

    Args:
        path: of the file, or of a folder that holds one.
        task: what it was trained for; needed where a task's evaluation is.
        precision: of the floats between integer products: "fp32", the model's own answers, or "bf16", in which OpenVINO
            is mostly faster where the processor has it, with answers a little off.

    Raises:
        ConfigError: the name ends otherwise, the runtime is not installed, labels do not fit the task's, or the runtime
            does not compute in that precision, here or at all.
        CheckpointError: there is no such file, it is damaged, or it was not written by this library.
    """
    path = file_in(Path(path))
    threads = torch.get_num_threads()
    try:
        session = open_session(path, threads, precision)
        facts = session.facts()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is damaged ({error}); export the model again.") from error
    check_seal(path, facts, lambda: CHECKED[SUFFIXES[path.suffix]](path, facts))
    model = ExportedModel(path, RuntimeNetwork(path, spec_in(facts), (threads, session), precision), facts, task)
    if task is not None and task.labels and model.labels and tuple(task.labels) != model.labels:
        raise ConfigError(
            f"{path}: its labels are {list(model.labels)}, those of the task {task.name} are {list(task.labels)}; "
            "evaluate it on the task that it was trained for."
        )
    return model


def file_in(path: Path) -> Path:
    """Return the exported file, which may be given by the folder that holds it."""
    if path.is_dir():
        found = [each for each in sorted(path.iterdir()) if each.suffix in SUFFIXES]
        if len(found) != 1:
            names = ", ".join(each.name for each in found) or "none"
            raise ConfigError(f"{path}: has {names} that end in {' or '.join(SUFFIXES)}; name the file.")
        return found[0]
    return path


def is_exported(path: str | Path) -> bool:
    """Return whether a name is that of an exported file, or of a folder with one and no other model."""
    path = Path(path)
    if path.is_dir():
        return not (path / "config.json").exists() and any(each.suffix in SUFFIXES for each in path.iterdir())
    return path.suffix in SUFFIXES
