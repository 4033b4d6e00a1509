"""Cut an encoder to a selection of layers, hidden dimensions, heads, head dimensions or neurons.

Every function takes a spec with its weights and returns a new spec with new weights; the input is never changed, and
no result shares memory with it. Indices count from 0, may come in any order (which permutes), and never repeat.

All functions but `select_layers` work on axes: each dimension of each tensor is labelled with what it indexes, and a
selection of an axis cuts every tensor that has it. So a stream that residual additions tie together is cut as one.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from bertcompress.encoder.spec import Attention, EncoderSpec, FeedForward, Operation, SeparableConvolution
from bertcompress.errors import ConfigError

Weights: TypeAlias = Mapping[str, Tensor]
Place: TypeAlias = tuple[int, int]  # layer, place of the operation in the layer
Sized = TypeVar("Sized", Attention, FeedForward)


class Axis(NamedTuple):
    """What a dimension of a tensor indexes.

    kind: "stream" (with the number of links before it), or of the operation at (layer, place): "qkv" (rows of the
    fused map), "heads" (columns of the output map), "neurons".
    """

    kind: str
    layer: int = 0
    place: int = 0


def select_layers(spec: EncoderSpec, weights: Weights, layers: Sequence[int]) -> tuple[EncoderSpec, dict[str, Tensor]]:
    """Keep some layers, in the order given.

    A link where the stream changes width goes with the joint, not with the layer: layers that are left out become
    the identity, and the next one kept is entered through the link.

    Raises:
        ConfigError: an index is wrong, or two neighbours in the new chain do not fit as there is no one link between.
    """
    _check(spec, weights)
    chosen = _indices("layers", layers, spec.num_layers)
    segments = _segments(spec)
    prefix = _prefix(spec)
    moves: dict[str, str] = {}  # start of a name in the result -> start of the name it comes from
    for place, (before, index) in enumerate(itertools.pairwise([-1, *chosen])):
        link = _link_between(segments, before, index)
        if link is not None:
            moves[f"{prefix}layers.{place}.link."] = f"{prefix}layers.{link}.link."
        moves[f"{prefix}layers.{place}.operations."] = f"{prefix}layers.{index}.operations."
    if segments[chosen[-1] + 1] != segments[-1]:
        raise ConfigError(
            f"select_layers: a link comes after layer {chosen[-1]}, the last one kept, and before the head; keep a "
            "layer behind the link as the last one."
        )
    result = spec.replace(layers=tuple(spec.layers[index] for index in chosen))
    return result, {tensor.name: _copy(weights[_moved(tensor.name, moves)]) for tensor in result.tensors()}


def select_hidden(spec: EncoderSpec, weights: Weights, indices: Sequence[int]) -> tuple[EncoderSpec, dict[str, Tensor]]:
    """Keep some dimensions of the stream, the same in the whole model.

    One list serves embeddings (unless a link gives them a width of their own), norms, the residual side of every
    linear map, pooler, masked-LM transform and classifier.

    Raises:
        ConfigError: an index is wrong, or the layers differ in width.
    """
    _check(spec, weights)
    if len({layer.hidden_size for layer in spec.layers}) > 1:
        widths = ", ".join(str(layer.hidden_size) for layer in spec.layers)
        raise ConfigError(
            f"select_hidden: the layers have widths {widths}, and one list of indices fits only layers of equal width."
        )
    chosen = _indices("hidden dimensions", indices, spec.hidden_size)
    layers = tuple(dataclasses.replace(layer, hidden_size=len(chosen)) for layer in spec.layers)
    linked = spec.embeddings.size != spec.hidden_size
    embeddings = spec.embeddings if linked else dataclasses.replace(spec.embeddings, size=len(chosen))
    _keep_link("select_hidden", linked, spec.embeddings.size, len(chosen))
    result = spec.replace(embeddings=embeddings, layers=layers)
    return result, _cut(spec, weights, {Axis("stream", int(linked)): chosen})


def select_embedding(
    spec: EncoderSpec, weights: Weights, indices: Sequence[int]
) -> tuple[EncoderSpec, dict[str, Tensor]]:
    """Keep some dimensions of embeddings that have a width of their own, as ELECTRA's do.

    Raises:
        ConfigError: an index is wrong, or the embeddings are as wide as the first layer.
    """
    _check(spec, weights)
    if spec.embeddings.size == spec.layers[0].hidden_size:
        raise ConfigError(
            f"select_embedding: the embeddings share the stream of the layers (width {spec.embeddings.size}, no link "
            "between); use select_hidden."
        )
    chosen = _indices("embedding dimensions", indices, spec.embeddings.size)
    _keep_link("select_embedding", True, len(chosen), spec.layers[0].hidden_size)
    result = spec.replace(embeddings=dataclasses.replace(spec.embeddings, size=len(chosen)))
    return result, _cut(spec, weights, {Axis("stream", 0): chosen})


def select_heads(
    spec: EncoderSpec, weights: Weights, heads: Mapping[Place, Sequence[int]]
) -> tuple[EncoderSpec, dict[str, Tensor]]:
    """Keep some heads of the attention operations named by (layer, place); the other operations keep all.

    Raises:
        ConfigError: a place holds no attention, or an index is wrong.
    """
    _check(spec, weights)
    every: dict[Place, list[list[int]]] = {}
    for place, indices in heads.items():
        attention = _operation("select_heads", spec, place, Attention)
        chosen = _indices(f"heads of {_named(place)}", indices, attention.num_heads)
        every[place] = [_rows(head, range(attention.head_size), attention) for head in chosen]
    return _cut_attention(spec, weights, every)


def select_head_dimensions(
    spec: EncoderSpec, weights: Weights, dimensions: Mapping[Place, Sequence[Sequence[int]]]
) -> tuple[EncoderSpec, dict[str, Tensor]]:
    """Keep some dimensions inside every head of the attention operations named by (layer, place).

    Each place has one list of indices per head, all of one length. A head's queries, keys and values, and the columns
    of the output map that read it, share its list. Scores are not rescaled for the smaller head.

    Raises:
        ConfigError: a place holds no attention, the lists do not fit its heads, or an index is wrong.
    """
    _check(spec, weights)
    every: dict[Place, list[list[int]]] = {}
    for place, lists in dimensions.items():
        attention = _operation("select_head_dimensions", spec, place, Attention)
        if len(lists) != attention.num_heads or len({len(each) for each in lists}) > 1:
            lengths = [len(each) for each in lists]
            raise ConfigError(
                f"head dimensions of {_named(place)}: got {len(lists)} lists of lengths {lengths}, "
                f"allowed is one list for each of the {attention.num_heads} heads, all of one length."
            )
        every[place] = [
            _rows(head, _indices(f"dimensions of head {head} of {_named(place)}", each, attention.head_size), attention)
            for head, each in enumerate(lists)
        ]
    return _cut_attention(spec, weights, every)


def select_neurons(
    spec: EncoderSpec, weights: Weights, neurons: Mapping[Place, Sequence[int]]
) -> tuple[EncoderSpec, dict[str, Tensor]]:
    """Keep some inner neurons of the feed-forward operations named by (layer, place); the others keep all.

    Raises:
        ConfigError: a place holds no feed-forward, or an index is wrong.
    """
    _check(spec, weights)
    chosen: dict[Place, list[int]] = {}
    for place, indices in neurons.items():
        size = _operation("select_neurons", spec, place, FeedForward).intermediate_size
        chosen[place] = _indices(f"neurons of {_named(place)}", indices, size)
    result = _with_operations(spec, {place: FeedForward(len(each)) for place, each in chosen.items()})
    return result, _cut(spec, weights, {Axis("neurons", *place): each for place, each in chosen.items()})


def _check(spec: EncoderSpec, weights: Weights) -> None:
    if spec.quantization is not None:
        raise ConfigError("A quantized encoder cannot be cut; cut it first and quantize the result.")
    expected = {tensor.name: tensor.shape for tensor in spec.tensors()}
    if missing := sorted(expected.keys() - weights.keys()):
        raise ConfigError(f"weights: {missing[0]!r} is missing ({len(missing)} in all); give the spec's own tensors.")
    if unknown := sorted(weights.keys() - expected.keys()):
        raise ConfigError(f"weights: {unknown[0]!r} is not in the spec ({len(unknown)} in all); give its tensors only.")
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise ConfigError(f"weights[{name!r}]: got shape {tuple(weights[name].shape)}, the spec says {shape}.")


def _indices(name: str, indices: Iterable[int], count: int) -> list[int]:
    """Return the indices as a list, having checked them against the number of things there are."""
    chosen = list(indices)
    if not chosen:
        raise ConfigError(f"{name}: got no index, allowed is at least one of 0 to {count - 1}.")
    for index in chosen:
        # A mask of booleans would pass as the indices 0 and 1.
        if isinstance(index, bool) or not hasattr(index, "__index__") or not 0 <= index < count:
            raise ConfigError(f"{name}: got {index!r}, allowed are whole numbers from 0 to {count - 1}.")
    chosen = [operator.index(index) for index in chosen]
    if len(set(chosen)) < len(chosen):
        twice = next(index for index in chosen if chosen.count(index) > 1)
        raise ConfigError(f"{name}: got {twice} more than once, allowed is each of 0 to {count - 1} at most once.")
    return chosen


def _named(place: Place) -> str:
    return f"layer {place[0]}, operation {place[1]}"


def _operation(caller: str, spec: EncoderSpec, place: Place, kind: type[Sized]) -> Sized:
    layer, index = place
    if not 0 <= layer < spec.num_layers or not 0 <= index < len(spec.layers[layer].operations):
        places = [(at, each) for at, layer_ in enumerate(spec.layers) for each in range(len(layer_.operations))]
        raise ConfigError(f"{caller}: there is no {_named(place)}; allowed (layer, place) are {places}.")
    found = spec.layers[layer].operations[index]
    if not isinstance(found, kind):
        raise ConfigError(f"{caller}: {_named(place)} is {type(found).__name__}, allowed is {kind.__name__}.")
    return found


def _with_operations(spec: EncoderSpec, changed: Mapping[Place, Operation]) -> EncoderSpec:
    layers = (
        dataclasses.replace(
            layer,
            operations=tuple(changed.get((index, place), old) for place, old in enumerate(layer.operations)),
        )
        for index, layer in enumerate(spec.layers)
    )
    return spec.replace(layers=tuple(layers))


def _keep_link(caller: str, linked: bool, embedding: int, hidden: int) -> None:
    if linked and embedding == hidden:
        raise ConfigError(
            f"{caller}: {hidden} dimensions would make embeddings and layers equally wide, and the link between them "
            "would have no place; keep one dimension more or fewer."
        )


def _segments(spec: EncoderSpec) -> list[int]:
    """Number of links before the embeddings (0) and before each layer's operations; length num_layers + 1."""
    return [0, *itertools.accumulate(int(a != b) for a, b in itertools.pairwise(spec.widths))]


def _link_between(segments: list[int], before: int, index: int) -> int | None:
    """Return the layer whose link joins layer `before` (-1: the embeddings) to layer `index`, if the two need one."""
    crossed = segments[index + 1] - segments[before + 1]
    if crossed == 0:
        return None
    if crossed != 1:
        raise ConfigError(
            f"select_layers: layer {index} cannot follow {f'layer {before}' if before >= 0 else 'the embeddings'}: "
            f"their streams are {crossed} links apart, allowed are 0 and 1; keep a layer between, or their order."
        )
    return segments.index(segments[index + 1]) - 1


def _moved(name: str, moves: Mapping[str, str]) -> str:
    return next((old + name.removeprefix(new) for new, old in moves.items() if name.startswith(new)), name)


def _rows(head: int, dimensions: Iterable[int], attention: Attention) -> list[int]:
    """Rows of a head's dimensions within the queries (as within the keys, the values, the columns of the output)."""
    return [head * attention.head_size + each for each in dimensions]


def _cut_attention(
    spec: EncoderSpec, weights: Weights, rows: Mapping[Place, list[list[int]]]
) -> tuple[EncoderSpec, dict[str, Tensor]]:
    """Keep the rows of each place, listed by head."""
    result = _with_operations(spec, {place: Attention(len(lists), len(lists[0])) for place, lists in rows.items()})
    chosen: dict[Axis, list[int]] = {}
    for (layer, place), lists in rows.items():
        attention = spec.layers[layer].operations[place]
        assert isinstance(attention, Attention)  # the callers looked
        width = attention.num_heads * attention.head_size
        flat = list(itertools.chain.from_iterable(lists))
        chosen[Axis("heads", layer, place)] = flat
        chosen[Axis("qkv", layer, place)] = [part * width + row for part in range(3) for row in flat]
    return result, _cut(spec, weights, chosen)


def _cut(spec: EncoderSpec, weights: Weights, chosen: Mapping[Axis, list[int]]) -> dict[str, Tensor]:
    """Copy every tensor, keeping the chosen indices of the axes that are named."""
    result = {}
    for name, axes in _axes(spec):
        tensor = weights[name]
        for dimension, axis in enumerate(axes):
            if axis is not None and axis in chosen:
                tensor = tensor.index_select(dimension, torch.tensor(chosen[axis], device=tensor.device))
        result[name] = _copy(tensor)
    return result


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _prefix(spec: EncoderSpec) -> str:
    return "" if spec.head.task == "none" else "encoder."


Axes: TypeAlias = tuple[Axis | None, ...]  # one for each dimension of a tensor; None where nothing can be cut


def _axes(spec: EncoderSpec) -> Iterator[tuple[str, Axes]]:
    """Yield every tensor's name with its axes, in the order of `spec.tensors()`."""
    prefix = _prefix(spec)
    streams = [Axis("stream", segment) for segment in _segments(spec)]
    for table in ("word", "position", "token_type"):
        if table != "token_type" or spec.embeddings.type_vocab_size:
            yield f"{prefix}embeddings.{table}.weight", (None, streams[0])
    yield from _norm_axes(f"{prefix}embeddings.norm", streams[0])
    for index, layer in enumerate(spec.layers):
        before, stream = streams[index], streams[index + 1]
        if before != stream:
            yield from _linear_axes(f"{prefix}layers.{index}.link", before, stream)
        for place, operation in enumerate(layer.operations):
            yield from _operation_axes(f"{prefix}layers.{index}.operations.{place}", operation, stream, (index, place))
    if spec.head.pooler != "none":
        yield from _linear_axes(f"{prefix}pooler", streams[-1], streams[-1])
    if spec.head.task == "masked_lm":
        yield from _linear_axes("transform", streams[-1], streams[0])
        yield from _norm_axes("norm", streams[0])
        yield "decoder_bias", (None,)
    elif spec.head.task != "none":
        yield from _linear_axes("classifier", streams[-1], None)


def _operation_axes(name: str, operation: Operation, stream: Axis, place: Place) -> Iterator[tuple[str, Axes]]:
    match operation:
        case Attention():
            yield from _linear_axes(f"{name}.qkv", stream, Axis("qkv", *place))
            yield from _linear_axes(f"{name}.output", Axis("heads", *place), stream)
            yield from _norm_axes(f"{name}.norm", stream)
        case FeedForward():
            yield from _linear_axes(f"{name}.intermediate", stream, Axis("neurons", *place))
            yield from _linear_axes(f"{name}.output", Axis("neurons", *place), stream)
            yield from _norm_axes(f"{name}.norm", stream)
        case SeparableConvolution():
            for stage in range(2):
                yield f"{name}.stages.{stage}.depthwise.weight", (stream, None, None)
                yield f"{name}.stages.{stage}.depthwise.bias", (stream,)
                yield from _linear_axes(f"{name}.stages.{stage}.pointwise", stream, stream)
                yield from _norm_axes(f"{name}.stages.{stage}.norm", stream)


def _linear_axes(name: str, inputs: Axis | None, outputs: Axis | None) -> Iterator[tuple[str, Axes]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm_axes(name: str, stream: Axis) -> Iterator[tuple[str, Axes]]:
    yield f"{name}.weight", (stream,)
    yield f"{name}.bias", (stream,)
