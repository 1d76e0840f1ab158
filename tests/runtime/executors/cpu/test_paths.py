"""The library is built once, where it can be, for the fastest path that there is."""

from pathlib import Path

import pytest

from compiler.errors import TargetError
from runtime.executors.cpu import build, paths
from runtime.executors.cpu.library import Library
from runtime.executors.cpu.paths import PATHS, VARIABLE, available_paths, chosen_path

PLAIN = PATHS[-1]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The paths that are built, in order; nothing is there yet, and a compiler is, which makes empty files."""
    made: list[str] = []

    def make(compiler: object, path: paths.CpuPath, file: Path) -> None:
        made.append(path.name)
        file.touch()

    monkeypatch.setenv(build.FOLDER, str(tmp_path / "libraries"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(build, "_build", make)
    monkeypatch.setattr(build, "find_compiler", lambda: ("c++",))
    return made


def test_a_library_is_built_once_and_then_needs_no_compiler(
    built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not build.is_built(PLAIN) and build.why_no_library(PLAIN) == ""
    file = build.library_file(PLAIN)
    assert file.parent == tmp_path / "libraries" and built == ["plain"]
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    assert build.library_file(PLAIN) == file and built == ["plain"]
    assert build.why_no_library(PLAIN) == ""


def test_where_there_is_neither_that_is_said_with_the_mend(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    with pytest.raises(TargetError, match=r"are not built, and there is no C\+\+ compiler") as error:
        build.library_file(PLAIN)
    assert 'pip install "llmc[cpu]"' in str(error.value.hint) and "--executor torch" in str(error.value.hint)
    monkeypatch.setattr("runtime.executors.cpu.build.sys.platform", "darwin")
    assert build.why_no_library(PLAIN) == "the CPU kernels run on Linux only"


def test_where_nothing_can_be_stored_that_is_said(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.executors.cpu.build.os.access", lambda place, mode: False)
    with pytest.raises(TargetError, match=r"are not built, and cannot be stored in .*libraries") as error:
        build.library_file(PLAIN)
    assert "LLMC_CPU_LIBRARIES" in str(error.value.hint) and built == []


def test_a_file_that_is_no_library(built: list[str]) -> None:
    with pytest.raises(TargetError, match=r"the CPU kernels cannot be loaded: .*file too short") as error:
        Library(PLAIN)
    assert "LLMC_CPU_LIBRARIES" in str(error.value.hint)


def test_an_old_compiler_builds_what_it_knows(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_is_known", lambda flags: not flags)
    assert build.built_path() is PLAIN
    monkeypatch.setenv(VARIABLE, available_paths()[0].name)  # who names a path gets it, or the compiler's words
    assert build.built_path() is available_paths()[0]


def test_paths_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "plane")
    with pytest.raises(TargetError, match=r"LLMC_CPU_PATH is 'plane', which is no path .*; did you mean 'plain'"):
        chosen_path()
    monkeypatch.setattr(paths, "available_paths", lambda: (PLAIN,))
    monkeypatch.setattr(paths, "_features", lambda: frozenset({"avx2", "fma"}))
    monkeypatch.setenv(VARIABLE, "avx2")
    with pytest.raises(TargetError, match="LLMC_CPU_PATH is avx2, but this CPU lacks bmi2, f16c"):
        chosen_path()
