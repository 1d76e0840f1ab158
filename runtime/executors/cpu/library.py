"""The library of kernels, loaded."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from compiler.errors import TargetError
from runtime.executors.cpu.abi import ProgramStruct
from runtime.executors.cpu.build import FOLDER, built_path, library_file
from runtime.executors.cpu.paths import CpuPath

_PREFIX = "llmc_"


class Library:
    """The kernels for a path.

    Attributes:
        path: the path.
    """

    def __init__(self, path: CpuPath) -> None:
        """Load the library, and build it before if it is not there; TargetError if that cannot be done."""
        self.path = path
        file = library_file(path)
        try:
            self._library = ctypes.CDLL(str(file))
        except OSError as error:
            raise TargetError(
                f"the CPU kernels cannot be loaded: {error}",
                hint=f"set {FOLDER} to a folder whose files may be executed, or use --executor torch",
            ) from None
        self.run = self.function(
            "run",
            ctypes.c_int32,
            ctypes.POINTER(ProgramStruct),
            *[ctypes.c_void_p] * 3,
            ctypes.c_int32,
            ctypes.c_void_p,
        )
        self.arena_bytes = self.function("arena_bytes", ctypes.c_int64, ctypes.POINTER(ProgramStruct), ctypes.c_void_p)

    def function(self, name: str, result: Any, *arguments: Any) -> ctypes._NamedFuncPointer:
        """A function of the library; while it runs, Python's lock is free."""
        function: ctypes._NamedFuncPointer = getattr(self._library, _PREFIX + name)
        function.restype, function.argtypes = result, arguments
        return function

    def kernel(self, name: str) -> int:
        """The address of a kernel; AttributeError if there is none of that name."""
        address = ctypes.cast(getattr(self._library, _PREFIX + name), ctypes.c_void_p).value
        assert address is not None
        return address


@cache
def _library(path: CpuPath) -> Library:
    return Library(path)


def load_library() -> Library:
    """The kernels for this CPU; TargetError if they cannot be built or loaded."""
    return _library(built_path())
