"""Products with weights of 4 bits, where a runtime has a kernel for them, against products of 8-bit integers.

    python -m benchmarks.peers.low_bits [--rounds N] [--threads T] [--output FILE]

The twelve maps of MiniLM's feed-forward parts, 384 to 1,536 and back, one behind the other without what lies between,
so that the weights have to come from memory as in the model. 4-bit kernels unpack codes and multiply floats, or (ONNX
Runtime's accuracy level 4, OpenVINO's dynamic quantization) integers; the 8-bit ones round inputs with a stored step
(PyTorch's `_int_mm`, OpenVINO) or with one for each call (ONNX Runtime). All sides answer in turn, in a random order.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.peers.common import RESULTS, machine, ratios, write
from benchmarks.peers.int8 import interleaved
from bertcompress.encoder.quantized import static_linear

ROWS, ROUNDS, GROUP, LAYERS = (1, 16, 128, 1024), 60, 32, 6
STEP = 4.0 / 127  # of inputs, which are about standard normal
Weights = list[npt.NDArray[np.float32]]
Run = Callable[[Any], Any]


def drawn_weights() -> Weights:
    """Return maps (out, in) that keep the size of what goes through."""
    random, sizes = np.random.default_rng(0), (384, 1536)
    shapes = [(sizes[1 - place % 2], sizes[place % 2]) for place in range(2 * LAYERS)]
    return [(random.normal(size=shape) / shape[1] ** 0.5).astype(np.float32) for shape in shapes]


def four_bits(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return codes 1 to 15, of which 8 is zero, (out, in), and a step for each group of inputs, (out, groups)."""
    groups = weight.reshape(len(weight), -1, GROUP)
    step = np.abs(groups).max(-1, keepdims=True) / 7
    return (np.rint(groups / step) + 8).astype(np.uint8).reshape(weight.shape), step[..., 0].astype(np.float32)


def eight_bits(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return codes (out, in) and a step for each output."""
    step = np.abs(weight).max(-1) / 127
    return np.rint(weight / step[:, None]).astype(np.int8), step.astype(np.float32)


def torch_sides(weights: Weights) -> dict[str, Run]:
    """Return PyTorch's products: float32, bfloat16, 8 and 4 bits."""
    floats = [torch.from_numpy(each) for each in weights]
    halves = [each.bfloat16() for each in floats]
    codes = [[torch.from_numpy(part) for part in eight_bits(each)] for each in weights]
    packed, scales = [], []
    for each in weights:
        values, steps = four_bits(each)
        packed.append(torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(values.astype(np.int32)), 1))
        pair = torch.from_numpy(np.stack([steps, np.zeros_like(steps)], -1)).bfloat16()  # (out, groups, 2)
        scales.append(pair.transpose(0, 1).contiguous())
    bias = {len(each): torch.zeros(len(each)) for each in weights}
    step = torch.tensor([STEP])

    def chain(product: Callable[[torch.Tensor, int], torch.Tensor], kind: torch.dtype = torch.float32) -> Run:
        def run(rows: npt.NDArray[np.float32]) -> torch.Tensor:
            found = torch.from_numpy(rows).to(kind)
            for place in range(len(weights)):
                found = product(found, place)
            return found

        return torch.inference_mode()(run)

    return {
        "torch fp32": chain(lambda rows, place: rows @ floats[place].t()),
        "torch bf16": chain(lambda rows, place: rows @ halves[place].t(), torch.bfloat16),
        "torch 8 bits": chain(lambda rows, place: static_linear(rows, *codes[place], bias[len(weights[place])], step)),
        "torch 4 bits": chain(
            lambda rows, place: torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed[place], GROUP, scales[place]),
            torch.bfloat16,
        ),
    }


def onnx_session(nodes: list[Any], constants: list[Any], threads: int, domains: list[tuple[str, int]]) -> Run:
    """Return what runs a chain of ONNX nodes from `x0` to `y`."""
    import onnx
    import onnxruntime

    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", 384])] for name in ("x0", "y")
    )
    graph = onnx.helper.make_graph(nodes, "chain", inputs, outputs, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(*each) for each in domains])
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"x0": rows})[0]


def onnx_sides(weights: Weights, threads: int) -> dict[str, Run]:
    """Return ONNX Runtime's products: dynamic 8 bits, and 4 bits with float or integer arithmetic."""
    from onnx import helper, numpy_helper

    names = [f"x{place}" for place in range(len(weights))] + ["y"]
    nodes, constants = [], []
    for place, each in enumerate(weights):
        codes, step = eight_bits(each)
        parts = {"c": np.ascontiguousarray(codes.T), "s": step, "z": np.zeros(len(step), np.int8)}
        constants += [numpy_helper.from_array(value, f"{name}{place}") for name, value in parts.items()]
        given = [names[place], *(f"{name}{place}" for name in parts)]
        nodes.append(helper.make_node("DynamicQuantizeMatMul", given, [names[place + 1]], domain="com.microsoft"))
    domains = [("", 21), ("com.microsoft", 1)]
    sides = {"onnxruntime 8 bits": onnx_session(nodes, constants, threads, domains)}
    for level, arithmetic in ((1, "floats"), (4, "integers")):
        nodes, constants = [], []
        for place, each in enumerate(weights):
            codes, steps = four_bits(each)
            pairs = codes.reshape(len(codes), -1, GROUP // 2, 2)
            constants.append(numpy_helper.from_array(pairs[..., 0] | pairs[..., 1] << 4, f"c{place}"))
            constants.append(numpy_helper.from_array(steps.reshape(-1), f"s{place}"))
            sizes = {"K": each.shape[1], "N": each.shape[0], "bits": 4, "block_size": GROUP, "accuracy_level": level}
            given = [names[place], f"c{place}", f"s{place}"]
            node = helper.make_node("MatMulNBits", given, [names[place + 1]], domain="com.microsoft", **sizes)
            nodes.append(node)
        sides[f"onnxruntime 4 bits, {arithmetic}"] = onnx_session(nodes, constants, threads, domains)
    return sides


def openvino_sides(weights: Weights, threads: int) -> dict[str, Run]:
    """Return OpenVINO's products: 8 bits with stored steps, and 4 bits with float or integer arithmetic."""
    import openvino

    from bertcompress.encoder.bits import CodeRange
    from bertcompress.export.graph import Codes, Inputs
    from bertcompress.export.openvino import OpenvinoGraph

    graph, kept = OpenvinoGraph(), []  # constants do not copy what they are made of
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}

    def compiled(product: Callable[[Any, npt.NDArray[np.float32]], Any], **more: Any) -> Run:
        given = graph.ops.parameter([-1, 384], np.float32)
        found = given
        for each in weights:
            found = product(found, each)
        request = openvino.compile_model(openvino.Model([found], [given]), "CPU", {**settings, **more})
        infer = request.create_infer_request()
        return lambda rows, _=kept: infer.infer([rows], share_inputs=True)[0]

    def eight(values: Any, weight: npt.NDArray[np.float32]) -> Any:
        bias = np.zeros(len(weight), np.float32)
        return graph.quantized_linear(values, Codes(*eight_bits(weight)), bias, Inputs(CodeRange(-127, 127), STEP))

    def four(values: Any, weight: npt.NDArray[np.float32]) -> Any:
        codes, steps = four_bits(weight)
        shape = [len(weight), weight.shape[1] // GROUP, GROUP]
        kept.append(codes.reshape(-1)[::2] | codes.reshape(-1)[1::2] << 4)
        stored = openvino.Tensor(kept[-1], shape, openvino.Type.u4)
        centred = graph.ops.subtract(graph.ops.convert(graph.ops.constant(stored), "f32"), np.float32(8))
        whole = graph.ops.reshape(graph.ops.multiply(centred, steps[..., None]), list(weight.shape), False)
        return graph.ops.matmul(values, whole, False, True)

    return {
        "openvino 8 bits": compiled(eight),
        "openvino 4 bits, floats": compiled(four, DYNAMIC_QUANTIZATION_GROUP_SIZE=0),
        "openvino 4 bits, integers": compiled(four, DYNAMIC_QUANTIZATION_GROUP_SIZE=GROUP),
    }


def errors(sides: dict[str, Run]) -> dict[str, float]:
    """Return how far each side is from float32, as a share of the size of its answer."""
    rows = np.random.default_rng(1).normal(size=(64, 384)).astype(np.float32)
    answers = {name: np.asarray(torch.as_tensor(run(rows)).float()) for name, run in sides.items()}
    expected = answers["torch fp32"]
    return {name: float(np.linalg.norm(each - expected) / np.linalg.norm(expected)) for name, each in answers.items()}


def all_sides(threads: int) -> dict[str, Run]:
    """Return everyone's products."""
    weights = drawn_weights()
    return torch_sides(weights) | onnx_sides(weights, threads) | openvino_sides(weights, threads)


def timed(sides: dict[str, Run], rows: int, rounds: int) -> dict[str, Any]:
    """Return milliseconds, and how many times as fast the best product of 4 bits is as the best of 8."""
    batch = {"rows": np.random.default_rng(1).normal(size=(rows, 384)).astype(np.float32)}
    calls: dict[str, Any] = {name: (lambda given, run=run: run(given["rows"])) for name, run in sides.items()}
    seconds = dict(zip(sides, interleaved(calls, batch, rounds).T, strict=True))
    medians = {name: float(np.median(each)) for name, each in seconds.items()}
    best4, best8 = (min((n for n in sides if f"{bits} bits" in n), key=medians.__getitem__) for bits in (4, 8))
    return {
        "rows": rows,
        "ms": {name: 1000 * each for name, each in medians.items()},
        "best_8_bits": best8,
        "best_4_bits": best4,
        "4_over_8_bits": ratios(1 / seconds[best4], 1 / seconds[best8]),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.low_bits", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1, help="with more, idle runtimes take turns in waiting busily")
    parser.add_argument("--output", type=Path, default=RESULTS / "low_bits.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    about, sides, found = machine(), all_sides(options.threads), []
    for rows in ROWS:
        row = timed(sides, rows, options.rounds)
        found.append(row)
        ratio = row["4_over_8_bits"]["median"]
        print(f"{rows} rows: {row['best_4_bits']} is {ratio:.2f} times as fast as {row['best_8_bits']}")
        print("   ", ", ".join(f"{name} {value:.2f} ms" for name, value in row["ms"].items()), flush=True)
    settings = {"rounds": options.rounds, "threads": options.threads, "group": GROUP}
    far = errors(sides)
    print("relative error:", {name: round(value, 4) for name, value in far.items()})
    result = {"benchmark": "low_bits", "machine": about, "settings": settings, "relative_error": far, "sizes": found}
    write(options.output, result)
    return result


if __name__ == "__main__":
    main()
