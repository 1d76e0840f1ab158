"""Building the library of kernels: once for each path that is used, by whatever compiler is there.

The sources come with the package. What is built lies in the cache folder under a name made of the sources, the flags
and the compiler, so that neither an update nor another CPU ever runs a library that was not made for it, and a folder
that several machines share holds one for each. No wheel has to be built for each platform therefore.
"""

from __future__ import annotations

import fcntl
import hashlib
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
from runtime.executors.cpu.paths import CpuPath

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
        return (sys.executable, "-m", "ziglang", "c++")
    return None


def library_file(path: CpuPath) -> Path:
    """The library for a path, built if it is not there yet, which takes some seconds.

    Raises:
        TargetError: if there is no compiler, it fails, or the library cannot be stored.
    """
    compiler = find_compiler()
    if compiler is None:
        raise TargetError(
            "the CPU kernels are not built, and there is no C++ compiler to build them with",
            hint='install one (g++ or clang++), or pip install "llmc[cpu]", which brings one',
        )
    file = cache_folder() / f"cpu-{path.name}-{_digest(compiler, path)}.so"
    if file.exists():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of processes that start together, one builds
            if not file.exists():
                _build(compiler, path, file)
    except OSError as error:
        raise TargetError(f"the CPU kernels cannot be stored in {file.parent}: {error.strerror or error}") from error
    return file


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


def _digest(compiler: Sequence[str], path: CpuPath) -> str:
    """What names a library: everything that it is made of."""
    digest = hashlib.sha256(repr((_FLAGS, path.flags, compiler, _version(tuple(compiler)))).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:24]


@cache
def _version(compiler: tuple[str, ...]) -> str:
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True)
    return done.stdout.partition("\n")[0]


def _runs(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False
