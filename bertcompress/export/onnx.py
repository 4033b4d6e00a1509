"""ONNX graphs, with the integer products that ONNX Runtime has kernels for.

A quantized map is one operator, `com.microsoft.MatMulIntegerToFloat`, over codes that were rounded just before it: of a
chain of QuantizeLinear, DequantizeLinear and MatMul, ONNX Runtime makes a float product where a bias follows. Codes of
what goes in are shifted by 128, as products of two signed matrices take several times as long. Graphs without integer
products have standard operators alone.
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
from bertcompress.export.seal import SEALED_BYTES, sealed

if TYPE_CHECKING:
    from bertcompress.encoder.chain import ChainPreTrainedModel

OPSET, IR_VERSION = 20, 9
INTEGER_PRODUCT = "MatMulIntegerToFloat"
LARGEST = 2**31 - 1  # bytes of a protobuf file
SMALL = 64  # numbers of a constant that is written once
SHIFT = 128  # of the codes of what goes in
SMALLEST = 1e-30  # peak of a token whose numbers are all zero, as in `encoder.quantized`


class OnnxGraph:
    """Builds an ONNX graph; values are names."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._onnx = require("onnx", "onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[tuple[Any, ...], str] = {}

    def node(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """Add an operator; return its first output. Others have the same name with a number."""
        name = f"{kind}_{len(self.nodes)}"
        names = [name, *(f"{name}_{place}" for place in range(1, outputs))]
        self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), names, name, domain=domain, **attributes))
        return name

    def constant(self, values: npt.NDArray[np.generic], shared: bool = True) -> str:
        """Return a constant; small ones are written once, unless they are not to be shared."""
        values = np.asarray(values)
        once = shared and values.size < SMALL
        key = (values.dtype.str, values.shape, values.tobytes()) if once else (len(self.constants),)
        if key not in self._known:
            name = f"constant_{len(self.constants)}"
            self.constants.append(self._onnx.numpy_helper.from_array(values, name))
            self._known[key] = name
        return self._known[key]

    def add(self, left: str, right: str) -> str:
        """Return left + right."""
        return self.node("Add", left, right)

    def multiply(self, left: str, right: str) -> str:
        """Return left * right."""
        return self.node("Mul", left, right)

    def matmul(self, left: str, right: str) -> str:
        """Return left @ right."""
        return self.node("MatMul", left, right)

    def softmax(self, values: str) -> str:
        """Return the softmax over the last axis."""
        return self.node("Softmax", values, axis=-1)

    def activation(self, name: str, values: str) -> str:
        """Return one of `spec.ACTIVATIONS`."""
        if name in ("gelu", "gelu_new"):
            return self.node("Gelu", values, approximate="none" if name == "gelu" else "tanh")
        if name == "silu":
            return self.multiply(values, self.node("Sigmoid", values))
        return self.node({"relu": "Relu", "tanh": "Tanh"}[name], values)

    def norm(self, values: str, weight: Array, bias: Array, eps: float) -> str:
        """Return the layer normalisation over the last axis."""
        return self.node(
            "LayerNormalization", values, self.constant(weight), self.constant(bias), axis=-1, epsilon=float(eps)
        )

    def reshape(self, values: str, shape: tuple[int, ...]) -> str:
        """Return another shape; 0 keeps an axis, -1 is what is left."""
        return self.node("Reshape", values, self.constant(np.array(shape, np.int64)))

    def transpose(self, values: str, order: tuple[int, ...]) -> str:
        """Return other axes' order."""
        return self.node("Transpose", values, perm=list(order))

    def unstacked(self, values: str, count: int) -> list[str]:
        """Return what lies along the first axis, `count` long, without that axis."""
        name = self.node("Split", values, self.constant(np.ones(count, np.int64)), outputs=count, axis=0)
        axis = self.constant(np.array([0], np.int64))
        return [self.node("Squeeze", part, axis) for part in (name, *(f"{name}_{at}" for at in range(1, count)))]

    def concatenate(self, parts: list[str]) -> str:
        """Join parts along the last axis."""
        return self.node("Concat", *parts, axis=-1)

    def first(self, values: str) -> str:
        """Return (batch, length, size) of the first token, (batch, size)."""
        return self.node("Gather", values, self.constant(np.int64(0)), axis=1)

    def looked_up(self, table: Array | Codes, ids: str) -> str:
        """Return the rows of some ids."""
        if isinstance(table, Codes):
            steps = self.node("Gather", self.constant(table.steps[:, None]), ids)
            return self.multiply(self._rows(table, self.node("Gather", self._table(table), ids)), steps)
        return self.node("Gather", self.constant(table), ids)

    def first_rows(self, table: Array | Codes, ids: str) -> str:
        """Return as many of the first rows as `ids` (batch, length) is long."""
        length = self.node("Shape", ids, start=1, end=2)
        if isinstance(table, Codes):
            steps = self._begin(self.constant(table.steps[:, None]), length)
            return self.multiply(self._rows(table, self._begin(self._table(table), length)), steps)
        return self._begin(self.constant(table), length)

    def _begin(self, rows: str, count: str) -> str:
        zero = self.constant(np.zeros(1, np.int64))
        return self.node("Slice", rows, zero, count, zero)

    def _codes(self, matrix: Codes) -> str:
        """Return codes as signed bytes; of those of fewer bits ONNX Runtime makes them once, when it loads the file."""
        if matrix.bits == 8:
            return self.constant(matrix.values)
        kept = self.constant(_packed(matrix.values.reshape(1, -1), matrix.bits), shared=False)
        whole = self._cast(self._parts(kept, matrix.bits), "INT32")
        signed = self.add(whole, self.constant(np.int32(LEAST[matrix.bits])))
        return self.reshape(self._left(self._cast(signed, "INT8"), matrix.values.size), matrix.values.shape)

    def _table(self, table: Codes) -> str:
        """Return a table as it is kept; of few bits it stays so, and the rows that are looked up are unpacked."""
        return self.constant(table.values if table.bits == 8 else _packed(table.values, table.bits), shared=False)

    def _rows(self, table: Codes, kept: str) -> str:
        """Return rows of a table (..., columns), as they are kept, as codes in float."""
        if table.bits == 8:
            return self._cast(kept, "FLOAT")
        whole = self._left(self._cast(self._parts(kept, table.bits), "FLOAT"), table.values.shape[1])
        return self.add(whole, self.constant(np.float32(LEAST[table.bits])))

    def _parts(self, kept: str, bits: int) -> str:
        """Return what lies in bytes, (..., n) as (..., n * 8 / bits)."""
        mask = self.constant(np.uint8((1 << bits) - 1))
        moved = [kept]
        for place in range(bits, 8, bits):
            moved.append(self.node("BitShift", kept, self.constant(np.uint8(place)), direction="RIGHT"))
        return self.node("Concat", *(self.node("BitwiseAnd", each, mask) for each in moved), axis=-1)

    def _left(self, values: str, count: int) -> str:
        """Return the first numbers of the last axis."""
        end, last = (self.constant(np.array([place], np.int64)) for place in (count, -1))
        return self.node("Slice", values, self.constant(np.zeros(1, np.int64)), end, last)

    def _stepped(self, codes: str, steps: str) -> str:
        return self.multiply(self._cast(codes, "FLOAT"), steps)

    def _cast(self, values: str, kind: str) -> str:
        return self.node("Cast", values, to=getattr(self._onnx.TensorProto, kind))

    def linear(self, values: str, weight: Array, bias: Array) -> str:
        """Return values @ weight.T + bias."""
        product = self.matmul(values, self.constant(np.ascontiguousarray(weight.T)))
        return self.add(product, self.constant(bias))

    def quantized_linear(self, values: str, weight: Codes, bias: Array, inputs: Inputs) -> str:
        """Return the same of codes, as an integer product where the inputs are rounded."""
        codes = self._codes(Codes(np.ascontiguousarray(weight.values.T), weight.steps))
        if inputs.codes is None:
            # Not DequantizeLinear: of that and a product ONNX Runtime makes one that rounds what goes in.
            columns = self._stepped(codes, self.constant(weight.steps))
            return self.add(self.matmul(values, columns), self.constant(bias))
        if inputs.step is None:
            rows, steps = self._rounded_tokens(values, inputs.codes)
            product = self._integer_product(rows, codes, np.float32(1), weight.steps, SHIFT)
            return self.add(self.multiply(product, steps), self.constant(bias))
        shift = SHIFT if inputs.codes.low < 0 else 0
        rows = self._shifted(values, inputs.step, inputs.codes, shift)
        return self._integer_product(rows, codes, np.float32(inputs.step), weight.steps, shift, self.constant(bias))

    def _integer_product(self, rows: str, codes: str, step: np.float32, steps: Array, shifted: int, *bias: str) -> str:
        shift = self.constant(np.uint8(shifted))
        # Each has its own: where ONNX Runtime shifts weights to unsigned bytes, it replaces these, and fails the second
        # time.
        zeros = self.constant(np.zeros(len(steps), np.int8), shared=False)
        given = [rows, codes, self.constant(np.array(step)), self.constant(steps), shift, zeros, *bias]
        return self.node(INTEGER_PRODUCT, *given, domain="com.microsoft")

    def _shifted(self, values: str, step: float, codes: CodeRange, shift: int) -> str:
        """Return codes + shift as unsigned bytes; some bytes stand for no code, so values are clipped."""
        clipped = self._clipped(values, step, codes)
        return self.node("QuantizeLinear", clipped, self.constant(np.float32(step)), self.constant(np.uint8(shift)))

    def _clipped(self, values: str, step: float, codes: CodeRange) -> str:
        low, high = (self.constant(np.float32(step * bound)) for bound in codes)
        return self.node("Clip", values, low, high)

    def _rounded_tokens(self, values: str, codes: CodeRange) -> tuple[str, str]:
        """Return each token's codes + `SHIFT` as unsigned bytes, and its step, (batch, length, 1)."""
        peak = self.node("ReduceMax", self.node("Abs", values), self.constant(np.array([-1], np.int64)), keepdims=1)
        peak = self.node("Max", peak, self.constant(np.float32(SMALLEST)))
        high = self.constant(np.float32(codes.high))
        found = self.node("Round", self.multiply(values, self.node("Div", high, peak)))
        shifted = self._cast(self.add(found, self.constant(np.float32(SHIFT))), "UINT8")
        return shifted, self.node("Div", peak, high)

    def rounded(self, values: str, step: float, codes: CodeRange) -> str:
        """Return values as codes times a step."""
        zero = self.constant(np.int8(0) if codes.low < 0 else np.uint8(0))
        scale = self.constant(np.float32(step))
        found = self.node("QuantizeLinear", self._clipped(values, step, codes), scale, zero)
        return self.node("DequantizeLinear", found, scale, zero)

    def convolved(self, values: str, weight: Array, bias: Array) -> str:
        """Return (batch, channels, length), each channel convolved by its own odd kernel (channels, 1, width)."""
        side = weight.shape[-1] // 2
        given = [values, self.constant(weight), self.constant(bias)]
        return self.node("Conv", *given, group=len(weight), pads=[side, side], kernel_shape=[weight.shape[-1]])

    def mask(self, attention_mask: str) -> tuple[str, str]:
        """Return (batch, length) as what is added to scores, (batch, 1, 1, length), and as factors, (b, length, 1)."""
        real = self._cast(attention_mask, "FLOAT")
        hidden = self.node("Sub", self.constant(np.float32(1)), real)
        added = self.multiply(hidden, self.constant(np.float32(HIDDEN_SCORE)))
        shapes = ((0, 1, 1, -1), (0, -1, 1))
        added, factors = (self.reshape(each, shape) for each, shape in zip((added, real), shapes, strict=True))
        return added, factors


def export_onnx(network: ChainPreTrainedModel, path: Path, facts: dict[str, str]) -> None:
    """Write a network as an ONNX file with dynamic batch and length.

    Args:
        network: what to write.
        path: of the file.
        facts: kept in the file beside the graph.

    Raises:
        ConfigError: the head predicts masked words, onnx is not installed, or the weights are too large for one file.
    """
    graph = OnnxGraph()
    onnx = require("onnx", "onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    found = write(graph, network, INPUTS)
    weights = sum(len(each.raw_data) for each in graph.constants)
    if weights > LARGEST * 0.99:
        raise ConfigError(
            f"export: the weights take {weights / 2**20:,.0f} MiB, allowed in one ONNX file are {LARGEST // 2**20:,}; "
            "quantize the model, or export it to OpenVINO."
        )
    shape = ["batch", "length"]
    proto = helper.make_model(
        helper.make_graph(
            [*graph.nodes, helper.make_node("Identity", [found], ["logits"])],
            "bertcompress",
            [helper.make_tensor_value_info(name, kinds.INT64, shape) for name in INPUTS],
            [helper.make_tensor_value_info("logits", kinds.FLOAT, None)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)],
        ir_version=IR_VERSION,
        producer_name="bertcompress",
    )
    body: bytes = proto.SerializeToString()
    about = onnx.ModelProto()
    helper.set_model_props(about, sealed(facts, body))
    path.write_bytes(body + about.SerializeToString())  # messages that follow each other are one


def checked_bytes(path: Path, facts: dict[str, str]) -> bytes:
    """Return the part of a file that its seal is of."""
    return path.read_bytes()[: int(facts[SEALED_BYTES])]


def _packed(codes: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.uint8]:
    """Return codes (rows, n) in bytes: in the lowest bits the first part of a row, above it those that follow."""
    parts = 8 // bits
    whole = np.pad(codes.astype(np.int16) - LEAST[bits], ((0, 0), (0, -codes.shape[1] % parts))).astype(np.uint8)
    split = whole.reshape(len(whole), parts, -1)
    shifts = (bits * np.arange(parts)).astype(np.uint8)
    found: npt.NDArray[np.uint8] = np.bitwise_or.reduce(split << shifts[:, None], axis=1)
    return found
