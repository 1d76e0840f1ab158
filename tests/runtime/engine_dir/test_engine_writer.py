"""An engine appears whole or not at all, and nothing else is ever overwritten."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from compiler.errors import EngineError, GraphError
from runtime.engine_dir import atomic_folder as partial
from runtime.engine_dir.engine_folder import open_engine
from runtime.engine_dir.engine_writer import check_place, engine_writer
from tests.paths import ROOT
from tests.runtime.engines import MANIFEST, write_engine

Usage = namedtuple("Usage", "total used free")


def write_half(place: Path, error: BaseException) -> None:
    """Begin an engine, and fail."""
    with engine_writer(place, 123_456) as writer:
        (writer.folder / "rank0.ir").write_text("half")
        raise error


def weights(place: Path) -> bytes:
    return (place / "rank0.safetensors").read_bytes()


def test_an_engine_is_written_and_nothing_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "engine"
    write_engine(place, b"new")
    open_engine(place)
    assert weights(place) == b"new"
    assert os.listdir(place.parent) == ["engine"]


@pytest.mark.parametrize("exchange", [True, False])
def test_an_engine_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(partial, "_exchange", lambda a, b: False)
    write_engine(tmp_path / "engine", b"old")
    write_engine(tmp_path / "engine", b"new")
    assert weights(tmp_path / "engine") == b"new"
    assert os.listdir(tmp_path) == ["engine"]


def test_a_link_to_an_engine_stays_a_link(tmp_path: Path) -> None:
    write_engine(tmp_path / "engine-1", b"old")
    (tmp_path / "current").symlink_to("engine-1")
    write_engine(tmp_path / "current", b"new")
    assert (tmp_path / "current").is_symlink()
    assert weights(tmp_path / "engine-1") == b"new"


def test_an_empty_folder_is_a_place(tmp_path: Path) -> None:
    place = tmp_path / "engine"
    place.mkdir()
    assert check_place(place) == place
    write_engine(place, b"new")
    open_engine(place)
    assert weights(place) == b"new"
    assert os.listdir(tmp_path) == ["engine"]


@pytest.mark.parametrize("content", ["{}", "not JSON", '{"format": "another"}'])
def test_a_folder_that_is_no_engine_is_not_overwritten(tmp_path: Path, content: str) -> None:
    place = tmp_path / "folder"
    place.mkdir()
    (place / "manifest.json").write_text(content)
    with pytest.raises(EngineError, match="is not an llmc engine; it is not overwritten") as raised:
        check_place(place)
    assert "-o DIR" in (raised.value.hint or "")
    assert (place / "manifest.json").read_text() == content


def test_an_engine_with_files_of_the_users_is_not_overwritten(tmp_path: Path) -> None:
    write_engine(tmp_path / "engine")
    (tmp_path / "engine" / "notes.txt").write_text("mine")
    with pytest.raises(EngineError, match=r"holds an engine and also notes\.txt"):
        check_place(tmp_path / "engine")


def test_a_file_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="is a file; an engine is a folder"):
        check_place(tmp_path / "file")
    with pytest.raises(EngineError, match="cannot make the folder"):
        check_place(tmp_path / "file" / "engine")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GraphError("bad"), ValueError("bug")])
def test_failure_leaves_the_old_engine_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    write_engine(tmp_path / "engine", b"old")
    with pytest.raises(type(error)):
        write_half(tmp_path / "engine", error)
    assert os.listdir(tmp_path) == ["engine"]
    assert weights(tmp_path / "engine") == b"old"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_so(tmp_path: Path, number: int, wrapped: bool) -> None:
    error: Exception = OSError(number, os.strerror(number))
    if wrapped:
        error, error.__context__ = GraphError("cannot write rank0.ir"), error
    with pytest.raises(EngineError) as raised:
        write_half(tmp_path / "engine", error)
    assert raised.value.message == (
        f"the disk is full: {tmp_path} has no space for the engine, which needs 123 kB (123,456 bytes)"
    )
    assert "free some space" in (raised.value.hint or "")
    assert os.listdir(tmp_path) == []


def test_other_errors_of_the_disk_are_named(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match=r"cannot write the engine to .*: File too large"),
        engine_writer(tmp_path / "engine", 10),
    ):
        raise OSError(errno.EFBIG, "File too large")
    assert os.listdir(tmp_path) == []


def test_too_little_room_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 10**12 - 5000, 5000))
    message = r"the engine needs 2 GB \(2,000,000,000 bytes\), but .* has 5 kB free"
    with pytest.raises(EngineError, match=message), engine_writer(tmp_path / "engine", 2 * 10**9):
        pytest.fail("the writer was opened")
    assert os.listdir(tmp_path) == []


WRITE_AND_HANG = """
import sys, time
from pathlib import Path
from runtime.engine_dir.engine_writer import check_place, engine_writer
with engine_writer(check_place(Path(sys.argv[1])), 10) as writer:
    (writer.folder / "rank0.ir").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def hanging_writer(place: Path) -> subprocess.Popen[str]:
    """A process that has an engine half written."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_HANG, str(place)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_what_a_killed_process_left_goes_with_the_next_engine(tmp_path: Path) -> None:
    process = hanging_writer(tmp_path / "engine")
    process.kill()
    process.communicate()
    [left] = os.listdir(tmp_path)
    assert left.startswith(".engine.partial-")
    assert "manifest.json" not in os.listdir(tmp_path / left)
    write_engine(tmp_path / "engine")
    assert os.listdir(tmp_path) == ["engine"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    process = hanging_writer(tmp_path / "engine")
    try:
        write_engine(tmp_path / "engine")
        assert len(os.listdir(tmp_path)) == 2
    finally:
        process.kill()
        process.communicate()


def test_where_there_are_no_locks_only_old_folders_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", no_locks)
    for age, name in ((60, "young"), (2 * 24 * 3600, "old")):
        folder = tmp_path / f".engine.partial-{name}"
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    write_engine(tmp_path / "engine")
    assert sorted(os.listdir(tmp_path)) == [".engine.partial-young", "engine"]


def test_other_engines_leftovers_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".other.partial-1").mkdir()
    (tmp_path / ".engine*.partial-1").mkdir()
    write_engine(tmp_path / "engine*")
    assert sorted(os.listdir(tmp_path)) == [".other.partial-1", "engine*"]


def test_the_manifest_lists_every_file(tmp_path: Path) -> None:
    manifest = write_engine(tmp_path / "engine")
    assert {*manifest.files, "manifest.json"} == set(os.listdir(tmp_path / "engine"))
    assert manifest.pipeline == MANIFEST.pipeline
