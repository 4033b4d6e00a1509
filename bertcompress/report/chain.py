"""The pipeline as a picture: the chain of operations before and after each step, areas in proportion to weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bertcompress.encoder.bits import WHOLE
from bertcompress.encoder.spec import Attention, EncoderSpec, FeedForward, Layer, Operation
from bertcompress.report import describe, svg, text
from bertcompress.report.runs import Entry, Run

BLOCK = 128.0  # pixels of the widest stream
NUMBERS = 30.0  # pixels left of the blocks, for the layers' numbers
LEAST_HEIGHT = 2.5
OPERATION_GAP, LAYER_GAP = 1.0, 3.0
LINE = 15.0  # pixels from one line of text to the next
COLUMNS_IN_A_ROW = 4
PICTURE = 1120.0  # pixels of the whole picture on a wide page
UNIFORM_COLUMN, MIXED_COLUMN = 250.0, 315.0  # pixels of a column; mixed layers have labels beside them
CLASSES = {"Attention": "attention", "FeedForward": "feed-forward", "SeparableConvolution": "convolution"}


def operation_height(operation: Operation, hidden: int) -> float:
    """Return an operation's weights per unit of the stream's width, so that width x height is its weights."""
    if isinstance(operation, Attention):
        return 4.0 * operation.num_heads * operation.head_size
    if isinstance(operation, FeedForward):
        return 2.0 * operation.intermediate_size
    return 2.0 * (hidden + operation.kernel_size)


def _layer_height(layer: Layer) -> float:
    return sum(operation_height(operation, layer.hidden_size) for operation in layer.operations)


def _embedding_rows(spec: EncoderSpec) -> float:
    return float(spec.embeddings.vocab_size + spec.embeddings.max_positions + spec.embeddings.type_vocab_size)


@dataclass(frozen=True)
class Scale:
    """Pixels per unit of stream width (`across`) and per unit of operation height (`down`)."""

    across: float
    down: float

    def height(self, units: float) -> float:
        """Return pixels, never so few that a block vanishes."""
        return max(LEAST_HEIGHT, units * self.down)


def scale_of(specs: Sequence[EncoderSpec]) -> Scale:
    """Choose one scale for all chains: layers at least 14 px where the tallest chain then stays under 560 px."""
    widest = max(max(spec.widths) for spec in specs)
    tallest = max(_embedding_rows(spec) + sum(map(_layer_height, spec.layers)) for spec in specs)
    thinnest = min(_layer_height(layer) for spec in specs for layer in spec.layers)
    return Scale(BLOCK / widest, min(560 / tallest, max(14 / thinnest, 330 / tallest)))


@dataclass(frozen=True)
class _Place:
    """Where a layer stands: its top and bottom, left and right edge."""

    top: float
    bottom: float
    left: float
    right: float


def _block(class_: str, left: float, top: float, width: float, height: float, title: str, low: str) -> str:
    shape = {"x": left, "y": top, "width": width, "height": height, "rx": min(1.5, height / 3)}
    marks = [svg.element("rect", class_=f"op {class_}", **shape)]
    if low:
        marks.append(svg.element("rect", class_="int8", fill="url(#int8)", **shape))
    return svg.element("g", svg.tip(title + (f", {low}" if low else "")), *marks)


class _Column:
    """Draws one chain from the top down and remembers where its layers stand."""

    def __init__(self, entry: Entry, spec: EncoderSpec, left: float, top: float, scale: Scale) -> None:
        self.entry, self.spec, self.scale = entry, spec, scale
        self.centre, self.y = left + NUMBERS + BLOCK / 2, top
        self.marks: list[str] = []
        self.places: list[_Place] = []
        bits = spec.quantization
        self.low = spec.low_bits
        self.low_weights = self.low if bits and bits.weight_bits != WHOLE else ""
        self.low_embeddings = self.low if bits and bits.bits_of_table("word") != WHOLE else ""
        self.start = top
        self._embeddings()
        self.layers_top = self.y
        for index, layer in enumerate(spec.layers):
            self._link(index)
            self._layer(index, layer)
        self.bottom = self.y - LAYER_GAP
        self._head()

    def _edges(self, units: float) -> tuple[float, float]:
        half = max(3.0, units * self.scale.across / 2)
        return self.centre - half, 2 * half

    def _embeddings(self) -> None:
        table = self.spec.embeddings
        left, width = self._edges(table.size)
        height = self.scale.height(_embedding_rows(self.spec))
        title = f"embeddings: {table.vocab_size:,} words of width {table.size:,}"
        self.marks.append(_block("embeddings", left, self.y, width, height, title, self.low_embeddings))
        if height >= 14 and width >= 68:
            self.marks.append(svg.words("embeddings", self.centre, self.y + height / 2 + 4, "in-block", "middle"))
        self.y += height + LAYER_GAP

    def _link(self, index: int) -> None:
        before, after = self.spec.widths[index], self.spec.widths[index + 1]
        if before == after:
            return
        (left, width), (below, span) = self._edges(before), self._edges(after)
        corners = ((left, 0), (left + width, 0), (below + span, 7), (below, 7))
        points = " ".join(f"{x:.1f},{self.y + y:.1f}" for x, y in corners)
        title = svg.tip(f"linear map from width {before:,} to {after:,}")
        self.marks.append(svg.element("polygon", title, points=points, class_="link"))
        self.y += 7 + LAYER_GAP

    def _layer(self, index: int, layer: Layer) -> None:
        left, width = self._edges(layer.hidden_size)
        top = self.y
        for operation in layer.operations:
            height = self.scale.height(operation_height(operation, layer.hidden_size))
            title = f"layer {index + 1}: {describe.operation(operation)}, width {layer.hidden_size:,}"
            class_ = CLASSES[type(operation).__name__]
            self.marks.append(_block(class_, left, self.y, width, height, title, self.low_weights))
            self.y += height + OPERATION_GAP
        self.places.append(_Place(top, self.y - OPERATION_GAP, left, left + width))
        self.y += LAYER_GAP - OPERATION_GAP

    def _head(self) -> None:
        self.marks.insert(
            0, svg.element("line", x1=self.centre, x2=self.centre, y1=self.start - 7, y2=self.y + 6, class_="stream")
        )
        if self.spec.head.task != "none":
            label = f"{self.spec.head.task.replace('_', ' ')} head"
            self.marks.append(svg.element("circle", cx=self.centre, cy=self.y + 8, r=3.5, class_="head"))
            self.marks.append(svg.words(label, self.centre, self.y + 24, "small", "middle"))
        self.y += 30

    def numbers(self) -> str:
        """Return the layers' numbers left of the blocks, as many as there is room for."""
        shown, last = [], -100.0
        for number, place in enumerate(self.places, 1):
            middle = (place.top + place.bottom) / 2
            if middle - last >= 10:
                shown.append(svg.words(number, place.left - 5, middle + 3.5, "number halo", "end"))
                last = middle
        return "".join(shown)

    def bracket(self) -> str:
        """Return a bracket beside what is in few bits, with the word, so that no colour or texture has to say it."""
        if not (self.low_weights or self.low_embeddings):
            return ""
        top = self.start if self.low_embeddings else self.layers_top
        bottom = self.bottom if self.low_weights else self.layers_top - LAYER_GAP
        x = self.centre + BLOCK / 2 + 6
        path = f"M{x:.1f} {top:.1f}h4V{bottom:.1f}h-4"
        return svg.element("path", d=path, class_="bracket") + svg.words(
            self.low, x + 9, (top + bottom) / 2 + 4, "small strong halo"
        )

    def labels(self) -> str:
        """Return the layers' operations at the right of the blocks, where the layers are not all equal."""
        stretches = describe.groups(self.spec)
        if len(stretches) < 2:
            return ""
        x = self.centre + BLOCK / 2 + (52 if self.low_weights else 12)
        marks, free = [], -100.0
        for first, count in stretches:
            layer = self.spec.layers[first]
            middle = (self.places[first].top + self.places[first + count - 1].bottom) / 2
            y = max(middle, free)
            free = y + 12.5
            inside = " + ".join(describe.operation_short(each) for each in layer.operations)
            label = f"{count} {text.TIMES} {inside}" if count > 1 else inside
            edge = self.places[first].right + 2
            marks.append(svg.element("path", d=f"M{edge:.1f} {middle:.1f}L{x - 8:.1f} {y:.1f}h5", class_="leader"))
            marks.append(svg.words(f"{layer.hidden_size:,}: {label}", x, y + 3.5, "tiny halo"))
        return "".join(marks)


def _header(entry: Entry, spec: EncoderSpec, previous: Entry | None, characters: int) -> list[str]:
    weights, size = entry.number("parameters"), entry.number("file_bytes")
    known = [] if weights is None else [f"{text.magnitude(weights)} weights"]
    known += [] if size is None else [f"{text.mebibytes(size)} MiB"]
    lines = [", ".join(known)] if known else []
    lines.append(f"{text.counted(spec.num_layers, 'layer')}, width {describe.widths(spec)}")
    if len(describe.groups(spec)) == 1:
        lines += [describe.operation(each) for each in spec.layers[0].operations]
    lines += [line for line in (describe.quantized(spec), describe.origin_words(entry, previous)) if line]
    return [part for line in lines for part in svg.wrap(line, characters)]


def _bands(entry: Entry, left: _Column, right: _Column) -> str:
    found = describe.origins(entry, left.entry) or ()
    bands = []
    for place, origin in zip(right.places, found, strict=False):
        if origin is None:
            continue
        source = left.places[origin - 1]
        bend = (source.right + place.left) / 2
        upper = f"C{bend:.1f} {source.top:.1f} {bend:.1f} {place.top:.1f} {place.left:.1f} {place.top:.1f}"
        lower = f"C{bend:.1f} {place.bottom:.1f} {bend:.1f} {source.bottom:.1f} {source.right:.1f} {source.bottom:.1f}"
        path = f"M{source.right:.1f} {source.top:.1f}{upper}V{place.bottom:.1f}{lower}Z"
        bands.append(
            svg.element("path", svg.tip(f"came from layer {origin} of {left.entry.name}"), d=path, class_="band")
        )
    return "".join(bands)


Step = tuple[Entry, EncoderSpec, Entry | None]


def _draw(steps: Sequence[Step], scale: Scale, pitch: float, last: float) -> str:
    characters = int(min(pitch, last) / 6.4)
    headers = [_header(*step, characters) for step in steps]
    top = 22 + LINE * max(map(len, headers)) + 14
    columns = [_Column(entry, spec, pitch * place, top, scale) for place, (entry, spec, _) in enumerate(steps)]
    befores = [before for _, _, before in steps[1:]]
    marks = [
        _bands(right.entry, left, right)
        for (left, right), before in zip(pairwise(columns), befores, strict=True)
        if left.entry is before
    ]
    for place, (column, lines) in enumerate(zip(columns, headers, strict=True)):
        marks.append(svg.words(svg.shorten(column.entry.name, int(pitch / 7.6)), pitch * place, 14, "strong"))
        marks += [
            svg.words(line, pitch * place, 22 + LINE * (number + 0.7), "small") for number, line in enumerate(lines)
        ]
        marks += [*column.marks, column.numbers(), column.bracket(), column.labels()]
    width = pitch * (len(columns) - 1) + last
    spoken = ". ".join(f"{entry.name}: {'; '.join(describe.chain(spec))}" for entry, spec, _ in steps)
    return svg.drawing(width, max(column.y for column in columns), spoken, *marks, class_="chain")


def pictures(run: Run, scale: Scale) -> tuple[list[str], list[str]]:
    """Return the run's chains as rows of columns, for wide pages, and one by one, for narrow ones."""
    steps: list[Step] = []
    for place, entry in enumerate(run.entries):
        if entry.spec is not None:
            steps.append((entry, entry.spec, run.entries[place - 1] if place else None))
    rows = [steps[start : start + COLUMNS_IN_A_ROW] for start in range(0, len(steps), COLUMNS_IN_A_ROW)]
    mixed = any(len(describe.groups(spec)) > 1 for _, spec, _ in steps)
    last = MIXED_COLUMN if mixed else UNIFORM_COLUMN
    gaps = max(1, min(COLUMNS_IN_A_ROW, len(steps)) - 1)
    pitch = min(420.0, (PICTURE - last) / gaps)
    wide = [_draw(row, scale, pitch, last) for row in rows]
    return wide, [_draw([step], scale, MIXED_COLUMN, MIXED_COLUMN) for step in steps]
