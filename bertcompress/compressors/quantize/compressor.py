"""Post-training quantization: no data, no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bertcompress.compressors.base import Context, refuse_quantized
from bertcompress.encoder.bits import plain_bits
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.encoder.tensors import TABLES, Quantization
from bertcompress.errors import ConfigError, allowed

if TYPE_CHECKING:
    from bertcompress.data.tasks import Task
    from bertcompress.model import Model


INITIALIZATIONS = ("max", "mse", "kl", "percentile", "lsq")


@dataclass(frozen=True, kw_only=True)
class PostTrainingQuantization:
    """Store linear maps and embeddings in few bits, and multiply integers on the CPU; sizes in bits.

    Weights: symmetric, round to nearest. Activations: quantized as the network runs, one step size per token, so logits
    do not depend on batch mates (Q8BERT and common toolkits use one per batch). The last layer, normalisation, softmax
    and activation functions stay in float. Without training, 8 bits cost little; below 4, little is left.

    Attributes:
        weight_bits: of the linear maps: 1.58 (ternary), 2 to 8, or 32 to leave them as they are.
        embedding_bits: of the embedding tables, likewise.
        activation_bits: of what goes into a quantized linear map: 2 to 8; or 32, then weights are stored in few bits
            and multiplied as floats.
        weight_steps: "row", a step size for each output, or "tensor", one for all.
        embedding_steps: "row", a step size for each row of a table, or "tensor".
        tables: which embedding tables are quantized, of "word", "position", "token_type".
        initialization: how step sizes are found: "max", the largest magnitude; "mse", the smallest squared error;
            "kl", "percentile" and "lsq", as training for low bits begins. None takes "max" for 8 bits and "mse" below.
    """

    method: ClassVar[str] = "post_training_quantization"

    weight_bits: float = 8
    embedding_bits: float = 8
    activation_bits: int = 8
    weight_steps: str = "row"
    embedding_steps: str = "row"
    tables: Sequence[str] = TABLES
    initialization: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be stored or executed."""
        object.__setattr__(self, "tables", tuple(self.tables))
        for name in ("weight_bits", "embedding_bits"):
            object.__setattr__(self, name, plain_bits(getattr(self, name)))
        self.quantization()
        if self.initialization is not None and self.initialization not in INITIALIZATIONS:
            raise ConfigError(
                f"PostTrainingQuantization.initialization: got {self.initialization!r}, allowed are "
                f"{allowed(INITIALIZATIONS)}."
            )

    def quantization(self) -> Quantization:
        """Return how the result is stored and executed.

        Raises:
            ConfigError: a width or granularity is none that there is.
        """
        return Quantization(
            self.weight_bits,
            self.embedding_bits,
            self.activation_bits,
            self.weight_steps,
            self.embedding_steps,
            tuple(self.tables),
        )

    def plan(self, spec: EncoderSpec, task: Task | None, *, teacher: EncoderSpec | None = None) -> EncoderSpec:
        """Return the spec with its quantization described.

        Raises:
            ConfigError: the encoder is quantized already.
        """
        refuse_quantized(self.method, spec)
        return spec.replace(quantization=self.quantization())

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Return the quantized model; neither data nor a teacher is used.

        Raises:
            ConfigError: the model is quantized already.
        """
        from bertcompress.compressors.fitting import step_of
        from bertcompress.compressors.quantize.weights import quantize_state, quantized_names
        from bertcompress.encoder.network import build

        spec = self.plan(model.spec, task)
        network = build(spec, model.labels)
        network.load_state_dict(quantize_state(model.network.state_dict(), spec, self.initialization))
        kept = [tensor.name for tensor in spec.tensors() if tensor.weights and tensor.dtype == "F32"]
        facts = {"quantized": quantized_names(spec), "kept_in_float": kept}
        return model.after(step_of(self, None, facts), network=network, task=task)
