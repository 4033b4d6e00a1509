from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bertcompress.evaluation import hardware

X86 = (
    "processor\t: 0\nmodel name\t: A Chip 9000\n"
    "flags\t\t: fpu smep sse4_2 avx avx2 fma avx512_vnni amx_int8 lahf_lm\n\nprocessor\t: 1\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd aes asimddp sve i8mm bf16 sme\n"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo, which only Linux has")


@linux_only
@pytest.mark.parametrize(
    ("text", "flags", "name"),
    [
        (X86, ["amx_int8", "avx", "avx2", "avx512_vnni", "fma", "sse4_2"], "A Chip 9000"),
        (ARM, ["asimd", "asimddp", "bf16", "i8mm", "sme", "sve"], None),
        ("", ["unknown"], None),
    ],
)
def test_flags_are_read_from_cpuinfo(tmp_path: Path, text: str, flags: list[str], name: str | None) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert hardware.isa_flags(path) == flags
    assert name is None or hardware.cpu_name(path) == name


def test_a_machine_that_says_nothing_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "somewhere")
    assert hardware.isa_flags(tmp_path / "none") == ["unknown"]


def test_macos_is_asked_through_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        ("hw.optional",): "hw.optional.neon: 1\nhw.optional.arm.FEAT_I8MM: 1\nhw.optional.arm.FEAT_SME: 0\n",
        ("-n", "machdep.cpu.brand_string"): "Apple M9\n",
    }
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(hardware, "_sysctl", lambda *arguments: answers.get(arguments, ""))
    assert hardware.isa_flags() == ["feat_i8mm", "neon"]
    assert hardware.cpu_name() == "Apple M9"


def test_the_description_is_plain_json() -> None:
    found = json.loads(json.dumps(hardware.describe_hardware()))
    assert found["cores"] >= 1
    assert found["threads"] >= 1
    assert found["isa"]
    assert found["torch_cpu_capability"]
