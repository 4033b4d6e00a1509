"""Training with quantizers in the network: what learned steps and tracked steps have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bertcompress.compressors.base import Context, refuse_quantized, require_task
from bertcompress.compressors.distill.compressor import Distillation
from bertcompress.compressors.quantize.settings import normalize, quantization_of
from bertcompress.encoder.bits import WHOLE
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.encoder.tensors import Quantization
from bertcompress.errors import DataError
from bertcompress.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch

    from bertcompress.data.tasks import Task
    from bertcompress.model import Model

GRADIENTS = ("ste", "clip")


@dataclass(frozen=True, kw_only=True)
class QuantizedTraining(Distillation):
    """Train a network whose weights and activations are rounded; sizes in bits.

    Attributes:
        weight_bits: of the linear maps: 1.58 (ternary), 2 to 8.
        embedding_bits: of the embedding tables, likewise, or 32.
        activation_bits: of what goes into linear maps and, with stored steps, into attention's products: 2 to 8, or 32.
        weight_steps: "tensor" or "row".
        embedding_steps: "row" or "tensor".
        tables: which embedding tables are quantized, of "word", "position", "token_type".
        activation_steps: "tensor", stored in the model, or "token", found as the network runs.
        activation_offset: whether what comes out of a feed-forward's activation function is rounded from an offset on
            (LSQ+), with unsigned codes, as hardly any of it is negative; for stored steps.
        smoothing: above 0 and up to 1, few large dimensions of what goes into a linear map are made smaller by stored
            factors, and its weights larger (SmoothQuant, whose authors take 0.5); for stored steps.
        attention: whether attention's own inputs (queries, keys, values, probabilities) are quantized.
        shared_inputs: whether queries, keys and values share the step of what goes into them, as one integer product
            for all three needs it.
        weight_gradient: of weights outside the range: "ste" passes it, "clip" does not, as in LSQ.
        dropout: of the network while it is trained, everywhere; None is what its own settings say. A teacher has none
            while it is imitated, so a student of 8 bits, which begins next to it, stays nearer without.
        own_teacher: learn from the model that is quantized, as it came in, rather than from the run's teacher.
    """

    method: ClassVar[str]
    learned: ClassVar[bool]

    weight_bits: float = 8
    embedding_bits: float = 8
    activation_bits: int = 8
    weight_steps: str = "tensor"
    embedding_steps: str = "row"
    tables: Sequence[str] = ("word",)
    activation_steps: str = "tensor"
    activation_offset: bool = False
    smoothing: float = 0.0
    attention: bool = True
    shared_inputs: bool = True
    weight_gradient: str = "ste"
    dropout: float | None = None
    own_teacher: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be stored, executed or learned."""
        super().__post_init__()
        normalize(self)
        if self.weight_bits == WHOLE:
            raise self._refuse("weight_bits", "are 1.58 (ternary) and 2 to 8; to train floats, use 'distill'")
        self._check_choice("weight_gradient", GRADIENTS)
        if self.dropout is not None:
            self._check_number("dropout", minimum=0.0, maximum=0.99)

    def quantization(self) -> Quantization:
        """Return how the result is stored and executed.

        Raises:
            ConfigError: a width or granularity is none that there is.
        """
        return quantization_of(self, self.attention and self.activation_steps == "tensor")

    def plan(self, spec: EncoderSpec, task: Task | None, *, teacher: EncoderSpec | None = None) -> EncoderSpec:
        """Return the spec with its quantization described.

        Raises:
            ConfigError: the encoder is quantized already, or the mapping names a layer that does not exist.
        """
        refuse_quantized(self.method, spec)
        source = self.learns_from(spec, teacher or spec)
        kind = "classification" if task is None else task.kind
        self.fitted(spec, source, kind).check_mapping(spec, source, kind)
        return spec.replace(quantization=self.quantization())

    def learns_from(self, student: EncoderSpec, teacher: EncoderSpec) -> EncoderSpec:
        """Return the spec of the teacher, which is the float model that came in where `own_teacher` says so."""
        return student.replace(quantization=None) if self.own_teacher else teacher

    def network_for(self, spec: EncoderSpec) -> torch.nn.Module:
        """Return a network of random weights, with the quantizers that it is trained with."""
        from bertcompress.compressors.quantize.learned import prepare
        from bertcompress.encoder.network import build

        network = build(spec.replace(quantization=None), seed=0)
        prepare(network, spec, "max", self.weight_gradient, learned=self.learned)
        return network

    def begins_by(self) -> str:
        """Return how step sizes begin, see `initial_step`."""
        return "max"

    def factors(self) -> Mapping[str, float]:
        """Return the factors of step sizes' learning rates, by a part of their names."""
        return {}

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Return the quantized model, trained to behave like its teacher, by default like the model as it came in.

        Raises:
            ConfigError: there is no task, the model is quantized, some of its weights are no finite numbers, or shapes
                do not fit.
            DataError: teacher and student order their labels differently.
        """
        from bertcompress.compressors.fitting import fit, step_of
        from bertcompress.compressors.quantize.drift import drift, log_drift, step_sizes
        from bertcompress.compressors.quantize.learned import prepare, quantized_state
        from bertcompress.compressors.quantize.weights import quantized_names, refuse_not_finite
        from bertcompress.encoder.network import build

        source = model if self.own_teacher or teacher is None else teacher
        spec = self.plan(model.spec, task, teacher=source.spec)
        task = require_task(self.method, task)
        refuse_not_finite(self.method, model.state())
        learner = self._learner(model)
        origin = self._origin(learner)
        settings = self.fitted(model.spec, source.spec, task.kind, model.max_length)
        prepare(learner.network, spec, self.begins_by(), self.weight_gradient, learned=self.learned)
        calibrate(learner, task, self.seed, self.max_length, self.batch_size, self.begins_by())
        begun = step_sizes(learner.network)
        result = fit(
            self.method,
            learner,
            task,
            settings,
            weights=settings.objective_weights(task.kind),
            learns=settings.learns(),
            teacher=source,
            context=context,
            factors=self.factors(),
            origin=origin,
        )
        moved = drift(begun, step_sizes(learner.network))
        log_drift((context and context.label) or self.method, moved)
        network = build(spec, model.labels, seed=0)
        network.load_state_dict(quantized_state(learner.network, spec))
        facts = {
            "quantized": quantized_names(spec),
            "objective": settings.objective_weights(task.kind),
            "step_size_drift": moved,
        }
        done = model.after(step_of(self, result, facts), network=network, task=task)
        done.null_threshold = learner.null_threshold
        return done

    def _origin(self, learner: Model) -> str:
        """Return a digest of what the network with quantizers is made from."""
        from bertcompress.training.checkpoint import digest

        how = [self.weight_gradient, self.learned, self.begins_by()]
        return digest(dataclasses.asdict(self.quantization()), how, learner.network)

    def _learner(self, model: Model) -> Model:
        """Return a copy of the model that is trained, with the dropout that is wanted."""
        from bertcompress.encoder.network import build

        if self.dropout is None:
            return model.copy()
        rates = dict.fromkeys(("hidden_dropout", "attention_dropout", "classifier_dropout"), self.dropout)
        network = build(model.spec.replace(**rates), model.labels, seed=0)
        network.load_state_dict(model.state())
        return model.after(network=network)


def calibrate(learner: Model, task: Task, seed: int, max_length: int | None, examples: int, method: str) -> None:
    """Find the steps of activations in what some training examples send through the network, in one batch.

    Heads that are left in float are not run: of hidden tokens, one has a logit for each word of the vocabulary.

    Args:
        learner: whose network was prepared.
        task: the data.
        seed: that examples are drawn by.
        max_length: tokens that they are cut to; None as in training.
        examples: number of them.
        method: how steps are found, see `initial_step`.

    Raises:
        DataError: there are no training examples.
    """
    import numpy as np
    import torch

    from bertcompress.compressors.quantize.learned import activation_steps, calibrating
    from bertcompress.data.feature_cache import usable_cache

    if not any(True for _ in activation_steps(learner.network)):
        return
    assert task.train is not None
    longest = min(TrainingSettings(max_length=max_length).length_for(task.kind), learner.max_length)
    features = learner.featurize(task.train, max_length=longest, cache=usable_cache())
    if not len(features):
        raise DataError(
            f"Step sizes of activations are found in training examples, of which task {task.name} has none; check its "
            "training split."
        )
    drawn = np.random.default_rng(seed).permutation(len(features))[:examples]
    batch = features.collate(drawn)
    device = next(learner.network.parameters()).device
    named = {name: batch[name].to(device) for name in ("input_ids", "attention_mask", "token_type_ids")}
    network = learner.network.eval()
    with torch.no_grad(), calibrating(network, method):
        encoded = getattr(network, "encoder", network)(**named)
        if hasattr(network, "transform"):
            network.transform(encoded.last_hidden_state)
