"""Ways to run one fine-tuned MiniLM in few bits: each writes its files once, and loads them with a number of threads.

python -m benchmarks.peers.int8_sides JOB RESULT    # loads one side in a process of its own, and answers once
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

import bertcompress as bc
from bertcompress.evaluation.memory import peak_mib
from bertcompress.export.graph import INPUTS
from bertcompress.export.sessions import OnnxSession, OpenvinoSession
from bertcompress.training.precision import native_bf16

Batch = Mapping[str, npt.NDArray[np.int64]]
Answer = Callable[[Batch], npt.NDArray[np.float32]]
CALIBRATION = 300  # examples, NNCF's default


def write_sides(teacher: bc.Model, student: bc.Model, task: bc.Task, folder: Path) -> None:
    """Write what each side loads: the peers' versions of the teacher, and our quantized student."""
    teacher.to_bert().save_pretrained(folder / "torch")
    teacher.export(folder / "fp32.onnx")
    teacher.export(folder / "fp32.xml")
    student.save_pretrained(folder / "ours-torch")
    _onnx_dynamic(folder)
    _nncf(teacher, task, folder)


def export_ours(folder: Path) -> None:
    """Export our student, which may have been made by an older exporter's commit."""
    student = bc.Model.from_pretrained(folder / "ours-torch")
    student.export(folder / "ours.onnx")
    student.export(folder / "ours.xml")


def _onnx_dynamic(folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(folder / "fp32.onnx", folder / "dynamic.onnx", weight_type=QuantType.QInt8)


def _nncf(teacher: bc.Model, task: bc.Task, folder: Path) -> None:
    """Quantize with NNCF's post-training defaults for transformers, on examples of the training split."""
    import nncf
    import openvino

    assert task.train is not None
    features = teacher.featurize(task.train.select(range(CALIBRATION)), max_length=128)
    batches = [
        {name: features.collate(np.array([row]))[name].numpy() for name in INPUTS} for row in range(len(features))
    ]
    model = openvino.Core().read_model(folder / "fp32.xml")
    made = nncf.quantize(model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(made, folder / "nncf.xml", compress_to_fp16=False)


def _torch(folder: Path, threads: int, change: Callable[[nn.Module], nn.Module]) -> Answer:
    torch.set_num_threads(threads)
    network = change(AutoModelForSequenceClassification.from_pretrained(folder / "torch").eval())

    def answer(batch: Batch) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return network(**{name: torch.from_numpy(each) for name, each in batch.items()}).logits.float().numpy()

    return answer


def _dynamic(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)


def _onnx(path: Path, threads: int) -> Answer:
    return OnnxSession(path, threads).run


def _openvino(path: Path, threads: int) -> Answer:
    """Load as a user would, with OpenVINO's own choice of precision."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.compile_model(path, "CPU", settings).create_infer_request()
    return lambda batch: request.infer(dict(batch), share_inputs=True)["logits"].copy()


def _ours_torch(folder: Path, threads: int) -> Answer:
    torch.set_num_threads(threads)
    network = bc.Model.from_pretrained(folder / "ours-torch").network

    def answer(batch: Batch) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return network(**{name: torch.from_numpy(each) for name, each in batch.items()}).logits.numpy()

    return answer


SIDES: dict[str, Callable[[Path, int], Answer]] = {
    "torch_fp32": lambda folder, threads: _torch(folder, threads, lambda network: network),
    "torch_bf16": lambda folder, threads: _torch(folder, threads, lambda network: network.to(torch.bfloat16)),
    "torch_dynamic_int8": lambda folder, threads: _torch(folder, threads, _dynamic),
    "onnxruntime_dynamic_int8": lambda folder, threads: _onnx(folder / "dynamic.onnx", threads),
    "openvino_nncf_int8": lambda folder, threads: _openvino(folder / "nncf.xml", threads),
    "ours_torch": _ours_torch,
    "ours_onnx": lambda folder, threads: _onnx(folder / "ours.onnx", threads),
    "ours_openvino": lambda folder, threads: OpenvinoSession(folder / "ours.xml", threads).run,
    "ours_openvino_bf16": lambda folder, threads: OpenvinoSession(folder / "ours.xml", threads, "bf16").run,
}
if not native_bf16("cpu"):
    del SIDES["ours_openvino_bf16"]  # refused there
FILES = {
    "torch_fp32": ["torch/model.safetensors"],
    "onnxruntime_dynamic_int8": ["dynamic.onnx"],
    "openvino_nncf_int8": ["nncf.xml", "nncf.bin"],
    "ours_torch": ["ours-torch/model.safetensors"],
    "ours_onnx": ["ours.onnx"],
    "ours_openvino": ["ours.xml", "ours.bin"],
    "ours_openvino_bf16": ["ours.xml", "ours.bin"],
}


def size_of(side: str, folder: Path) -> int | None:
    """Return the bytes of a side's files; None where it makes its weights anew when it loads."""
    return sum((folder / file).stat().st_size for file in FILES[side]) if side in FILES else None


@dataclass(frozen=True)
class Start:
    """What a process of its own loads: a side, from a folder, with a number of threads."""

    side: str
    folder: str
    threads: int


def cold_start(job: Start) -> dict[str, float]:
    """Load a side and answer once; return the seconds from its imports to the answer, and the largest memory."""
    batch = {name: np.ones((1, 16), np.int64) for name in INPUTS}
    libraries, began = peak_mib(), time.perf_counter()
    SIDES[job.side](Path(job.folder), job.threads)(batch)
    return {"seconds": time.perf_counter() - began, "peak_mib": peak_mib(), "peak_of_imports_mib": libraries}


def main(arguments: list[str]) -> None:
    """Do one job and write what was found."""
    job, result = arguments
    Path(result).write_text(json.dumps(cold_start(Start(**json.loads(job)))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
