"""Building the library of kernels, with whatever compiler there is. What is built here is a small function."""

import ctypes
import os
import shutil
import sys
from pathlib import Path

import pytest

from compiler.errors import TargetError
from runtime.executors.cpu import build
from runtime.executors.cpu.paths import CpuPath

PLAIN = CpuPath("small", frozenset(), ())
SOURCE = 'extern "C" int llmc_answer() { return 42; }\n'
ZIGLANG = """
import os, sys
os.environ["PATH"] = {path!r}
open({log!r}, "a").write(" ".join(sys.argv[1:]) + chr(10))
os.execv({compiler!r}, [{compiler!r}, *(each for each in sys.argv[2:] if each != "-mcpu=baseline")])
"""


@pytest.fixture(scope="session")
def compiler():
    """A compiler of the system's, looked for before any test hides it."""
    found = shutil.which("c++")
    if found is None:
        pytest.skip("needs a C++ compiler")
    return found


@pytest.fixture(autouse=True)
def sources(tmp_path, monkeypatch):
    """Sources of a small library, which is stored in a folder of its own; and no program can be found."""
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "answer.cpp").write_text(SOURCE)
    monkeypatch.setattr(build, "SOURCES", folder)
    monkeypatch.setenv(build.FOLDER, str(tmp_path / "libraries"))
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    (tmp_path / "programs").mkdir()
    forget()
    yield folder
    forget()


def forget():
    for each in (build.find_compiler, build._digest):
        each.cache_clear()


def add_program(folder: Path, name: str, text: str) -> Path:
    file = folder / "programs" / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def add_ziglang(folder: Path, monkeypatch, compiler: str) -> Path:
    """A package `ziglang` that calls a compiler of the system's; returns where it notes what it is called with."""
    package, log = folder / "packages" / "ziglang", folder / "calls.txt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    text = ZIGLANG.format(log=str(log), compiler=compiler, path=os.defpath)
    (package / "__main__.py").write_text(text)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return log


def answer(file: Path) -> int:
    return int(ctypes.CDLL(str(file)).llmc_answer())


def without_ziglang(monkeypatch):
    monkeypatch.setattr(build, "find_spec", lambda name: None)


def test_where_the_system_has_no_compiler_that_of_a_package_builds(tmp_path, monkeypatch, compiler):
    log = add_ziglang(tmp_path, monkeypatch, compiler)
    assert build.find_compiler() == (sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline")
    assert answer(build.library_file(PLAIN)) == 42
    calls = log.read_text().splitlines()
    assert len(calls) == 2  # a file is compiled, and the library linked
    assert all(call.startswith("c++ -mcpu=baseline ") for call in calls)


def test_a_compiler_of_the_system_comes_first_unless_it_does_not_run(tmp_path, monkeypatch, compiler):
    add_ziglang(tmp_path, monkeypatch, compiler)
    broken = add_program(tmp_path, "c++", "exit 1")
    working = add_program(tmp_path, "clang++", f'PATH={os.defpath} exec {compiler} "$@"')
    assert build.find_compiler() == (str(working),)
    assert answer(build.library_file(PLAIN)) == 42
    broken.write_text("#!/bin/sh\nexit 0\n")
    forget()
    assert build.find_compiler() == (str(broken),)


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch):
    without_ziglang(monkeypatch)
    with pytest.raises(TargetError) as raised:
        build.library_file(PLAIN)
    assert "there is no C++ compiler" in raised.value.message
    assert "llmc[cpu]" in (raised.value.hint or "")


def test_what_is_built_needs_no_compiler_any_more(tmp_path, monkeypatch, compiler):
    add_program(tmp_path, "c++", f'PATH={os.defpath} exec {compiler} "$@"')
    built = build.library_file(PLAIN)
    shutil.rmtree(tmp_path / "programs")
    without_ziglang(monkeypatch)
    forget()
    assert build.library_file(PLAIN) == built


def test_other_sources_and_other_flags_make_another_library(tmp_path, compiler, sources):
    add_program(tmp_path, "c++", f'PATH={os.defpath} exec {compiler} "$@"')
    first = build.library_file(PLAIN)
    forget()
    assert build.library_file(CpuPath("small", frozenset(), ("-DOTHER",))) != first
    (sources / "answer.cpp").write_text(SOURCE.replace("42", "43"))
    forget()
    second = build.library_file(PLAIN)
    assert (answer(first), answer(second)) == (42, 43)


def test_what_the_compiler_refuses_is_an_error_with_its_words_and_leaves_nothing(tmp_path, compiler, sources):
    add_program(tmp_path, "c++", f'PATH={os.defpath} exec {compiler} "$@"')
    (sources / "answer.cpp").write_text("#error no such kernel\n")
    with pytest.raises(TargetError, match="no such kernel"):
        build.library_file(PLAIN)
    assert [file.suffix for file in (tmp_path / "libraries").iterdir()] == [".lock"]
