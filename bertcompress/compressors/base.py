"""What every compressor is, and the table that resolves their names in YAML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from bertcompress.errors import ConfigError

if TYPE_CHECKING:
    from bertcompress.data.tasks import Task
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.model import Model


@dataclass(frozen=True)
class Context:
    """Where a compressor may keep what it needs to go on after an interruption.

    Attributes:
        folder: for checkpoints; None trains without any.
        label: how the step is called in progress lines.
        shared: folder where a teacher's outputs are kept for other trainings on the same texts; None keeps them for
            this one only.
        cache_mib: MiB of disk that they may take.
    """

    folder: Path | None = None
    label: str = ""
    shared: Path | None = None
    cache_mib: float = 2048


@runtime_checkable
class Compressor(Protocol):
    """A frozen dataclass of hyper-parameters that turns a model into a smaller or faster one."""

    method: ClassVar[str]

    def plan(self, spec: EncoderSpec, task: Task | None, *, teacher: EncoderSpec | None = None) -> EncoderSpec:
        """Return what will come out; touch no weights.

        Args:
            spec: what comes in.
            task: the data, or None.
            teacher: whom the method will learn from; by default the encoder that comes in.

        Raises:
            ConfigError: it cannot work.
        """
        ...

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Return the compressed model; never change the one that came in.

        Args:
            model: what to compress.
            task: data to train on; None where the method needs none.
            teacher: whom to learn from; by default the model that is compressed.
            context: for resuming.
        """
        ...


METHODS: dict[str, type[Any]] = {}
_Class = TypeVar("_Class", bound=type[Any])


def register(*compressors: type[Any]) -> None:
    """Add compressors to the table, under their `method` names."""
    for compressor in compressors:
        METHODS[compressor.method] = compressor


def settings_of(compressor: Any) -> dict[str, Any]:
    """Return a compressor's hyper-parameters as plain JSON types."""
    return {name: _plain(value) for name, value in dataclasses.asdict(compressor).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    return value


def refuse_quantized(method: str, spec: EncoderSpec, *, trains: bool = True) -> None:
    """Refuse to train or cut an encoder whose weights are integers already.

    Args:
        method: what would do so.
        spec: of the encoder.
        trains: whether it would need a gradient; else it would round what is rounded already.

    Raises:
        ConfigError: the encoder is quantized.
    """
    if spec.quantization is not None:
        reason = "integer weights have no gradient" if trains else "what is rounded once is not rounded again"
        raise ConfigError(
            f"{method}: the model is quantized ({spec.low_bits}), and {reason}; start from the float model, and put "
            "quantization last."
        )


def require_task(method: str, task: Task | None) -> Task:
    """Return the task, or refuse to train without one.

    Raises:
        ConfigError: there is no task, or it has nothing to train on.
    """
    if task is None:
        raise ConfigError(f"{method}: got no task, allowed is a task with a train split; use bc.load_task(...).")
    if task.train is None:
        raise ConfigError(f"{method}: task {task.name} has no train split; choose a task that has one.")
    return task
