"""`Model`: the wrapper that every compressor takes and gives back."""

from __future__ import annotations

import copy
import dataclasses
import html
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from bertcompress.data.base import make_dataset
from bertcompress.data.feature_cache import usable_cache
from bertcompress.data.features import Features, featurize
from bertcompress.data.sources import resolve_model
from bertcompress.drafts import in_one_piece
from bertcompress.encoder.checkpoints import checkpoint_folder, read_config
from bertcompress.encoder.convert import OUTPUT_LAYERS, default_pooler, from_chain, load_chain
from bertcompress.encoder.network import ChainPreTrainedModel, build
from bertcompress.encoder.spec import EncoderSpec, Head
from bertcompress.encoder.storage import storage_table
from bertcompress.encoder.tokenizers import forget_last_call, load_tokenizer
from bertcompress.errors import CheckpointError, ConfigError, DataError
from bertcompress.predictions import PREDICTION_TOKENS, Predictions, network_logits, predictions_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bertcompress.data.tasks import Task
    from bertcompress.export.writing import Export

logger = logging.getLogger(__name__)

HISTORY = "history.json"
LARGE = 10_000  # examples beyond which tokenized data are kept on disk
WINDOW = 384  # tokens of a question with a part of its context: what encoders are usually trained on for SQuAD
_HEADS = {
    "classification": "classification",
    "regression": "regression",
    "tagging": "tagging",
    "question_answering": "question_answering",
    "embedding": "none",
    "unlabelled": "masked_lm",
}


_COLUMNS = {"tagging": "words", "question_answering": "context"}  # the column that a head cannot do without


@dataclass(frozen=True)
class Step:
    """One thing that was done to a model.

    Attributes:
        method: the compressor's name in YAML, such as `distill`.
        settings: its hyper-parameters.
        curves: lists of (optimizer step, value) by name: loss, score, learning_rate.
        facts: what else is worth knowing, such as the teacher layer that each layer came from; reproducible.
        measured: what varies from run to run: seconds, peak memory.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)


class Model:
    """A network with its tokenizer, its task, and the history of what was done to it.

    Attributes:
        network: a torch module, one of the networks of `bertcompress.encoder.network`.
        tokenizer: the transformers tokenizer that belongs to it.
        task: what it was trained for, or None.
        labels: names of the classes in the order of the logits; empty where there are none.
        history: the steps that made it, oldest first.
        null_threshold: in question answering, "no answer" is given where its score exceeds that of the best span by
            more than this; None never gives it.
    """

    def __init__(
        self,
        network: ChainPreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task | None = None,
        history: Sequence[Step] = (),
        labels: Sequence[str] = (),
        null_threshold: float | None = None,
    ) -> None:
        """Put the parts together; `labels` default to the task's, the threshold to 0 if it has unanswerable ones."""
        self.network = network
        self.tokenizer = tokenizer
        self.task = task
        self.history = tuple(history)
        self.labels = tuple(labels) or (tuple(task.labels) if task is not None else ())
        if task is not None:  # where every question has an answer, none is withheld
            null_threshold = (null_threshold or 0.0) if task.unanswerable else None
        self.null_threshold = null_threshold

    @property
    def spec(self) -> EncoderSpec:
        """The description of the network."""
        return self.network.spec

    @property
    def max_length(self) -> int:
        """The longest input in tokens that both tokenizer and network take."""
        return int(min(self.tokenizer.model_max_length, self.spec.embeddings.max_positions))

    def num_parameters(self, embeddings: bool = True) -> int:
        """Count the weights, with or without the embedding tables; a quantized weight counts as one."""
        return self.spec.parameters(embeddings)

    def size_in_bytes(self) -> int:
        """Bytes of the weights as they are stored; the saved file has a header of some kilobytes on top."""
        return self.spec.bytes()

    def macs(self, sequence_length: int) -> int:
        """Multiply-accumulates of one forward pass over one sequence of `sequence_length` tokens."""
        return self.spec.macs(sequence_length)

    def featurize(self, dataset: Dataset, *, max_length: int | None = None, cache: Path | None = None) -> Features:
        """Tokenize a data set as this model reads it; see `bertcompress.data.features.featurize`."""
        answers = self.spec.head.task == "question_answering"
        longest = min(WINDOW, self.max_length) if answers else self.max_length
        kind = "embedding" if self.spec.head.task == "none" else None
        return featurize(dataset, self.tokenizer, max_length=max_length or longest, kind=kind, cache=cache)

    def predict(
        self,
        dataset: Dataset | Sequence[str],
        *,
        max_length: int | None = None,
        max_tokens: int = PREDICTION_TOKENS,
        cache: Path | None = None,
    ) -> Predictions:
        """Answer every example, in the order of the data set.

        Args:
            dataset: with the columns that the task's kind has, see `Task`; labels, tags and answers may be missing. Or
                a list of texts.
            max_length: tokens an example is cut to; by default all that the network takes. Longer sentences are
                tagged in several parts, longer contexts searched in overlapping windows (of 384 tokens by default).
            max_tokens: padded tokens in one forward.
            cache: a folder that tokenized data sets are kept in; by default those of more than 10,000 examples are, in
                the user's cache, so that memory does not grow with the data.

        Raises:
            ConfigError: the network predicts masked words, which is no task of these.
            DataError: the data set has not the columns that the model's head needs.
        """
        head = self.spec.head.task
        if head == "masked_lm":
            raise ConfigError(
                "predict: the model's head is 'masked_lm', allowed are classification, regression, tagging, "
                "question_answering and none (embedding); load the model with a task: "
                "Model.from_pretrained(name, task=task)."
            )
        column = _COLUMNS.get(head, "text")
        dataset = _as_dataset(dataset)
        if column not in dataset.column_names:
            raise DataError(
                f"predict: the model's head is {head!r} and needs the column {column!r}; the data set has "
                f"{dataset.column_names}."
            )
        if "answers" in dataset.column_names:
            dataset = dataset.remove_columns("answers")  # to answer, not to read
        if cache is None and len(dataset) > LARGE:
            cache = usable_cache()
        features = self.featurize(dataset, max_length=max_length, cache=cache)
        logits = network_logits(self.network, features, max_tokens=max_tokens)
        return predictions_of(features, logits, dataset, self.null_threshold)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the network's tensors by name, shared with it: what a compressor works on."""
        return dict(self.network.state_dict())

    def copy(self) -> Model:
        """Return a model that shares no weights with this one."""
        return self.after(network=copy.deepcopy(self.network))

    def after(self, *steps: Step, network: ChainPreTrainedModel | None = None, task: Task | None = None) -> Model:
        """Return the model as it is after more steps: with another network or task, or only a longer history."""
        return Model(
            network or self.network,
            self.tokenizer,
            task or self.task,
            (*self.history, *steps),
            self.labels,
            self.null_threshold,
        )

    def without_head(self) -> Model:
        """Return the encoder alone, as it is used for embeddings; its weights are shared with this model."""
        if self.spec.head.task == "none":
            return self
        pooler = "none" if self.spec.head.task == "masked_lm" else self.spec.head.pooler  # which has none
        network = build(self.spec.replace(head=Head(pooler=pooler)), seed=0)
        own = network.state_dict()
        bare = {name.removeprefix("encoder."): tensor for name, tensor in self.network.state_dict().items()}
        network.load_state_dict({name: bare[name] for name in own}, assign=True)
        return Model(network.eval(), self.tokenizer, history=self.history)

    def for_task(self, task: Task, *, seed: int = 0) -> Model:
        """Return the same encoder with a new head for a task, drawn from `seed`; no weights are shared.

        A pooler that is there is kept; where the task needs one and there is none, it is BERT's, new.

        Raises:
            ConfigError: the encoder is quantized, so that nothing could teach the new head's encoder.
        """
        if self.spec.low_bits:
            raise ConfigError(
                f"for_task: the model is quantized ({self.spec.low_bits}), and a new head needs an encoder that can be "
                "trained; take the float model to the task, then quantize."
            )
        spec = spec_for(self.spec, task)
        new = Model.from_spec(spec, self.tokenizer, task, seed=seed)
        bare = {name.removeprefix("encoder."): tensor for name, tensor in self.network.state_dict().items()}
        prefix = "encoder." if spec.head.task != "none" else ""
        own = new.network.state_dict()
        known = {f"{prefix}{name}": tensor for name, tensor in bare.items() if not name.startswith(OUTPUT_LAYERS)}
        new.network.load_state_dict({**own, **{name: value for name, value in known.items() if name in own}})
        return Model(new.network.eval(), self.tokenizer, task, self.history, tuple(task.labels))

    def save_pretrained(self, folder: str | Path) -> None:
        """Save network, tokenizer and history to a folder that `from_pretrained` and transformers can load.

        Raises:
            CheckpointError: it cannot be written to; a model that was there before is unchanged.
        """
        steps = [dataclasses.asdict(step) for step in self.history]
        saved = {"labels": list(self.labels), "null_threshold": self.null_threshold, "steps": steps}
        text = json.dumps(saved, indent=1, default=str)
        with in_one_piece(Path(folder), f"{folder}: the model") as draft:
            self.network.save_pretrained(draft)
            forget_last_call(self.tokenizer)
            self.tokenizer.save_pretrained(draft)
            (draft / HISTORY).write_text(text + "\n", encoding="utf-8")
        logger.info("saved %s: %.2f MiB of weights", folder, self.size_in_bytes() / 2**20)
        if self.spec.quantization is not None:
            logger.info("what is stored in few bits:\n%s", self.storage_table())

    def storage_table(self) -> str:
        """Return what the file holds, as a table: each part's bits, why it is in float, bytes before and after."""
        return storage_table(self.spec)

    @classmethod
    def from_pretrained(cls, name: str | Path, task: Task | None = None, *, seed: int = 0) -> Model:
        """Load a model: a folder of ours, any BERT, RoBERTa, DistilBERT or ELECTRA checkpoint, or an exported file.

        Args:
            name: a local folder, a folder under `$BERTCOMPRESS_DATA`, `minilm-l6`, a name on the Hugging Face hub, or
                a file that `export` wrote (.onnx, .xml), which `bertcompress.runtime` loads.
            task: what the model is to do. A head that the checkpoint lacks is drawn from `seed`.
            seed: for new weights.

        Raises:
            CheckpointError: the files are missing, damaged, or of a newer format.
            ConversionError: the architecture is none of those above.
        """
        from bertcompress.export.runtime import is_exported, load

        if is_exported(name):
            return load(name, task)
        found = resolve_model(str(name))
        source = str(name) if found is None else str(found)
        head = None if task is None else _head_for(task, source)
        labels = () if task is None else tuple(task.labels)
        network = load_chain(source, head, seed=seed, labels=labels)
        if task is not None and task.labels:
            _align_labels(network, _saved_labels(source), labels, seed)
        tokenizer = load_tokenizer(source, network.spec.embeddings.vocab_size)
        saved = _read_history(Path(source))
        return cls(
            network.eval(),
            tokenizer,
            task,
            saved.steps,
            labels or saved.labels or _config_labels(network),
            saved.null_threshold if network.spec.head.task == "question_answering" else None,
        )

    @classmethod
    def from_spec(
        cls, spec: EncoderSpec, tokenizer: PreTrainedTokenizerBase, task: Task | None = None, *, seed: int = 0
    ) -> Model:
        """Build a model with random weights drawn from `seed`; torch's global generator is left as it was."""
        return cls(build(spec, () if task is None else task.labels, seed=seed), tokenizer, task)

    def export(self, path: str | Path, to: str | None = None, *, precision: str = "fp32") -> Export:
        """Write the model as one file for ONNX Runtime (.onnx) or as two for OpenVINO (.xml, .bin), and check it.

        What is quantized is executed in integers there. `bertcompress.runtime.load` makes a model of it again.

        Args:
            path: of the file.
            to: "onnx" or "openvino"; by default what the file's name ends in.
            precision: of the floats between integer products in what is said of the file, "fp32" or "bf16"; the file
                is the same, always checked in "fp32", and what it runs in is said when it is loaded.

        Raises:
            ConfigError: the name ends otherwise, a package is not installed, or the target cannot compute what the
                network does, or in that precision.
            CheckpointError: the place cannot be written to, or what was written answers otherwise.
        """
        from bertcompress.export.writing import export

        return export(self, path, to, precision=precision)

    def to_bert(self) -> PreTrainedModel:
        """Return the network as a plain transformers BERT, which needs no bertcompress to load.

        Raises:
            ConversionError: BERT cannot express it; the message says why and what can.
        """
        return from_chain(self.network, "bert")

    def _facts(self) -> dict[str, str]:
        spec = self.spec
        widths = sorted({layer.hidden_size for layer in spec.layers})
        return {
            "layers": str(spec.num_layers),
            "hidden": "/".join(map(str, widths)),
            "head": spec.head.task + (f" ({', '.join(self.labels)})" if self.labels else ""),
            "parameters": f"{self.num_parameters() / 1e6:.2f} M ({self.num_parameters(embeddings=False) / 1e6:.2f} M "
            "without embeddings)",
            "weights": f"{self.size_in_bytes() / 2**20:.2f} MiB" + f", {spec.low_bits or 'float32'}",
            "MACs": f"{self.macs(128) / 1e6:.0f} M at 128 tokens",
            "history": " > ".join(step.method for step in self.history) or "none",
        }

    def __repr__(self) -> str:
        """Describe the model on one line."""
        return "Model(" + ", ".join(f"{name}: {value}" for name, value in self._facts().items()) + ")"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        return f"<table>{rows}</table>"


def spec_for(spec: EncoderSpec, task: Task) -> EncoderSpec:
    """Return the encoder with the head of a task; where the task needs a pooler and there is none, it is BERT's."""
    return spec.replace(head=head_for(task, spec.head.pooler if spec.head.pooler != "none" else "tanh"))


def head_for(task: Task, pooler: str) -> Head:
    """Return the head that a task needs; `pooler` is used where one vector stands for the whole input."""
    kind = _HEADS[task.kind]
    match kind:
        case "classification":
            return Head(kind, len(task.labels), pooler)
        case "regression":
            return Head(kind, 1, pooler)
        case "question_answering":
            return Head(kind, 2)
        case "tagging":
            return Head(kind, len(task.labels))
    return Head(kind)


def _head_for(task: Task, source: str) -> Head:
    return head_for(task, default_pooler(source))


def _saved_labels(source: str) -> tuple[str, ...]:
    """Return the class names in a checkpoint's configuration; none where it has only placeholders."""
    names = read_config(checkpoint_folder(source)).get("id2label") or {}
    labels = tuple(str(names[number]) for number in sorted(names, key=int))
    return () if all(label.upper().startswith("LABEL_") for label in labels) else labels


def _align_labels(network: ChainPreTrainedModel, saved: tuple[str, ...], wanted: tuple[str, ...], seed: int) -> None:
    """Bring the output layer into the task's order of classes; draw it anew where the classes are others."""
    if saved == wanted or len(saved) != len(wanted):
        return  # load_chain has drawn a new layer where the number differs
    layer = network.classifier
    if {name.lower() for name in saved} == {name.lower() for name in wanted}:
        places = [[name.lower() for name in saved].index(name.lower()) for name in wanted]
        logger.warning("the checkpoint orders its classes %s; reordered to the task's %s", list(saved), list(wanted))
        with torch.no_grad():
            layer.weight.copy_(layer.weight[places].clone())
            layer.bias.copy_(layer.bias[places].clone())
        return
    logger.warning("the checkpoint's classes are %s, the task's are %s: new output layer", list(saved), list(wanted))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.normal_(0.0, network.spec.initializer_range, generator=generator)
        layer.bias.zero_()


def _as_dataset(texts: Any) -> Dataset:
    if not isinstance(texts, (str, list, tuple)):
        return texts
    if not isinstance(texts, str) and all(isinstance(text, str) for text in texts):
        return make_dataset({"text": texts})
    raise DataError(f"predict: got {type(texts).__name__}, allowed are a datasets.Dataset and a list of texts.")


class _Saved(NamedTuple):
    """What lies beside a saved model's weights."""

    labels: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    null_threshold: float | None = None


def _read_history(folder: Path) -> _Saved:
    path = folder / HISTORY
    if not path.is_file():
        return _Saved()
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        threshold = saved.get("null_threshold")
        steps = tuple(Step(**step) for step in saved["steps"])
        return _Saved(tuple(saved["labels"]), steps, None if threshold is None else float(threshold))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Save or copy the model again.") from error


def _config_labels(network: ChainPreTrainedModel) -> tuple[str, ...]:
    names = network.config.id2label
    named = network.spec.head.task in ("classification", "tagging")
    return tuple(names[place] for place in sorted(names)) if named else ()


def check_same_labels(teacher: Model, student_labels: Sequence[str]) -> None:
    """Refuse a teacher whose classes are not the student's, in the same order.

    Raises:
        DataError: names both label orders; probabilities would be compared between different classes.
    """
    if tuple(teacher.labels) != tuple(student_labels):
        raise DataError(
            f"teacher and student order their labels differently: teacher {list(teacher.labels)}, student "
            f"{list(student_labels)}; fine-tune the teacher on the same task."
        )
