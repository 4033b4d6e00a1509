"""A chain in words: groups of equal layers, where layers came from, what is quantized."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from bertcompress.encoder.bits import WHOLE
from bertcompress.encoder.spec import Attention, EncoderSpec, FeedForward, Operation
from bertcompress.report import text
from bertcompress.report.runs import TRAINING_FREE, Entry

_STEPS = {
    "fine_tune": "fine-tuning",
    "distill": "distillation",
    "extract_then_distill": "extract-then-distill",
    "post_training_quantization": "post-training quantization",
    "quantization_aware_training": "quantization-aware training",
    "kdlsq": "KDLSQ",
    "nas_bert": "NAS-BERT",
}


def method_name(entry: Entry) -> str:
    """Return the method's name as prose has it."""
    return _STEPS.get(entry.method, entry.method.replace("_", " ")) or "method not recorded"


def operation(each: Operation) -> str:
    """Return one operation in words with its sizes."""
    if isinstance(each, Attention):
        return f"attention {text.counted(each.num_heads, 'head')} {text.TIMES} {each.head_size}"
    if isinstance(each, FeedForward):
        return f"feed-forward {each.intermediate_size:,}"
    return f"separable convolution, kernel {each.kernel_size}"


def operation_short(each: Operation) -> str:
    """Return one operation in a few letters, for a picture."""
    if isinstance(each, Attention):
        return f"att {each.num_heads}{text.TIMES}{each.head_size}"
    if isinstance(each, FeedForward):
        return f"ffn {each.intermediate_size:,}"
    return f"conv {each.kernel_size}"


def groups(spec: EncoderSpec) -> list[tuple[int, int]]:
    """Return (first layer, how many) of each stretch of equal layers, counting from 0."""
    result = []
    for _, members in groupby(enumerate(spec.layers), key=lambda pair: pair[1]):
        places = [place for place, _ in members]
        result.append((places[0], len(places)))
    return result


def quantized(spec: EncoderSpec) -> str:
    """Return what is stored in few bits, or an empty string."""
    bits = spec.quantization
    if bits is None:
        return ""
    parts = (("weights", bits.weight_bits), ("embeddings", bits.embedding_bits), ("activations", bits.activation_bits))
    low = [(name, width) for name, width in parts if width != WHOLE]
    if {width for _, width in low} <= {8}:
        return f"int8: {', '.join(name for name, _ in low)}" if low else ""
    return ", ".join(f"{name} in {width:g} bits" for name, width in low)


def chain(spec: EncoderSpec) -> list[str]:
    """Return the chain as phrases, from the embeddings to the head."""
    table = spec.embeddings
    words = [f"embeddings {table.vocab_size:,} {text.TIMES} {table.size:,}"]
    for first, count in groups(spec):
        layer = spec.layers[first]
        link = (
            f"link {spec.widths[first]:,} to {layer.hidden_size:,}, " if spec.widths[first] != layer.hidden_size else ""
        )
        inside = ", ".join(operation(each) for each in layer.operations)
        words.append(f"{link}{text.counted(count, 'layer')} of width {layer.hidden_size:,}: {inside}")
    if spec.head.task != "none":
        labels = f", {text.counted(spec.head.num_labels, 'output')}" if spec.head.num_labels else ""
        words.append(f"{spec.head.task.replace('_', ' ')} head{labels}")
    return words


def widths(spec: EncoderSpec) -> str:
    """Return the hidden size, or the range of hidden sizes where they differ."""
    sizes = [layer.hidden_size for layer in spec.layers]
    return f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,}{text.DASH}{max(sizes):,}"


def origins(entry: Entry, previous: Entry | None) -> tuple[int | None, ...] | None:
    """Return, for each layer, the layer (from 1) of the model before that its weights came from; None if not told.

    The field `origin`, of the model or of its `facts`, is believed first. Without it, extract-then-distill's
    setting `layers` tells the same where the student's layers divide the teacher's, and quantization leaves every
    layer in its place.
    """
    if previous is None or entry.spec is None or previous.spec is None:
        return None
    ours, theirs = entry.spec.num_layers, previous.spec.num_layers
    facts = text.mapping(entry.values.get("facts"))
    recorded = text.sequence(entry.values.get("origin") or facts.get("origin"))
    if recorded:
        return _recorded(recorded, ours, theirs)
    if entry.settings.get("initialization") in ("random", "embeddings"):
        return None
    if entry.method == "extract_then_distill" and theirs % ours == 0:
        stride = theirs // ours
        first = {"last_of_block": stride, "first_of_block": 1}.get(str(entry.settings.get("layers", "last_of_block")))
        if entry.settings.get("layers") == "first":
            return tuple(range(1, ours + 1))
        return None if first is None else tuple(range(first, theirs + 1, stride))
    if entry.method in TRAINING_FREE and ours == theirs:
        return tuple(range(1, ours + 1))
    return None


def _recorded(values: Sequence[object], ours: int, theirs: int) -> tuple[int | None, ...] | None:
    # Either one teacher layer (or null) per layer, or pairs of (layer, teacher layer).
    pairs = {}
    for place, value in enumerate(values, 1):
        pair = text.sequence(value) or (place, value)
        if len(pair) != 2 or not isinstance(pair[0], int):
            return None
        pairs[pair[0]] = pair[1] if isinstance(pair[1], int) and 1 <= pair[1] <= theirs else None
    result = tuple(pairs.get(place) for place in range(1, ours + 1))
    return result if any(each is not None for each in result) else None


def origin_words(entry: Entry, previous: Entry | None) -> str:
    """Return a phrase that says which layers the model's layers came from; empty where that is not told."""
    found = origins(entry, previous)
    if found is None or previous is None or previous.spec is None:
        return ""
    if found == tuple(range(1, previous.spec.num_layers + 1)):
        return f"layers of {previous.name}"
    listed = ", ".join("new" if each is None else str(each) for each in found)
    return f"layers from {listed} of {previous.name}"
