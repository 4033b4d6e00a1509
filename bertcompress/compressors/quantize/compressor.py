"""Post-training quantization: no training, and data only where step sizes of activations are to be stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bertcompress.compressors.base import Context, refuse_quantized, require_task
from bertcompress.compressors.quantize.settings import INITIALIZATIONS, normalize, quantization_of
from bertcompress.encoder.bits import WHOLE
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.encoder.tensors import TABLES, Quantization, at_least
from bertcompress.errors import ConfigError, allowed

if TYPE_CHECKING:
    from torch import Tensor

    from bertcompress.data.tasks import Task
    from bertcompress.model import Model


@dataclass(frozen=True, kw_only=True)
class PostTrainingQuantization:
    """Store linear maps and embeddings in few bits, and multiply integers on the CPU; sizes in bits.

    Weights: symmetric, round to nearest. Activations: quantized as the network runs, one step size per token, so logits
    do not depend on batch mates (Q8BERT and common toolkits use one per batch); or with stored step sizes, which are
    found in some training examples. The last layer, normalisation, softmax and activation functions stay in float.

    Attributes:
        weight_bits: of the linear maps: 1.58 (ternary), 2 to 8, or 32 to leave them as they are.
        embedding_bits: of the embedding tables, likewise.
        activation_bits: of what goes into a quantized linear map: 2 to 8; or 32, then weights are stored in few bits
            and multiplied as floats.
        weight_steps: "row", a step size for each output, or "tensor", one for all.
        embedding_steps: "row", a step size for each row of a table, or "tensor".
        tables: which embedding tables are quantized, of "word", "position", "token_type".
        initialization: how step sizes are found: "max", the largest magnitude; "mse", the smallest squared error;
            "kl", "percentile" and "lsq", as training for low bits begins. None takes "mse", but for weights of 8 bits
            "max".
        activation_steps: "token", found as the network runs, or "tensor", stored, for which a task is needed.
        activation_offset: whether what comes out of a feed-forward's activation function is stored from an offset on,
            with unsigned codes, as hardly any of it is negative; for stored steps.
        smoothing: above 0 and up to 1, few large dimensions of what goes into a linear map are made smaller by stored
            factors, and its weights larger (SmoothQuant, whose authors take 0.5); for stored steps.
        shared_inputs: whether queries, keys and values share a stored step; else they have three.
        attention: whether attention's own inputs (queries, keys, values, probabilities) are quantized as well, with
            stored steps.
        calibration_examples: training examples that stored steps are found in.
        max_length: tokens that these are cut to; by default as in training.
        seed: that they are drawn by.
    """

    method: ClassVar[str] = "post_training_quantization"

    weight_bits: float = 8
    embedding_bits: float = 8
    activation_bits: int = 8
    weight_steps: str = "row"
    embedding_steps: str = "row"
    tables: Sequence[str] = TABLES
    initialization: str | None = None
    activation_steps: str = "token"
    activation_offset: bool = False
    smoothing: float = 0.0
    shared_inputs: bool = True
    attention: bool = False
    calibration_examples: int = 64
    max_length: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be stored or executed."""
        normalize(self)
        if self.initialization is not None and self.initialization not in INITIALIZATIONS:
            raise ConfigError(
                f"PostTrainingQuantization.initialization: got {self.initialization!r}, allowed are "
                f"{allowed(INITIALIZATIONS)}."
            )
        if not self.quantization().short_name:
            raise ConfigError(
                "PostTrainingQuantization: got weight_bits=32 and no table of fewer bits, so nothing is quantized; "
                "allowed are 1.58 (ternary) and 2 to 8 for weight_bits, or for embedding_bits with tables."
            )
        for name, least in (("calibration_examples", 1), ("max_length", 2), ("seed", 0)):
            value: object = getattr(self, name)
            if value is not None or name != "max_length":
                at_least("PostTrainingQuantization", name, value, least)

    @property
    def needs_data(self) -> bool:
        """Whether step sizes are stored that only data can tell."""
        return self.activation_bits != WHOLE and (self.activation_steps == "tensor" or self.attention)

    def quantization(self) -> Quantization:
        """Return how the result is stored and executed.

        Raises:
            ConfigError: a width or granularity is none that there is.
        """
        return quantization_of(self, self.attention)

    def plan(self, spec: EncoderSpec, task: Task | None, *, teacher: EncoderSpec | None = None) -> EncoderSpec:
        """Return the spec with its quantization described.

        Raises:
            ConfigError: the encoder is quantized already.
        """
        refuse_quantized(self.method, spec, trains=False)
        return spec.replace(quantization=self.quantization())

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Return the quantized model; no teacher is used, and data only where `needs_data`.

        Raises:
            ConfigError: the model is quantized already, some of its weights are no finite numbers, or data are needed
                and there is no task, or another than the model's head answers.
        """
        from bertcompress.compressors.fitting import step_of
        from bertcompress.compressors.quantize.weights import quantize_state, quantized_names, refuse_not_finite
        from bertcompress.encoder.network import build

        spec = self.plan(model.spec, task)
        refuse_not_finite(self.method, model.state())
        if self.needs_data:
            state = self._calibrated(model, require_task(self.method, task), spec)
        else:
            state = quantize_state(model.state(), spec, self.initialization)
        network = build(spec, model.labels, seed=0)
        network.load_state_dict(state)
        kept = [tensor.name for tensor in spec.tensors() if tensor.weights and tensor.dtype == "F32"]
        facts = {"quantized": quantized_names(spec), "kept_in_float": kept}
        return model.after(step_of(self, None, facts), network=network, task=task)

    def _calibrated(self, model: Model, task: Task, spec: EncoderSpec) -> dict[str, Tensor]:
        """Return the state with stored steps of activations, which are found while weights are rounded."""
        from bertcompress.compressors.fitting import check_head
        from bertcompress.compressors.quantize.learned import prepare, quantized_state
        from bertcompress.compressors.quantize.training import calibrate

        if model.spec.head.task not in ("none", "masked_lm"):  # which can be calibrated on any texts
            check_head(self.method, model, task)
        learner = model.copy()
        prepare(learner.network, spec, self.initialization)
        # By the largest magnitude, a few outliers would take the codes of all others, also at 8 bits.
        method = self.initialization or "mse"
        calibrate(learner, task, self.seed, self.max_length, self.calibration_examples, method)
        return quantized_state(learner.network, spec)
