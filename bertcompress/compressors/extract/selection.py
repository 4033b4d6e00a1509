"""Which units of the teacher the student is made of: drawn from one seed, or those that matter most.

Lists of units are sorted: order changes nothing but how files compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from bertcompress.encoder.spec import Attention, EncoderSpec, FeedForward, Layer
from bertcompress.errors import ConfigError
from bertcompress.training.mapping import resolve_mapping

if TYPE_CHECKING:
    import numpy as np

Place: TypeAlias = tuple[int, ...]
Scores: TypeAlias = "dict[tuple[str, Place], np.ndarray]"
LAYER_CHOICES = ("last_of_block", "first_of_block", "first")


@dataclass(frozen=True)
class Sizes:
    """The student's sizes; None keeps the teacher's."""

    num_layers: int | None = None
    hidden_size: int | None = None
    num_heads: int | None = None
    head_size: int | None = None
    intermediate_size: int | None = None


def chosen_layers(choice: str, num_student: int, num_teacher: int) -> tuple[int, ...]:
    """Return the teacher layer, counted from 0, that each student layer comes from.

    `last_of_block` takes 2, 4, 6 (counted from 1) for three of six, which agrees with the uniform layer mapping of the
    distillation; `first_of_block` takes 1, 3, 5; `first` takes 1, 2, 3.

    Raises:
        ConfigError: the student has more layers than the teacher.
    """
    if not 1 <= num_student <= num_teacher:
        raise ConfigError(f"num_layers: got {num_student}, allowed are 1 to {num_teacher}, the teacher's layers.")
    if choice == "first":
        return tuple(range(num_student))
    ends = [teacher for _, teacher in resolve_mapping("uniform", num_student, num_teacher)]
    if choice == "last_of_block":
        return tuple(end - 1 for end in ends)
    return tuple([0, *ends[:-1]])


def student_spec(spec: EncoderSpec, sizes: Sizes, choice: str) -> EncoderSpec:
    """Return the spec of the student that `sizes` describe.

    Raises:
        ConfigError: a size is above the teacher's, or the encoder has no such part.
    """
    kept = chosen_layers(choice, sizes.num_layers or spec.num_layers, spec.num_layers)
    hidden = _reduced_hidden(spec, sizes.hidden_size)
    layers = tuple(_reduced_layer(spec.layers[index], index, hidden, sizes) for index in kept)
    embeddings = spec.embeddings
    if hidden is not None and embeddings.size == spec.hidden_size:
        embeddings = type(embeddings)(
            embeddings.vocab_size, hidden, embeddings.max_positions, embeddings.type_vocab_size, embeddings.pad_token_id
        )
    return spec.replace(layers=layers, embeddings=embeddings)


def _reduced_hidden(spec: EncoderSpec, size: int | None) -> int | None:
    if size is None:
        return None
    if len({layer.hidden_size for layer in spec.layers}) > 1:
        raise ConfigError(f"hidden_size: got {size}, allowed is none, because the encoder's layers differ in width.")
    return _within("hidden_size", size, spec.hidden_size)


def _reduced_layer(layer: Layer, index: int, hidden: int | None, sizes: Sizes) -> Layer:
    operations = []
    for operation in layer.operations:
        where = f" in layer {index + 1}"
        if isinstance(operation, Attention):
            heads = _within("num_heads", sizes.num_heads, operation.num_heads, where)
            operation = Attention(heads, _within("head_size", sizes.head_size, operation.head_size, where))
        elif isinstance(operation, FeedForward):
            size = sizes.intermediate_size
            operation = FeedForward(_within("intermediate_size", size, operation.intermediate_size, where))
        operations.append(operation)
    return Layer(tuple(operations), hidden or layer.hidden_size)


def _within(name: str, size: int | None, limit: int, where: str = "") -> int:
    if size is None:
        return limit
    if not 1 <= size <= limit:
        raise ConfigError(f"{name}: got {size}, allowed are 1 to {limit}, the teacher's size{where}.")
    return size


@dataclass(frozen=True)
class Selection:
    """The teacher's units that the student keeps, counted from 0; None or absent keeps all.

    Attributes:
        layers: teacher layer of each student layer.
        hidden: dimensions of the stream, one list for the whole model.
        heads: by teacher (layer, operation).
        dimensions: inside each kept head, by teacher (layer, operation).
        neurons: by teacher (layer, operation).
    """

    layers: tuple[int, ...]
    hidden: tuple[int, ...] | None
    heads: dict[tuple[int, int], tuple[int, ...]]
    dimensions: dict[tuple[int, int], tuple[tuple[int, ...], ...]]
    neurons: dict[tuple[int, int], tuple[int, ...]]

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> Selection:
        """Return the selection that `describe` described."""
        places = {
            name: {tuple(map(int, place.split("."))): value for place, value in described[name].items()}
            for name in ("heads", "dimensions", "neurons")
        }
        hidden = described["hidden"]
        return cls(
            tuple(described["layers"]),
            None if hidden is None else tuple(hidden),
            {place: tuple(value) for place, value in places["heads"].items()},  # type: ignore[misc]
            {place: tuple(map(tuple, value)) for place, value in places["dimensions"].items()},  # type: ignore[misc]
            {place: tuple(value) for place, value in places["neurons"].items()},  # type: ignore[misc]
        )

    def describe(self) -> dict[str, object]:
        """Return plain JSON types; places are written as "layer.operation"."""
        return {
            "layers": list(self.layers),
            "hidden": None if self.hidden is None else list(self.hidden),
            **{
                name: {f"{layer}.{place}": value for (layer, place), value in getattr(self, name).items()}
                for name in ("heads", "dimensions", "neurons")
            },
        }


class Chooser(Protocol):
    """Picks some of the units of one kind at one place."""

    def __call__(self, kind: str, place: Place, total: int, kept: int) -> tuple[int, ...]:
        """Return which `kept` of `total` units stay, rising.

        Args:
            kind: "hidden", "heads", "dimensions" or "neurons".
            place: () for hidden dimensions, (layer, operation) for heads and neurons, (layer, operation, head) for
                dimensions inside a head; counted from 0, in the teacher.
            total: units that there are.
            kept: units that stay.
        """
        ...


def select_units(spec: EncoderSpec, student: EncoderSpec, layers: tuple[int, ...], choose: Chooser) -> Selection:
    """Choose units of `spec` for a student: one list of hidden dimensions, the rest per layer, dimensions per head.

    Args:
        spec: the teacher's.
        student: the student's.
        layers: teacher layer of each student layer, counted from 0.
        choose: picks among the units of a place.
    """
    hidden = None
    if student.hidden_size < spec.hidden_size:
        hidden = choose("hidden", (), spec.hidden_size, student.hidden_size)
    heads: dict[tuple[int, int], tuple[int, ...]] = {}
    dimensions: dict[tuple[int, int], tuple[tuple[int, ...], ...]] = {}
    neurons: dict[tuple[int, int], tuple[int, ...]] = {}
    for index, small in zip(layers, student.layers, strict=True):
        for number, (before, after) in enumerate(zip(spec.layers[index].operations, small.operations, strict=True)):
            place = index, number
            if isinstance(before, Attention) and isinstance(after, Attention):
                kept = tuple(range(before.num_heads))
                if after.num_heads < before.num_heads:
                    kept = heads[place] = choose("heads", place, before.num_heads, after.num_heads)
                if after.head_size < before.head_size:
                    dimensions[place] = tuple(
                        choose("dimensions", (*place, head), before.head_size, after.head_size) for head in kept
                    )
            elif isinstance(before, FeedForward) and isinstance(after, FeedForward):
                if after.intermediate_size < before.intermediate_size:
                    neurons[place] = choose("neurons", place, before.intermediate_size, after.intermediate_size)
    return Selection(layers, hidden, heads, dimensions, neurons)


def random_units(seed: int) -> Chooser:
    """Draw uniformly without replacement, all from one seed (ETD-Rand).

    That dimensions are drawn independently for each head is our choice, as the paper's text was not available in full.
    """
    import numpy as np

    generator = np.random.default_rng(seed)

    def choose(kind: str, place: Place, total: int, kept: int) -> tuple[int, ...]:
        return tuple(sorted(generator.choice(total, size=kept, replace=False).tolist()))

    return choose


def first_units(kind: str, place: Place, total: int, kept: int) -> tuple[int, ...]:
    """Take the first units: of an encoder that was not trained for it, as arbitrary a choice as a random one."""
    return tuple(range(kept))


def scored_units(scores: Scores, *, lowest: bool = False) -> Chooser:
    """Take the units with the highest scores, or the lowest; of equal ones the first.

    Args:
        scores: by kind and place.
        lowest: take what should be left out, as a control.
    """
    import numpy as np

    def choose(kind: str, place: Place, total: int, kept: int) -> tuple[int, ...]:
        values = scores[kind, place]
        order = np.argsort(values if lowest else -values, kind="stable")
        return tuple(sorted(order[:kept].tolist()))

    return choose
