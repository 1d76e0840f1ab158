"""Adding layers of plug-ins to networks: in public, or through a private table of TensorRT-RTX.

The Python package of TensorRT-RTX has the interface of plug-ins but no call that adds one. Its library has the call, in
a table of functions that the library gives out under a number and a version. The table is private: nothing says that
it stays as it is, so it is used of the versions only in which it was found to work.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compiler.errors import TargetError
from compiler.trt_network.library import Library

AddPlugin = Callable[[Any, Sequence[Any], Any], Any]
"""Adds a plug-in with its inputs to a network; returns the layer, None if TensorRT refuses it."""
FindTable = Callable[[], int | None]
"""Gives the address of the private table, None if there is none."""

_WORKS_WITH = ("1.6.1",)
_TABLE = (0xB38F642A771BA941, 1)
_P = ctypes.c_void_p
# A pybind11 object holds the address of the C++ object behind Python's reference count and type.
_HELD_AT = 2 * ctypes.sizeof(_P)


def plugin_adder(library: Library, find_table: FindTable | None = None) -> AddPlugin:
    """What adds plug-ins to the networks of a package.

    Args:
        library: the package.
        find_table: finds the private table, where one is needed; that of the library by default.

    Raises:
        TargetError: if this version of the package has no way to do it.
    """
    trt = library.trt
    if hasattr(trt.INetworkDefinition, "add_plugin_v3"):
        return lambda network, inputs, plugin: network.add_plugin_v3(list(inputs), [], plugin)
    works = re.match(r"\d+\.\d+\.\d+", library.version)
    if not hasattr(trt, "IPluginV3") or not works or works[0] not in _WORKS_WITH:
        raise _refusal(library, f"llmc knows how to add plug-ins to networks of {' and '.join(_WORKS_WITH)}")
    if platform.python_implementation() != "CPython":
        raise _refusal(library, f"this Python is {platform.python_implementation()}, and plug-ins need CPython")
    table = (find_table or _loaded_table)()
    first = _P.from_address(table).value if table else None
    if not first:
        raise _refusal(library, "its library does not give out the private table with which plug-ins are added")
    return _private_adder(first)


def _refusal(library: Library, why: str) -> TargetError:
    return TargetError(
        f"plug-ins cannot be built with {library.name}: {why}",
        hint="leave out the target's option plugins, or install a version that they are known to work with",
    )


def _loaded_table() -> int | None:
    """The table of the library that this process has loaded."""
    path = _loaded_library("libtensorrt_rtx.so")
    if path is None:
        return None
    try:
        get = ctypes.CDLL(path).getPrivateApi_INTERNAL
    except (OSError, AttributeError):
        return None
    get.restype, get.argtypes = _P, [ctypes.c_uint64, ctypes.c_int32]
    table: int | None = get(*_TABLE)
    return table


def _loaded_library(name: str) -> str | None:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(maxsplit=5)[5] for line in lines if name in line), None)


def _private_adder(function: int) -> AddPlugin:
    """A function of C++: network, inputs and their number, shape inputs and their number, plug-in."""
    add = ctypes.CFUNCTYPE(_P, _P, _P, ctypes.c_int32, _P, ctypes.c_int32, _P)(function)

    def add_plugin(network: Any, inputs: Sequence[Any], plugin: Any) -> Any:
        tensors = (_P * len(inputs))(*map(_held, inputs))
        # An object of several C++ bases holds the address of a list of theirs.
        base = _P.from_address(_held(plugin)).value
        if not add(_held(network), ctypes.cast(tensors, _P), len(inputs), None, 0, base):
            return None
        return network.get_layer(network.num_layers - 1)

    return add_plugin


def _held(obj: Any) -> int:
    address = _P.from_address(id(obj) + _HELD_AT).value
    assert address is not None
    return address
