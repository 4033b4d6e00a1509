from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from bertcompress.data import sources
from bertcompress.data.sources import Archive, extract, fetch, member_target, open_member, read_nested, resolve_model
from bertcompress.errors import CheckpointError, DataError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BERTCOMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A package that pip finds in a folder, so that the real command runs without an index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    path = folder / "bcfixture-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("bcfixture/data.txt", "hello")
        wheel.writestr("bcfixture-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: bcfixture\nVersion: 1.0\n")
        wheel.writestr(
            "bcfixture-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("bcfixture-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Archive("bcfixture==1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def make_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return path


def test_pip_fetches_a_pinned_file_once(local_index: Archive, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(local_index)
    assert path == cache / "archives" / local_index.filename
    with open_member(path, "bcfixture/data.txt") as file:
        assert file.read() == b"hello"
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, path.name + ".lock"]
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))  # pip would not find it any more
    assert fetch(local_index) == path


def test_a_damaged_copy_is_fetched_anew(local_index: Archive, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = fetch(local_index)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert hashlib.sha256(fetch(local_index).read_bytes()).hexdigest() == local_index.sha256
    assert "damaged or was changed" in caplog.text


def test_pip_refuses_another_file_than_the_pinned_one(local_index: Archive, cache: Path) -> None:
    other = Archive(local_index.requirement, local_index.filename, "0" * 64)
    with pytest.raises(DataError, match="another sha256 than the pinned one"):
        fetch(other)
    assert not (cache / "archives" / other.filename).exists()


def test_a_file_with_a_wrong_hash_is_removed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(archive: Archive, scratch: Path) -> Path:
        path = scratch / archive.filename
        path.write_bytes(b"something else")
        return path

    monkeypatch.setattr(sources, "_download", download)
    with pytest.raises(DataError, match=r"has the sha256 [0-9a-f]{64}, allowed is only 0000.*it was removed"):
        fetch(Archive("thing==1", "thing-1.zip", "0" * 64))
    assert [path.name for path in (cache / "archives").rglob("*")] == ["thing-1.zip.lock"]


def test_a_package_that_is_not_there_is_told_in_one_sentence(local_index: Archive, cache: Path) -> None:
    with pytest.raises(DataError, match=r"nosuch==1: pip could not fetch it: No matching distribution") as caught:
        fetch(Archive("nosuch==1", "nosuch-1.zip", "0" * 64))
    assert "\n" not in str(caught.value)


def test_an_unreachable_index_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(DataError, match=r"the package index cannot be reached; .*put thing-1.zip into .*archives"):
        fetch(Archive("thing==1", "thing-1.zip", "0" * 64))


def test_a_file_put_into_the_cache_by_hand_is_used(cache: Path) -> None:
    path = cache / "archives/thing-1.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"by hand")
    assert fetch(Archive("thing==1", "thing-1.zip", hashlib.sha256(b"by hand").hexdigest())) == path


def test_a_python_without_pip_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="no pip to fetch it with; run `python -m ensurepip`"):
        fetch(Archive("thing==1", "thing-1.zip", "0" * 64))


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BERTCOMPRESS_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set \\$BERTCOMPRESS_CACHE"):
        fetch(Archive("thing==1", "thing-1.zip", "0" * 64))


def test_two_processes_fetch_once(local_index: Archive, cache: Path) -> None:
    program = (
        "import logging, sys; logging.basicConfig(level=logging.INFO)\n"
        "from bertcompress.data.sources import Archive, fetch\n"
        f"print(fetch(Archive({local_index.requirement!r}, {local_index.filename!r}, {local_index.sha256!r})))"
    )
    root = Path(sources.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert [out.strip() for out, _ in ended] == [str(cache / "archives" / local_index.filename)] * 2, ended
    assert sum(errors.count("fetching bcfixture") for _, errors in ended) == 1


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:/evil", "..\\evil", "\\evil", "", "C:evil"])
def test_no_member_leaves_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="leads out of"):
        member_target(tmp_path, name)


def test_no_member_leaves_the_folder_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leads out of"):
        member_target(tmp_path / "inside", "link/evil")
    assert member_target(tmp_path / "inside", "a/b.txt") == tmp_path / "inside/a/b.txt"


def test_an_escaping_member_is_not_extracted(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", good=b"1", **{"..__evil": b"2"})
    with pytest.raises(DataError, match="leads out of"):
        extract(archive, {"good": "good", "../evil": "../evil"}, tmp_path / "cache/made")
    assert list((tmp_path / "cache").iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_extraction_is_complete_or_not_at_all(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", x__one=b"1", x__two=b"2")
    folder = tmp_path / "cache/made"
    with pytest.raises(DataError, match="it has no member 'x/three'"):
        extract(archive, {"x/one": "one", "x/three": "three"}, folder)
    assert not folder.exists()
    extract(archive, {"x/one": "one"}, folder)
    extract(archive, {"x/one": "sub/one", "x/two": "two"}, folder)  # replaces
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == ["sub/one", "two"]
    assert [path.name for path in folder.parent.iterdir()] == ["made"]


def test_nested_archives_are_read_by_name(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        info = tarfile.TarInfo("in/data.txt")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
        link = tarfile.TarInfo("in/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    archive = make_zip(tmp_path / "a.zip", **{"inner.tar.gz": raw.getvalue(), "broken.tar.gz": b"no tar"})
    assert read_nested(archive, "inner.tar.gz", "in/data.txt") == b"hi"
    with pytest.raises(DataError, match="'in/link' is not a regular file"):
        read_nested(archive, "inner.tar.gz", "in/link")
    with pytest.raises(DataError, match="no member 'in/other'"):
        read_nested(archive, "inner.tar.gz", "in/other")
    with pytest.raises(DataError, match="not a readable tar archive"):
        read_nested(archive, "broken.tar.gz", "in/data.txt")
    (tmp_path / "b.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="not a readable zip file"):
        read_nested(tmp_path / "b.zip", "inner.tar.gz", "in/data.txt")


def test_models_are_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(tmp_path / "data"))
    (tmp_path / "data/models/tiny").mkdir(parents=True)
    assert resolve_model("tiny") == tmp_path / "data/models/tiny"
    (tmp_path / "data/tiny").mkdir()
    assert resolve_model("tiny") == tmp_path / "data/tiny"
    (tmp_path / "tiny").mkdir()
    assert resolve_model("tiny") == Path("tiny")
    assert resolve_model(tmp_path / "tiny") == tmp_path / "tiny"
    assert resolve_model("bert-base-uncased") is None
    assert resolve_model("google-bert/bert-base-uncased") is None


def test_paths_that_are_not_there_are_not_hub_names(tmp_path: Path) -> None:
    for name in (tmp_path / "gone", "./gone", "../gone", "~/gone-from-here", str(tmp_path / "gone")):
        with pytest.raises(CheckpointError, match="there is no such folder"):
            resolve_model(name)
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(CheckpointError, match="this is a file"):
        resolve_model(tmp_path / "model.safetensors")


def test_the_cache_is_the_users_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BERTCOMPRESS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert sources.cache_folder() == tmp_path / "bertcompress"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert sources.cache_folder() == tmp_path / "local" / "bertcompress"
