"""What runs an exported file: ONNX Runtime or OpenVINO, on the CPU, with as many threads as torch has."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bertcompress.encoder.kernels import exact_int8
from bertcompress.errors import CheckpointError, ConfigError
from bertcompress.export.installed import require
from bertcompress.export.onnx import INTEGER_PRODUCT
from bertcompress.export.openvino import FACTS

Batch = Mapping[str, npt.NDArray[np.int64]]
SUFFIXES = {".onnx": "onnx", ".xml": "openvino"}
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # of the floats between integer products -> OpenVINO's names
NO_BF16 = "precision: got 'bf16', which OpenVINO does not compute in on this processor; use 'fp32'."
ERRORS_ONLY = 3  # of ONNX Runtime's messages; it warns of machines whose devices it cannot list


class Session(Protocol):
    """A loaded file."""

    name: str
    version: str

    def facts(self) -> dict[str, str]:
        """Return what the file keeps beside the graph."""

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Return the logits of a batch."""

    def kernels(self) -> dict[str, int]:
        """Return how often each kind of kernel is in the graph that is executed."""

    def integer_products(self) -> int:
        """Return how many products with weights are executed in integers; attention's own do not count."""


class OnnxSession:
    """A file in ONNX Runtime."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int, precision: str = "fp32") -> None:
        """Load a file.

        Raises:
            ConfigError: onnxruntime is not installed, or another precision than fp32 is asked for.
            CheckpointError: the file is none, or damaged.
        """
        check_precision("onnx", precision)
        self._runtime = require("onnxruntime", "onnx")
        self.version, self._path = str(self._runtime.__version__), path
        self._session = self._load(self._options(threads))

    def _options(self, threads: int) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = ERRORS_ONLY
        if not exact_int8():
            # Sums of two products would be cut off at 16 bits.
            options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    def _load(self, options: Any) -> Any:
        try:
            return self._runtime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own kinds of errors have no common base
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise CheckpointError(f"{self._path}: ONNX Runtime cannot load it: {error}") from error

    def facts(self) -> dict[str, str]:
        """Return what the file keeps beside the graph."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Return the logits of a batch."""
        found: npt.NDArray[np.float32] = self._session.run(["logits"], dict(batch))[0]
        return found

    def _optimized(self) -> Any:
        """Return the graph as ONNX Runtime has optimized it."""
        onnx = require("onnx", "onnx")
        with tempfile.TemporaryDirectory(prefix="bertcompress-") as folder:
            options = self._options(1)
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            self._load(options)
            return onnx.load(options.optimized_model_filepath).graph

    def kernels(self) -> dict[str, int]:
        """Return how often each operator is in the graph that is executed."""
        return dict(Counter(node.op_type for node in self._optimized().node))

    def integer_products(self) -> int:
        """Return how many products with weights are executed in integers; attention's own do not count."""
        graph = self._optimized()
        weights = {each.name for each in graph.initializer}
        return sum(node.op_type == INTEGER_PRODUCT and node.input[1] in weights for node in graph.node)


class OpenvinoSession:
    """A file in OpenVINO."""

    name = "openvino"

    def __init__(self, path: Path, threads: int, precision: str = "fp32") -> None:
        """Load a file.

        Raises:
            ConfigError: openvino is not installed, or the processor does not compute in that precision.
            CheckpointError: the file is none, or damaged.
        """
        openvino = require("openvino", "openvino")
        check_precision("openvino", precision)
        self.version = str(openvino.__version__).split("-")[0]
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise CheckpointError(f"{path}: the weights, {weights.name}, are not beside it; an export is both files.")
        # Said in every case: where the processor has bfloat16, OpenVINO would take that, and change the answers.
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        }
        try:
            self._model = openvino.Core().read_model(path)
            self._compiled = openvino.compile_model(self._model, "CPU", settings)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: OpenVINO cannot load it: {error}") from error
        if precision == "bf16" and self._compiled.get_property("INFERENCE_PRECISION_HINT") != openvino.Type.bf16:
            raise ConfigError(NO_BF16)
        self._request = self._compiled.create_infer_request()

    def facts(self) -> dict[str, str]:
        """Return what the file keeps beside the graph."""
        if not self._model.has_rt_info([FACTS]):
            return {}
        facts = self._model.get_rt_info([FACTS]).astype(dict)
        return {name: str(fact.value) for name, fact in facts.items() if hasattr(fact, "value")}  # else it is damaged

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Return the logits of a batch."""
        found: npt.NDArray[np.float32] = self._request.infer(dict(batch), share_inputs=True)["logits"].copy()
        return found

    def kernels(self) -> dict[str, int]:
        """Return how often each kind of kernel, with its type of numbers, is in the graph that is executed."""
        infos = [node.get_rt_info() for node in self._compiled.get_runtime_model().get_ops()]
        names = [f"{each['layerType'].astype(str)} {each['runtimePrecision'].astype(str)}" for each in infos]
        return dict(Counter(names))

    def integer_products(self) -> int:
        """Return how many products with weights are executed in integers; attention's own do not count."""
        # What goes in tells: a product of codes with floats calls itself i8 as well.
        return sum(
            node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
            and node.input(0).get_element_type().to_string() in ("i8", "u8")
            for node in self._compiled.get_runtime_model().get_ops()
        )


def check_precision(to: str, precision: str) -> None:
    """Refuse a precision of the floats between integer products that a runtime does not compute in, here or at all.

    Raises:
        ConfigError: says which it does.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ConfigError(f"precision: got {precision!r}, allowed are {' and '.join(PRECISIONS)}.")
    if precision == "fp32":
        return
    if to == "onnx":
        raise ConfigError(
            f"precision: got {precision!r}, allowed for ONNX Runtime is 'fp32'; export to OpenVINO (.xml)."
        )
    if precision.upper() not in require("openvino", "openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigError(NO_BF16)


SESSIONS: dict[str, type[OnnxSession] | type[OpenvinoSession]] = {"onnx": OnnxSession, "openvino": OpenvinoSession}


def open_session(path: Path, threads: int, precision: str = "fp32") -> Session:
    """Load an exported file.

    Args:
        path: of the file.
        threads: to compute with.
        precision: of the floats between integer products; one of `PRECISIONS`.

    Raises:
        ConfigError: its name ends otherwise than exports do, its runtime is not installed, or the precision is none
            that it computes in.
        CheckpointError: there is no such file, or it is damaged.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: exported models end in {' or '.join(SUFFIXES)}.")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file.")
    return SESSIONS[SUFFIXES[path.suffix]](path, threads, precision)
