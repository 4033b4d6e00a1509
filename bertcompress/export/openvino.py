"""OpenVINO graphs: values that are rounded to codes, from which OpenVINO makes integer products.

Codes pass through FakeQuantize with a level for each code of 8 bits, which is what makes them integers; of fewer bits,
they are clipped before it.
OpenVINO has no rounding with a step for each token, so models need stored steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bertcompress.encoder.bits import CodeRange
from bertcompress.errors import ConfigError
from bertcompress.export.graph import HIDDEN_SCORE, INPUTS, LEAST, Array, Codes, Inputs, write
from bertcompress.export.installed import require
from bertcompress.export.seal import sealed

if TYPE_CHECKING:
    from bertcompress.encoder.chain import ChainPreTrainedModel

WHOLE_BYTES = (CodeRange(-127, 127), CodeRange(0, 255))
FACTS = "bertcompress"  # where a file keeps what is no graph
GRAPH_ENDS = b"</edges>"  # in the text of a file; the facts come behind it
TOKEN_STEPS = (
    "export: the model rounds each token with a step of its own (activation_steps='token'), which OpenVINO has no "
    "operator for; quantize with activation_steps='tensor' (stored steps), or export to ONNX."
)


class OpenvinoGraph:
    """Builds an OpenVINO graph; values are outputs of its nodes."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.ops = require("openvino.opset14", "openvino")
        types = require("openvino", "openvino").Type
        self._types = {2: types.u2, 4: types.u4}

    def constant(self, values: npt.NDArray[np.generic]) -> Any:
        """Return a constant."""
        return self.ops.constant(np.asarray(values))

    def add(self, left: Any, right: Any) -> Any:
        """Return left + right."""
        return self.ops.add(left, right)

    def multiply(self, left: Any, right: Any) -> Any:
        """Return left * right."""
        return self.ops.multiply(left, right)

    def matmul(self, left: Any, right: Any) -> Any:
        """Return left @ right."""
        return self.ops.matmul(left, right, False, False)

    def softmax(self, values: Any) -> Any:
        """Return the softmax over the last axis."""
        return self.ops.softmax(values, -1)

    def activation(self, name: str, values: Any) -> Any:
        """Return one of `spec.ACTIVATIONS`."""
        if name in ("gelu", "gelu_new"):
            return self.ops.gelu(values, "ERF" if name == "gelu" else "TANH")
        if name == "silu":
            return self.ops.swish(values)
        return {"relu": self.ops.relu, "tanh": self.ops.tanh}[name](values)

    def norm(self, values: Any, weight: Array, bias: Array, eps: float) -> Any:
        """Return the layer normalisation over the last axis."""
        centred = self.ops.mvn(values, self._whole([-1]), True, eps, "INSIDE_SQRT")
        return self.add(self.multiply(centred, self.constant(weight)), self.constant(bias))

    def reshape(self, values: Any, shape: tuple[int, ...]) -> Any:
        """Return another shape; 0 keeps an axis, -1 is what is left."""
        return self.ops.reshape(values, self._whole(shape), True)

    def transpose(self, values: Any, order: tuple[int, ...]) -> Any:
        """Return other axes' order."""
        return self.ops.transpose(values, self._whole(order))

    def unstacked(self, values: Any, count: int) -> list[Any]:
        """Return what lies along the first axis, `count` long, without that axis."""
        found = self.ops.split(values, self._whole(0), count)
        return [self.ops.squeeze(found.output(place), self._whole([0])) for place in range(count)]

    def concatenate(self, parts: list[Any]) -> Any:
        """Join parts along the last axis."""
        return self.ops.concat(parts, -1)

    def first(self, values: Any) -> Any:
        """Return (batch, length, size) of the first token, (batch, size)."""
        return self.ops.gather(values, self._whole(0), self._whole(1))

    def looked_up(self, table: Array | Codes, ids: Any) -> Any:
        """Return the rows of some ids."""
        if isinstance(table, Codes):
            codes = self.ops.gather(self._codes(table), ids, self._whole(0))
            steps = self.ops.gather(self.constant(table.steps[:, None]), ids, self._whole(0))
            return self.multiply(self.ops.convert(codes, "f32"), steps)
        return self.ops.gather(self.constant(table), ids, self._whole(0))

    def first_rows(self, table: Array | Codes, ids: Any) -> Any:
        """Return as many of the first rows as `ids` (batch, length) is long."""
        length = self.ops.gather(self.ops.shape_of(ids), self._whole(1), self._whole(0))
        return self.looked_up(table, self.ops.range(self._whole(0), length, self._whole(1), "i64"))

    def linear(self, values: Any, weight: Array, bias: Array) -> Any:
        """Return values @ weight.T + bias."""
        return self.add(self.ops.matmul(values, self.constant(weight), False, True), self.constant(bias))

    def quantized_linear(self, values: Any, weight: Codes, bias: Array, inputs: Inputs) -> Any:
        """Return the same of codes, as an integer product where the inputs are rounded.

        Raises:
            ConfigError: each token is rounded with a step of its own.
        """
        if inputs.codes is not None:
            if inputs.step is None:
                raise ConfigError(TOKEN_STEPS)
            values = self.rounded(values, inputs.step, inputs.codes)
        codes = self.ops.convert(self._codes(weight), "f32")
        rows = self.multiply(codes, self.constant(weight.steps[:, None]))
        return self.add(self.ops.matmul(values, rows, False, True), self.constant(bias))

    def rounded(self, values: Any, step: float, codes: CodeRange) -> Any:
        """Return values as codes times a step.

        FakeQuantize makes the integers, but adds 127 to signed values before it rounds, which in float32 is an error of
        1e-5 of a step: one value in 100,000 went to another code. What comes in is rounded already, and left as it is.
        """
        ratio = self.ops.round(self.ops.divide(values, self.constant(np.float32(step))), "half_to_even")
        if codes not in WHOLE_BYTES:  # OpenVINO makes integers of these grids alone; a part of one is clipped out
            ratio = self.ops.clamp(ratio, float(codes.low), float(codes.high))
            codes = WHOLE_BYTES[codes.low == 0]
        low, high = (self.constant(np.float32(bound)) for bound in codes)
        whole = self.ops.fake_quantize(ratio, low, high, low, high, codes.levels)
        return self.multiply(whole, self.constant(np.float32(step)))

    def convolved(self, values: Any, weight: Array, bias: Array) -> Any:
        """Return (batch, channels, length), each channel convolved by its own odd kernel (channels, 1, width)."""
        side = weight.shape[-1] // 2
        kernels = self.constant(weight[:, None])  # (groups, out, in, width)
        found = self.ops.group_convolution(values, kernels, [1], [side], [side], [1])
        return self.add(found, self.constant(bias[None, :, None]))

    def mask(self, attention_mask: Any) -> tuple[Any, Any]:
        """Return (batch, length) as what is added to scores, (batch, 1, 1, length), and as factors, (b, length, 1)."""
        real = self.ops.convert(attention_mask, "f32")
        hidden = self.ops.subtract(self.constant(np.float32(1)), real)
        added = self.multiply(hidden, self.constant(np.float32(HIDDEN_SCORE)))
        return self.reshape(added, (0, 1, 1, -1)), self.reshape(real, (0, -1, 1))

    def _codes(self, matrix: Codes) -> Any:
        """Return codes as signed bytes, which OpenVINO makes of those of fewer bits once, when it loads the file."""
        if matrix.bits == 8:
            return self.constant(matrix.values)
        kept = self.ops.constant(matrix.values - np.int8(LEAST[matrix.bits]), dtype=self._types[matrix.bits])
        return self.ops.add(self.ops.convert(kept, "i8"), self.constant(np.int8(LEAST[matrix.bits])))

    def _whole(self, values: Any) -> Any:
        return self.ops.constant(np.array(values, np.int64))


def export_openvino(network: ChainPreTrainedModel, path: Path, facts: dict[str, str]) -> None:
    """Write a network as OpenVINO's two files, `path` (.xml) and one with the weights beside it (.bin).

    Args:
        network: what to write.
        path: of the graph's file.
        facts: kept in the file beside the graph.

    Raises:
        ConfigError: the head predicts masked words, openvino is not installed, or tokens have steps of their own.
    """
    graph, openvino = OpenvinoGraph(), require("openvino", "openvino")
    inputs = [graph.ops.parameter([-1, -1], np.int64, name=name) for name in INPUTS]
    for name, each in zip(INPUTS, inputs, strict=True):
        each.output(0).tensor.names = {name}
    result = graph.ops.result(write(graph, network, (inputs[0], inputs[1], inputs[2])))
    result.output(0).tensor.names = {"logits"}
    model = openvino.Model([result], inputs, "bertcompress")
    # Names of OpenVINO's own count on through the process: the same model would be another file each time.
    for place, each in enumerate(model.get_ordered_ops()):
        if each.get_type_name() != "Parameter":
            each.set_friendly_name(f"{each.get_type_name()}_{place}")
    _save(model, path)
    # Written once more: the seal stands in the first file, and is of both as they are then.
    for name, value in sealed(facts, checked_bytes(path, facts)).items():
        model.set_rt_info(value, [FACTS, name])
    _save(model, path)


def _save(model: Any, path: Path) -> None:
    try:
        require("openvino", "openvino").save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # a full disk, for one, has no error of its own there
        raise OSError(f"OpenVINO says '{error}'") from error


def checked_bytes(path: Path, facts: dict[str, str]) -> bytes:
    """Return the bytes that a file's seal is of: the weights, and the graph up to where the facts begin."""
    graph, end, _ = path.read_bytes().partition(GRAPH_ENDS)
    return path.with_suffix(".bin").read_bytes() + graph + end
