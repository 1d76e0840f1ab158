"""Which instructions the kernels may use: the paths for which the library can be built, and those of this CPU."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compiler.errors import TargetError
from compiler.suggest import did_you_mean

VARIABLE = "LLMC_CPU_PATH"
"""The environment variable that forces a path."""
_CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class CpuPath:
    """Instructions that the library may be built for.

    Attributes:
        name: how users call it.
        needs: the features that a CPU must have, as Linux spells them.
        flags: what tells a compiler.
    """

    name: str
    needs: frozenset[str]
    flags: tuple[str, ...]


def _path(name: str, needs: str, flags: str) -> CpuPath:
    return CpuPath(name, frozenset(needs.split()), tuple(f"-m{flag}" for flag in flags.split()))


_AVX2 = ("avx2 fma f16c bmi2", "avx2 fma f16c bmi2")
_AVX512 = (f"{_AVX2[0]} avx512f avx512bw avx512dq avx512vl", f"{_AVX2[1]} avx512f avx512bw avx512dq avx512vl")

PATHS = (
    _path("avx512-vnni", f"{_AVX512[0]} avx512_vnni avx512_bf16", f"{_AVX512[1]} avx512vnni avx512bf16"),
    _path("avx512", *_AVX512),
    _path("avx2-vnni", f"{_AVX2[0]} avx_vnni", f"{_AVX2[1]} avxvnni"),
    _path("avx2", *_AVX2),
    CpuPath("plain", frozenset(), ()),
)
"""The paths, the fastest first. `plain` is C without instructions of its own, which every CPU runs."""


@cache
def available_paths() -> tuple[CpuPath, ...]:
    """The paths that this CPU has, the fastest first."""
    features = _features() if platform.machine() in ("x86_64", "AMD64") else frozenset()
    return tuple(path for path in PATHS if path.needs <= features)


def chosen_path() -> CpuPath:
    """The fastest path of this CPU, or the one that the environment variable `LLMC_CPU_PATH` names.

    Raises:
        TargetError: if the variable names no path, or one that this CPU has not.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return available_paths()[0]
    found = next((path for path in PATHS if path.name == name), None)
    names = [path.name for path in available_paths()]
    if found is None:
        raise TargetError(
            f"{VARIABLE} is {name!r}, which is no path of the CPU kernels{did_you_mean(name, names)}",
            hint=f"set it to one of {', '.join(names)}, or not at all",
        )
    if found not in available_paths():
        lacking = ", ".join(sorted(found.needs - _features()))
        raise TargetError(
            f"{VARIABLE} is {name}, but this CPU lacks {lacking}", hint=f"set it to one of {', '.join(names)}"
        )
    return found


@cache
def _features() -> frozenset[str]:
    """What the CPU can do; nothing if the system does not say."""
    try:
        lines = _CPU_FACTS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())
