"""KDLSQ: a quantized student whose step sizes are learned while its float teacher is imitated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bertcompress.compressors.base import Context, refuse_quantized, require_task
from bertcompress.compressors.distill.compressor import Distillation
from bertcompress.compressors.quantize.compressor import INITIALIZATIONS
from bertcompress.encoder.bits import plain_bits
from bertcompress.encoder.spec import Attention, EncoderSpec
from bertcompress.encoder.tensors import Quantization
from bertcompress.training.mapping import resolve_mapping

if TYPE_CHECKING:
    import torch

    from bertcompress.data.tasks import Task
    from bertcompress.model import Model

SPAN_FACTOR = 100.0  # of the soft labels in question answering, in the released code
GRADIENTS = ("ste", "clip")


@dataclass(frozen=True, kw_only=True)
class KDLSQ(Distillation):
    """Train for few bits: learned step sizes (LSQ) and distillation from the float model, in one stage.

    Jin et al. 2021 (arXiv 2101.05938), as its released code has it: attention scores, hidden states and soft labels of
    the teacher, on all layers; every linear map, the word embeddings and every input of a matrix product are rounded;
    step sizes begin by a calibration. The defaults are that code's, but for these: steps are learned as logarithms,
    which keeps them above 0, so their learning rates are shares and not amounts, and nothing decays them; queries, keys
    and values share the quantizer of their input; probabilities have unsigned codes; the word embeddings have a step
    for each row and position embeddings stay in float, as the paper's compression ratio counts them; calibration reads
    training, not validation examples; pads are left out of hidden states and scores (`count_pads` puts them in).

    Attributes:
        weight_bits: of the linear maps: 1.58 (ternary), 2 to 8.
        embedding_bits: of the embedding tables, likewise, or 32.
        activation_bits: of what goes into linear maps and, with stored steps, into attention's products: 2 to 8, or 32.
        weight_steps: "tensor", as in the paper, or "row".
        embedding_steps: "row" or "tensor".
        tables: which embedding tables are quantized, of "word", "position", "token_type".
        activation_steps: "tensor", learned and stored, or "token", found as the network runs, which learns nothing.
        attention: whether attention's own inputs (queries, keys, values, probabilities) are quantized.
        shared_inputs: whether queries, keys and values share the step of what goes into them, as one integer product
            for all three needs it; the released code has three.
        initialization: how steps begin: "kl", "percentile", "mse", "lsq" or "max".
        weight_gradient: of weights outside the range: "ste" passes it, "clip" does not, as in LSQ.
        weight_step_rate: learning rate of the logarithms of the weights' steps.
        activation_step_rate: learning rate of the logarithms of the activations' steps.
        ground_truth: learn from the labels as well.
        own_teacher: learn from the model that is quantized, as it came in, rather than from the run's teacher.
    """

    method: ClassVar[str] = "kdlsq"

    batch_size: int = 16
    warmup: float = 0.0
    max_grad_norm: float = 0.0
    temperature: float = 1.0
    weight_bits: float = 8
    embedding_bits: float = 8
    activation_bits: int = 8
    weight_steps: str = "tensor"
    embedding_steps: str = "row"
    tables: Sequence[str] = ("word",)
    activation_steps: str = "tensor"
    attention: bool = True
    shared_inputs: bool = True
    initialization: str = "kl"
    weight_gradient: str = "ste"
    weight_step_rate: float = 1e-2
    activation_step_rate: float = 3e-3
    ground_truth: bool = False
    own_teacher: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be stored, executed or learned."""
        super().__post_init__()
        object.__setattr__(self, "tables", tuple(self.tables))
        for name in ("weight_bits", "embedding_bits"):
            object.__setattr__(self, name, plain_bits(getattr(self, name)))
        self.quantization()
        if self.weight_bits == 32:
            raise self._refuse("weight_bits", "are 1.58 (ternary) and 2 to 8; to train floats, use 'distill'")
        self._check_choice("initialization", INITIALIZATIONS)
        self._check_choice("weight_gradient", GRADIENTS)
        for name in ("weight_step_rate", "activation_step_rate"):
            self._check_number(name, minimum=0.0)

    def quantization(self) -> Quantization:
        """Return how the result is stored and executed.

        Raises:
            ConfigError: a width or granularity is none that there is.
        """
        stored = self.attention and self.activation_steps == "tensor"
        return Quantization(
            self.weight_bits,
            self.embedding_bits,
            self.activation_bits,
            self.weight_steps,
            self.embedding_steps,
            tuple(self.tables),
            self.activation_steps,
            self.shared_inputs,
            self.activation_bits if stored else 32,
        )

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

        network = build(spec.replace(quantization=None))
        prepare(network, spec, "max", self.weight_gradient)
        return network

    def objective_weights(self, kind: str = "classification") -> dict[str, float]:
        """Return the weight of each term for a kind of task, before `fitted` divides by classes or positions."""
        if self.objective is not None:
            return super().objective_weights(kind)
        answers = {"regression": {"hard": 1.0}, "embedding": {"embedding": 1.0}, "unlabelled": {}}
        weights = {**answers.get(kind, {"soft": 1.0}), "attention": 1.0, "hidden": 1.0}
        return {**weights, **({"hard": 1.0} if self.ground_truth and kind not in ("embedding", "unlabelled") else {})}

    def fitted(self, student: EncoderSpec, teacher: EncoderSpec, kind: str) -> KDLSQ:
        """Return the settings with the terms and layers that these networks have, where nothing else was said.

        The released code takes the mean of the soft labels over classes, and over the positions of a question's window,
        times 100. Layers without attention, such as separable convolutions, are compared by their hidden states alone.
        """
        if self.objective is not None:
            return self
        weights: dict[str, float] = self.objective_weights(kind)
        if "soft" in weights:
            spans = kind == "question_answering"
            weights["soft"] = 2 * SPAN_FACTOR / self.length_for(kind) if spans else 1 / max(1, student.head.num_labels)
        mapping: Any = self.mapping
        if mapping is None:
            mapping = {"hidden": "tinybert"}
            attended = [
                pair
                for pair in resolve_mapping("uniform", student.num_layers, teacher.num_layers)
                if _attends(student, pair[0]) and _attends(teacher, pair[1])
            ]
            if attended:
                mapping["attention"] = attended
            else:
                del weights["attention"]
        return dataclasses.replace(self, objective=weights, mapping=mapping)

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Return the quantized model, trained to behave like its teacher, by default like the model as it came in.

        Raises:
            ConfigError: there is no task, the model is quantized, or shapes do not fit.
            DataError: teacher and student order their labels differently.
        """
        from bertcompress.compressors.fitting import fit, step_of
        from bertcompress.compressors.quantize.learned import prepare, quantized_state
        from bertcompress.compressors.quantize.weights import quantized_names
        from bertcompress.encoder.network import build

        source = model if self.own_teacher or teacher is None else teacher
        spec = self.plan(model.spec, task, teacher=source.spec)
        task = require_task(self.method, task)
        learner, settings = model.copy(), self.fitted(model.spec, source.spec, task.kind)
        prepare(learner.network, spec, self.initialization, self.weight_gradient)
        calibrate(learner, task, self)
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
        )
        network = build(spec, model.labels)
        network.load_state_dict(quantized_state(learner.network, spec))
        facts = {"quantized": quantized_names(spec), "objective": settings.objective_weights(task.kind)}
        done = model.after(step_of(self, result, facts), network=network, task=task)
        done.null_threshold = learner.null_threshold
        return done

    def factors(self) -> Mapping[str, float]:
        """Return the factors of step sizes' learning rates."""
        rates = {"weight_step.": self.weight_step_rate, "log_step": self.activation_step_rate}
        return {name: rate / self.learning_rate for name, rate in rates.items()}


def calibrate(learner: Model, task: Task, settings: Any) -> None:
    """Let the steps of activations begin by what one training batch of examples sends through the network.

    Args:
        learner: whose network was prepared.
        task: the data.
        settings: of the training, with `initialization`.
    """
    import numpy as np
    import torch

    from bertcompress.compressors.quantize.learned import activation_steps, calibrating
    from bertcompress.data.feature_cache import usable_cache

    if not any(True for _ in activation_steps(learner.network)):
        return
    assert task.train is not None
    max_length = min(settings.length_for(task.kind), learner.max_length)
    features = learner.featurize(task.train, max_length=max_length, cache=usable_cache())
    drawn = np.random.default_rng(settings.seed).permutation(len(features))[: settings.batch_size]
    batch = features.collate(drawn)
    named = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad(), calibrating(learner.network, settings.initialization):
        learner.network.eval()(**named)


def _attends(spec: EncoderSpec, layer: int) -> bool:
    return any(isinstance(operation, Attention) for operation in spec.layers[layer - 1].operations)
