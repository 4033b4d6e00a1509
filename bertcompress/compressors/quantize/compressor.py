"""Post-training quantization to int8: no data, no training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bertcompress.compressors.base import Context, refuse_quantized
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.encoder.tensors import Quantization

if TYPE_CHECKING:
    from bertcompress.data.tasks import Task
    from bertcompress.model import Model


@dataclass(frozen=True, kw_only=True)
class PostTrainingQuantization:
    """Store linear maps and embeddings as integers, and multiply integers on the CPU; sizes in bits.

    Weights: symmetric, round to nearest, one step size per output row. Activations: quantized as the network runs, one
    step size per token, so logits do not depend on batch mates (Q8BERT and common toolkits use one per batch). The
    last layer, normalisation, softmax and activation functions stay in float.

    Attributes:
        weight_bits: of the linear maps: 8, or 32 to leave them as they are.
        embedding_bits: of the embedding tables: 8, or 32 to leave them as they are.
        activation_bits: of what goes into a linear map: 8 where weights have 8, else 32.
    """

    method: ClassVar[str] = "post_training_quantization"

    weight_bits: int = 8
    embedding_bits: int = 8
    activation_bits: int = 8

    def __post_init__(self) -> None:
        """Refuse bit widths that cannot be stored or executed."""
        Quantization(self.weight_bits, self.embedding_bits, self.activation_bits)

    def plan(self, spec: EncoderSpec, task: Task | None, *, teacher: EncoderSpec | None = None) -> EncoderSpec:
        """Return the spec with its quantization described.

        Raises:
            ConfigError: the encoder is quantized already.
        """
        refuse_quantized(self.method, spec)
        return spec.replace(quantization=Quantization(self.weight_bits, self.embedding_bits, self.activation_bits))

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Return the quantized model; neither data nor a teacher is used.

        Raises:
            ConfigError: the model is quantized already.
        """
        from bertcompress.compressors.fitting import step_of
        from bertcompress.encoder.network import build
        from bertcompress.encoder.quantized import quantize_state

        spec = self.plan(model.spec, task)
        names = [tensor.name.removesuffix(".codes") for tensor in spec.tensors() if tensor.dtype == "I8"]
        network = build(spec, model.labels)
        network.load_state_dict(quantize_state(model.network.state_dict(), names))
        kept = [tensor.name for tensor in spec.tensors() if tensor.weights and tensor.dtype == "F32"]
        facts = {"quantized": names, "kept_in_float": kept}
        return model.after(step_of(self, None, facts), network=network, task=task)
