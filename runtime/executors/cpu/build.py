"""Building the library of kernels: once for each path that is used, by whatever compiler is there.

The sources come with the package. What is built lies in the cache folder under a name made of the sources, the flags
and the system, so that neither an update nor another CPU ever runs a library that was not made for it, and a folder
that several machines share holds one for each. No wheel has to be built for each platform therefore. Once a library is
built, no compiler is needed any more.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from compiler.cache import cache_folder
from compiler.errors import TargetError
from runtime.executors.cpu.paths import VARIABLE, CpuPath, available_paths, chosen_path

FOLDER = "LLMC_CPU_LIBRARIES"
"""The environment variable that names another folder for libraries than the cache folder."""
SOURCES = Path(__file__).parent / "native"
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fno-math-errno",
    "-fno-exceptions",
    "-fno-rtti",
    "-fvisibility=default",
    "-pthread",
)
_COMPILERS = ("c++", "g++", "clang++")
_LONGEST = 300
"""The seconds that compiling a file may take."""


@cache
def find_compiler() -> tuple[str, ...] | None:
    """The command of a C++ compiler: one of the system, or that of the package `ziglang`; None if there is none."""
    for name in _COMPILERS:
        if (path := shutil.which(name)) and _runs([path, "--version"]):
            return (path,)
    if find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline")  # by itself it takes all that this CPU has
    return None


def built_path() -> CpuPath:
    """The path to run: the one that is asked for; else the fastest of this CPU that is built, or can be.

    A compiler may be too old for the newest instructions. If nothing can be built, it is the fastest of all.

    Raises:
        TargetError: as `chosen_path` does.
    """
    first = chosen_path()
    if os.environ.get(VARIABLE):
        return first
    return next((path for path in available_paths() if is_built(path) or _is_known(path.flags)), first)


def why_no_library(path: CpuPath) -> str:
    """Why there is no library for a path and none can be built, as a sentence; empty if there can be one."""
    if sys.platform != "linux":
        return "the CPU kernels run on Linux only"
    if is_built(path):
        return ""
    if find_compiler() is None:
        return "the CPU kernels are not built, and there is no C++ compiler to build them with"
    folder = _place(path).parent
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return "" if os.access(there, os.W_OK) else f"the CPU kernels are not built, and cannot be stored in {folder}"


def is_built(path: CpuPath) -> bool:
    """Whether the library for a path is there."""
    return _place(path).exists()


def library_file(path: CpuPath) -> Path:
    """The library for a path, built if it is not there yet, which takes up to a minute.

    Raises:
        TargetError: if there is no compiler, it fails, or the library cannot be stored.
    """
    file, compiler = _place(path), find_compiler()
    if file.exists():
        return file
    if compiler is None or why_no_library(path):
        raise TargetError(
            why_no_library(path),
            hint='install a compiler (g++ or clang++), or pip install "llmc[cpu]", which brings one; or use '
            "--executor torch"
            if compiler is None
            else f"set {FOLDER} to a folder that can be written, or use --executor torch",
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of processes that start together, one builds
            if not file.exists():
                _build(compiler, path, file)
    except OSError as error:
        raise TargetError(f"the CPU kernels cannot be stored in {file.parent}: {error.strerror or error}") from error
    return file


def _place(path: CpuPath) -> Path:
    folder = os.environ.get(FOLDER)
    return (Path(folder) if folder else cache_folder()) / f"cpu-{path.name}-{_digest(path)}.so"


def _build(compiler: Sequence[str], path: CpuPath, file: Path) -> None:
    flags = [*_FLAGS, *path.flags]
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        sources = sorted(SOURCES.glob("*.cpp"))
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        with ThreadPoolExecutor() as workers:
            commands = [
                [*compiler, *flags, "-c", str(source), "-o", str(made)]
                for source, made in zip(sources, objects, strict=True)
            ]
            list(workers.map(_compile, commands))
        made = Path(folder) / "library.so"
        _compile([*compiler, "-shared", "-pthread", *map(str, objects), "-o", str(made)])
        made.rename(file)


def _compile(command: Sequence[str]) -> None:
    """TargetError with the compiler's words if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        raise TargetError(f"{command[0]} took more than {_LONGEST} s to build the CPU kernels") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise TargetError(
            f"{' '.join(command[:1])} cannot build the CPU kernels: {said[0] if said else 'it says nothing'}",
            hint="use --executor torch, or another compiler",
        )


@cache
def _digest(path: CpuPath) -> str:
    """What names a library: everything that it is made of, and the system that it is made for."""
    made_for = (platform.machine(), platform.libc_ver())
    digest = hashlib.sha256(repr((_FLAGS, path.flags, made_for)).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:24]


@cache
def _is_known(flags: Sequence[str]) -> bool:
    """Whether there is a compiler that knows some flags."""
    compiler = find_compiler()
    return compiler is not None and _runs([*compiler, *_FLAGS, *flags, "-x", "c++", "-fsyntax-only", "/dev/null"])


def _runs(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    try:
        library_file(built_path())
    except TargetError as error:
        sys.exit(f"{error.message}; {error.hint}")
