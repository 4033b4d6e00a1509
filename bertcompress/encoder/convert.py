"""Convert encoders of transformers to chains and back, without changing what they compute.

Importing this module needs no torch: sizes are read from config.json alone.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.encoder.checkpoints import checkpoint_folder, read_config, read_weights
from bertcompress.encoder.describe import head_for, spec_from_config, task_of
from bertcompress.encoder.families import CLASS_OF_TASK, FAMILIES, OWN_TYPE, Family, family_of
from bertcompress.encoder.spec import Attention, EncoderSpec, FeedForward, Head
from bertcompress.errors import CheckpointError, ConversionError, allowed

if TYPE_CHECKING:
    from torch import Tensor

    from bertcompress.encoder.network import ChainPreTrainedModel

__all__ = ["default_pooler", "from_chain", "head_for", "load_chain", "spec_from_config", "state_to_chain", "to_chain"]

log = logging.getLogger(__name__)

_CLASS_ENDINGS = tuple(dict.fromkeys(CLASS_OF_TASK.values()))
OUTPUT_LAYERS = ("classifier.", "transform.", "norm.", "decoder_bias")  # of a task; the encoder's norms have a prefix


def to_chain(network: Any) -> ChainPreTrainedModel:
    """Convert a BERT, RoBERTa, DistilBERT or ELECTRA network of transformers; its outputs stay the same.

    Positions count from the first token, so RoBERTa's outputs stay the same for padding on the right only.

    Raises:
        ConversionError: the network's class, or something it uses, is not supported.
    """
    import torch

    from bertcompress.encoder.network import ChainPreTrainedModel, build

    if isinstance(network, ChainPreTrainedModel):
        return copy.deepcopy(network)
    config, state = network.config.to_dict(), network.state_dict()
    family, kind = family_of(config.get("model_type")), type(network).__name__
    counterparts = [type(network.config).__name__.removesuffix("Config") + each for each in _CLASS_ENDINGS]
    if kind not in counterparts:
        raise ConversionError(f"{kind} has no counterpart among chains; allowed are {allowed(counterparts)}.")
    spec = _without_absent_pooler(spec_from_config({**config, "architectures": [kind]}), state)
    _refuse_untied(state)
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten; the caller's generator stays put
        chain = build(spec, _labels(spec, config))
    chain.to(dtype=network.dtype, device=network.device)
    chain.load_state_dict(state_to_chain(spec, family.name, state))
    chain.train(network.training)
    return chain


def state_to_chain(spec: EncoderSpec, family: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and join a family's tensors to those of the chain; `state` may hold more than the chain needs.

    Raises:
        ConversionError: a tensor is missing or has another shape than the spec says.
    """
    converted, problems = _converted(spec, family_of(family), state)
    for problem in problems.values():
        raise ConversionError(f"{family}: {problem}.")
    return converted


def from_chain(network: ChainPreTrainedModel, family: str = "bert") -> Any:
    """Convert a chain to a plain network of transformers that needs no bertcompress to load; outputs stay the same.

    Raises:
        ConversionError: the family cannot express the chain; the message says why and what to do.
    """
    import torch
    import transformers

    if family not in FAMILIES:
        raise ConversionError(f"family: got {family!r}, allowed are {allowed(FAMILIES)}.")
    to, spec = FAMILIES[family], network.spec
    for problem in _obstacles(spec, to):
        raise ConversionError(f"{family} cannot express this chain: {problem}.")
    config = getattr(transformers, f"{to.classes}Config")(**_settings(spec, to), **_label_settings(network))
    optional_pooler = spec.head.task == "none" and "none" in to.poolers
    options = {"add_pooling_layer": spec.head.pooler != "none"} if optional_pooler else {}
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten; the caller's generator stays put
        result = getattr(transformers, to.classes + CLASS_OF_TASK[spec.head.task])(config, **options)
    result = result.to(dtype=network.dtype, device=network.device)
    outcome = result.load_state_dict(_state_from_chain(spec, to, network.state_dict()), strict=False)
    result.tie_weights()
    if outcome.unexpected_keys or set(outcome.missing_keys) - set(getattr(result, "_tied_weights_keys", None) or ()):
        raise ConversionError(f"This version of transformers names the tensors of {family} differently: {outcome}.")
    return result.train(network.training)


def load_chain(
    folder_or_name: str | Path, head: Head | None = None, *, seed: int = 0, labels: tuple[str, ...] = ()
) -> ChainPreTrainedModel:
    """Load a checkpoint (safetensors) as a chain with `head`, or with the head it was saved with, in float32.

    A pooler or output layer that the checkpoint lacks, or has for another task or number of labels, is freshly
    initialised from `seed`. `folder_or_name` is a local folder or a name on the hub.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or incomplete, is pickled, or the hub cannot be reached.
        ConversionError: the architecture, or something it uses, is not supported.
    """
    from bertcompress.encoder.network import build

    folder = checkpoint_folder(folder_or_name)
    config = read_config(folder)
    spec, state = spec_from_config(config, head), read_weights(folder)
    if head is None:
        spec = _without_absent_pooler(spec, state)
        labels = labels or _labels(spec, config)
    converted, problems = _found(spec, config, state)
    for name, problem in problems.items():
        if not name.startswith((*OUTPUT_LAYERS, "pooler.", "encoder.pooler.")):
            raise CheckpointError(f"{folder}: {problem}; save or copy the model again.")
        if name.endswith((".codes", ".packed")):
            raise ConversionError(
                f"{folder}: a quantized encoder gets no new {name.rpartition('.')[0]}; fine-tune it for the task "
                "first, then quantize."
            )
    if problems:
        log.info("%s: freshly initialised from seed %d: %s", folder, seed, ", ".join(problems))
    chain = build(spec, labels, seed=seed)
    chain.load_state_dict(converted, strict=False)
    return chain


def default_pooler(folder_or_name: str | Path) -> str:
    """Return the activation of the pooler that a checkpoint's architecture has before a classifier, or "none".

    Raises:
        CheckpointError: the checkpoint is missing or its config.json is damaged.
        ConversionError: the architecture is not supported.
    """
    return head_for(read_config(checkpoint_folder(folder_or_name)), "classification", 2).pooler


def _without_absent_pooler(spec: EncoderSpec, state: Mapping[str, Tensor]) -> EncoderSpec:
    """Drop the pooler from a bare encoder that was built without one, which its configuration does not tell."""
    if spec.head.task == "none" and not any("pooler" in name for name in state):
        return spec.replace(head=Head())
    return spec


def _labels(spec: EncoderSpec, config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label") or {}
    named = spec.head.task in ("classification", "tagging") and len(names) == spec.head.num_labels
    return tuple(names[number] for number in sorted(names, key=int)) if named else ()


def _found(
    spec: EncoderSpec, config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a checkpoint that fit the chain, and for each of the others what is wrong."""
    if config["model_type"] == OWN_TYPE:
        found = {name.removeprefix("encoder."): tensor for name, tensor in state.items()}
        named = {tensor.name: found.get(tensor.name.removeprefix("encoder.")) for tensor in spec.tensors()}
        converted, problems = _checked(spec, named)
    else:
        converted, problems = _converted(spec, family_of(config["model_type"]), state)
    pair = {task_of(config), spec.head.task}
    if None in pair or len(pair) == 1:
        return converted, problems
    # Another task's output layer may have the same name and shape; it is not this task's.
    strange = {name for name in converted if name.startswith(OUTPUT_LAYERS)}
    problems |= dict.fromkeys(strange, "the output layer serves another task")
    return {name: tensor for name, tensor in converted.items() if name not in strange}, problems


def _converted(
    spec: EncoderSpec, family: Family, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    import torch

    state, names = _modern_names(family, state), family.names(spec)
    unused = family.unused_positions(spec.embeddings.pad_token_id)
    joined: dict[str, Tensor | None] = {}
    for tensor in spec.tensors():
        parts = [state.get(name) for name in names.get(tensor.name, ("",))]
        found = [part for part in parts if part is not None]
        joined[tensor.name] = torch.cat(found) if len(found) == len(parts) else None
        if tensor.name.endswith("embeddings.position.weight") and found:
            joined[tensor.name] = found[0][unused:]
    return _checked(spec, joined)


def _checked(spec: EncoderSpec, found: Mapping[str, Tensor | None]) -> tuple[dict[str, Tensor], dict[str, str]]:
    good: dict[str, Tensor] = {}
    problems: dict[str, str] = {}
    for name, shape in ((tensor.name, tensor.shape) for tensor in spec.tensors()):
        value = found.get(name)
        if value is None:
            problems[name] = f"the tensor for {name!r} is missing"
        elif tuple(value.shape) != shape:
            problems[name] = f"the tensor for {name!r} has shape {tuple(value.shape)}, config.json says {shape}"
        else:
            good[name] = value
    return good, problems


def _modern_names(family: Family, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name a state's tensors as a task's network of today does, with the prefix before the encoder's own."""
    result = {}
    for name, tensor in state.items():
        name = name.removesuffix(".gamma") + ".weight" if name.endswith(".gamma") else name
        name = name.removesuffix(".beta") + ".bias" if name.endswith(".beta") else name
        if name.split(".")[0] in family.modules:
            name = family.prefix + name
        result[name] = tensor
    for name, tensor in list(result.items()):
        if name.endswith(".decoder.bias"):  # the same vector under a second name
            result.setdefault(name.removesuffix("decoder.bias") + "bias", tensor)
    return result


def _refuse_untied(state: Mapping[str, Tensor]) -> None:
    import torch

    words = next((each for name, each in state.items() if name.endswith("embeddings.word_embeddings.weight")), None)
    for name in ("cls.predictions.decoder", "lm_head.decoder", "vocab_projector", "generator_lm_head"):
        decoder = state.get(f"{name}.weight")
        if decoder is not None and words is not None and not torch.equal(decoder, words):
            raise ConversionError(f"{name}.weight differs from the word embeddings; a chain's decoder is tied to them.")


def _obstacles(spec: EncoderSpec, family: Family) -> Iterator[str]:
    """Yield why the family cannot express a chain, each with the fix."""
    if spec.quantization is not None:
        yield "it is quantized, and the family stores floats; convert the model from before quantization"
    first = spec.layers[0]
    if any(tuple(map(type, layer.operations)) != (Attention, FeedForward) for layer in spec.layers):
        yield "the family's layers are attention then feed-forward, and this chain's are not; keep it as it is"
    if any(layer != first for layer in spec.layers):
        yield "its layers differ in size, and the family has one size; cut all layers to the same sizes"
    for operation in first.operations:
        if isinstance(operation, Attention) and operation.num_heads * operation.head_size != first.hidden_size:
            yield (
                f"{operation.num_heads} heads of {operation.head_size} dimensions are not the hidden size "
                f"{first.hidden_size}, as the family demands; choose num_heads x head_size = hidden_size"
            )
    if spec.embeddings.size != first.hidden_size and "embedding_size" not in family.settings:
        yield f"its embeddings have a width of their own, {spec.embeddings.size}; convert it to electra"
    yield from _head_obstacles(spec, family)
    if "type_vocab_size" in family.fixed and spec.embeddings.type_vocab_size > 1:
        yield "the family has no segments, and this chain tells them apart; convert it to bert"
    if spec.layer_norm_eps != family.fixed.get("layer_norm_eps", spec.layer_norm_eps):
        yield f"layer_norm_eps is {spec.layer_norm_eps}, and the family's is fixed; convert it to bert"


def _head_obstacles(spec: EncoderSpec, family: Family) -> Iterator[str]:
    head = spec.head
    has = family.poolers[head.task].activation if head.task in family.poolers else "none"
    # A bare encoder may come without its pooler; other tasks than these read none, so it can be left out.
    if head.task in ("classification", "regression", "none") and head.pooler != has:
        if head.task != "none" or head.pooler != "none":
            others = [
                name
                for name, each in FAMILIES.items()
                if head.task in each.poolers and each.poolers[head.task].activation == head.pooler
            ]
            yield (
                f"its pooler is {head.pooler!r}, and the family's is {has!r}; "
                + (f"convert it to {' or '.join(others)}" if others else f"train it with pooler={has!r}")
            )
    if head.task == "masked_lm" and family.masked_lm_activation not in (None, spec.activation):
        yield (
            f"its masked-LM head uses {spec.activation!r}, and the family's always {family.masked_lm_activation!r}; "
            "convert it to bert"
        )


def _settings(spec: EncoderSpec, family: Family) -> dict[str, Any]:
    """Return the family's configuration for a chain that it can express."""
    layer, table = spec.layers[0], spec.embeddings
    attention, feed_forward = layer.operations
    assert isinstance(attention, Attention)  # _obstacles looked
    assert isinstance(feed_forward, FeedForward)
    values = {
        "vocab_size": table.vocab_size,
        "embedding_size": table.size,
        "hidden_size": layer.hidden_size,
        "num_layers": spec.num_layers,
        "num_heads": attention.num_heads,
        "intermediate_size": feed_forward.intermediate_size,
        "max_positions": table.max_positions + family.unused_positions(table.pad_token_id),
        "type_vocab_size": table.type_vocab_size or family.segments,
        "pad_token_id": table.pad_token_id,
        "activation": spec.activation,
        "layer_norm_eps": spec.layer_norm_eps,
        "hidden_dropout": spec.hidden_dropout,
        "attention_dropout": spec.attention_dropout,
        "initializer_range": spec.initializer_range,
    }
    settings = {key: values[name] for name, (key, _) in family.settings.items()}
    # DistilBERT's dropout before its tagging layer is its hidden dropout, which is the one to keep.
    key, _ = family.dropouts.get(spec.head.task, (None, None))
    return {key: spec.classifier_dropout, **settings} if key else settings


def _label_settings(network: ChainPreTrainedModel) -> dict[str, Any]:
    config, task = network.config, network.spec.head.task
    if task in ("none", "masked_lm"):
        return {}
    problem = {"problem_type": config.problem_type} if task in ("classification", "regression") else {}
    return {"id2label": config.id2label, "label2id": config.label2id, **problem}


def _state_from_chain(spec: EncoderSpec, family: Family, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    state: dict[str, Tensor] = {}
    for name, targets in family.names(spec).items():
        state |= zip(targets, weights[name].chunk(len(targets)), strict=True)
    table = spec.embeddings
    words, positions, segments = (
        f"{family.prefix}embeddings.{each}_embeddings.weight" for each in ("word", "position", "token_type")
    )
    if not table.type_vocab_size and family.segments:
        state[segments] = state[words].new_zeros(family.segments, table.size)
    if table.type_vocab_size and not family.segments:  # the one segment that every token has
        prefix = "" if spec.head.task == "none" else "encoder."
        state[positions] = state[positions] + weights[f"{prefix}embeddings.token_type.weight"]
    unused = state[words].new_zeros(family.unused_positions(table.pad_token_id), table.size)
    state[positions] = torch.cat([unused, state[positions]])
    if spec.head.task == "none":
        return {name.removeprefix(family.prefix): tensor for name, tensor in state.items()}
    return state
