from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertcompress as bc
from bertcompress.data.base import Task
from bertcompress.errors import ConfigError
from bertcompress.evaluation import memory
from bertcompress.evaluation.evaluate import evaluate
from bertcompress.export import sessions

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")


@linux_only
def test_the_peak_is_that_of_this_process_and_grows() -> None:
    before = memory.peak_mib()
    held = np.ones(int((before + 100) * 2**20), np.uint8)  # more than everything so far, so the peak must move
    after = memory.peak_mib()
    assert after - before > 100
    assert held[0]


@linux_only
def test_a_fresh_process_does_not_inherit_the_peak_of_its_parent() -> None:
    held = np.ones(600 * 2**20, np.uint8)
    code = "from bertcompress.evaluation.memory import peak_mib; import sys; sys.stdout.write(str(peak_mib()))"
    root = Path(memory.__file__).parents[2]
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert float(child.stdout) < 400 < memory.peak_mib()
    assert held[0]


def test_a_platform_that_does_not_tell_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "somewhere")
    assert memory.peak_mib(tmp_path / "none") is None
    (tmp_path / "status").write_text("VmPeak:\t  10 kB\n")
    assert memory.peak_mib(tmp_path / "status") is None
    (tmp_path / "status").write_text("VmPeak:\t  10 kB\nVmHWM:\t  2048 kB\n")
    assert memory.peak_mib(tmp_path / "status") == 2.0


@linux_only
def test_inference_is_measured_in_a_process_of_its_own(task: Task, tiny: Callable[..., object], tmp_path: Path) -> None:
    tiny(task).save_pretrained(tmp_path / "small")
    found = memory.measure_peak_memory(tmp_path / "small", task.test, examples=20)
    assert found["memory_examples"] == 20
    assert 50 < found["libraries_memory_mib"] <= found["peak_memory_mib"] < 2000


def test_an_exported_file_is_measured_in_the_precision_that_it_is_evaluated_in(
    task: Task, tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    tiny(task).export(tmp_path / "m.xml")
    monkeypatch.setitem(sessions.PRECISIONS, "bf16", "f32")  # which a processor without it has instead
    asked = {}

    def remember(request: Path, answer: Path) -> str:
        asked.update(json.loads(request.read_text()))
        return "not run"

    monkeypatch.setattr(memory, "_run_child", remember)
    exported = bc.runtime.load(tmp_path / "m.xml", task)
    exported.runtime_network.precision = "bf16"
    evaluate(exported, task, metrics=["efficiency"])
    assert asked["precision"] == "bf16"
    (tmp_path / "request").write_text(json.dumps({**asked, "folder": str(tmp_path / "m.xml")}))
    with pytest.raises(ConfigError, match="precision: got 'bf16'"):  # so it is what is loaded
        memory._answer(tmp_path / "request", tmp_path / "answer")


def test_a_failure_is_reported_with_its_reason_and_not_raised(
    task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = memory.measure_peak_memory(tmp_path / "nothing", task.test)
    assert found["peak_memory_mib"] is None
    assert found["memory_examples"] == 0
    assert "ended with 1" in found["memory_reason"]
    assert "Peak memory was not measured" in caplog.text
