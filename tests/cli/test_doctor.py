from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bertcompress import cli, doctor
from bertcompress.doctor import Finding, examine


@pytest.fixture(autouse=True)
def _a_clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BERTCOMPRESS_DATA", raising=False)
    monkeypatch.setenv("BERTCOMPRESS_CACHE", str(tmp_path / "cache"))


def findings() -> dict[str, Finding]:
    return {finding.name: finding for finding in examine()}


def test_this_installation_works_and_nothing_is_created(tmp_path: Path) -> None:
    found = findings()
    assert not any(finding.broken for finding in found.values())
    assert found["torch"].found.startswith("2.")
    assert f"{sys.version_info.major}.{sys.version_info.minor}." in found["python"].found
    assert str(tmp_path / "cache") in found["cache"].found
    assert list(tmp_path.iterdir()) == []


def test_the_data_folder_is_shown_or_hinted_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "BERTCOMPRESS_DATA" in findings()["data folder"].hint
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(tmp_path))
    assert findings()["data folder"] == Finding("data folder", str(tmp_path))
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(tmp_path / "nowhere"))
    assert findings()["data folder"].broken


def test_a_cache_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BERTCOMPRESS_CACHE", str(tmp_path / "file" / "cache"))
    assert findings()["cache"].broken


def test_a_full_disk_is_hinted_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_SPACE", 1 << 62)
    assert "make room" in findings()["cache"].hint


@pytest.mark.parametrize(
    ("flags", "bf16", "int8"),
    [
        (["avx2"], "none", "none"),
        (["avx512_bf16", "avx512_vnni"], "native", "native"),
        (["avx_vnni"], "none", "native"),
        (["bf16", "asimd", "i8mm"], "native", "native"),
    ],
)
def test_what_the_processor_lacks_is_hinted_at(
    flags: list[str], bf16: str, int8: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertcompress.evaluation.hardware.isa_flags", lambda: flags)
    found = findings()
    assert (found["bf16"].found, found["int8 dot products"].found) == (bf16, int8)
    assert bool(found["bf16"].hint) == (bf16 == "none")
    assert bool(found["int8 dot products"].hint) == (int8 == "none")


def test_an_unknown_processor_claims_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertcompress.evaluation.hardware.isa_flags", lambda: ["unknown"])
    assert "bf16" not in findings()


def test_a_missing_library_is_broken_and_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LIBRARIES", ("torch", "no-such-library-anywhere"))
    assert findings()["no-such-library-anywhere"] == Finding(
        "no-such-library-anywhere", "missing", "pip install no-such-library-anywhere", broken=True
    )


def test_a_torch_that_does_not_load_is_reported_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bertcompress.evaluation.hardware", None)
    monkeypatch.delattr("bertcompress.evaluation.hardware", raising=False)
    assert findings()["torch loads"].broken


def test_a_missing_pip_is_no_defect_but_worth_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    pip = findings()["pip"]
    assert (pip.found, pip.broken) == ("missing", False)
    assert "ensurepip" in pip.hint


def test_the_command_marks_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        Finding("good", "1.0"),
        Finding("odd", "none", "do this"),
        Finding("bad", "missing", "install it", broken=True),
    )
    monkeypatch.setattr(doctor, "examine", lambda: lines)
    found = CliRunner().invoke(cli.app, ["doctor"])
    assert found.exit_code == 1
    assert [line.split() for line in found.output.splitlines()] == [
        ["+", "good", "1.0"],
        ["!", "odd", "none"],
        ["->", "do", "this"],
        ["x", "bad", "missing"],
        ["->", "install", "it"],
    ]
