"""Reading a pickle as inert data: nothing that it names is imported, called or created.

A pickle is a program for a small stack machine, and the real machine can call anything. This one only builds
numbers, strings, tuples, lists and dicts; what the pickle would import or call becomes a record of the wish.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Container
from dataclasses import dataclass
from typing import IO, Any


class PickleError(Exception):
    """The pickle is damaged, or uses something that plain data does not need."""


class ForbiddenGlobalError(PickleError):
    """The pickle names a function or class that is not on the list of harmless ones."""


@dataclass(frozen=True)
class Global:
    """A function or class that the pickle would import, such as `torch.FloatStorage`."""

    name: str


@dataclass(frozen=True)
class PickleCall:
    """A call that the pickle would make."""

    function: Global
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Persistent:
    """A reference to an object outside the pickle."""

    id: Any


_DICTS = ("collections.OrderedDict", "builtins.dict", "__builtin__.dict")
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}  # a set may hold anything
_MARK = object()


def read_pickle(stream: IO[bytes], allowed: Container[str]) -> Any:
    """The data of the pickle at the stream's position, which moves to the pickle's end.

    Raises:
        ForbiddenGlobalError: as soon as the pickle names anything that is not in `allowed`.
        PickleError: if the pickle is damaged.
    """
    machine = _Machine(allowed)
    try:
        for opcode, arg, _ in pickletools.genops(stream):
            machine.step(opcode.name, arg)
        return machine.stack.pop()
    except PickleError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, MemoryError, EOFError, struct.error) as error:
        raise PickleError(f"it is damaged ({error})") from None


class _Machine:
    def __init__(self, allowed: Container[str]) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, arg: Any) -> None:
        """Do one instruction."""
        push, pop = self.stack.append, self.stack.pop
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                push(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push(_CONSTANTS[name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_SET" | "EMPTY_TUPLE":
                push(_EMPTY[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                self.stack[-count:] = [tuple(self.stack[-count:])]
            case "TUPLE":
                push(tuple(self.marked()))
            case "LIST" | "FROZENSET":
                push(self.marked())
            case "DICT":
                push(_pairs(self.marked()))
            case "APPEND":
                item = pop()
                self.stack[-1].append(item)
            case "APPENDS" | "ADDITEMS":
                items = self.marked()
                self.stack[-1].extend(items)
            case "SETITEM":
                value, key = pop(), pop()
                self.stack[-1][key] = value
            case "SETITEMS":
                pairs = _pairs(self.marked())
                self.stack[-1].update(pairs)
            case "GLOBAL":
                push(self.named(arg.replace(" ", ".")))
            case "STACK_GLOBAL":
                last, module = pop(), pop()
                push(self.named(f"{module}.{last}"))
            case "REDUCE" | "NEWOBJ":
                args, function = pop(), pop()
                if not isinstance(function, Global) or not isinstance(args, tuple):
                    raise PickleError("it calls what is no function")
                push({} if function.name in _DICTS and not args else PickleCall(function, args))
            case "BUILD":
                pop()  # the attributes of an object: a state dict keeps version numbers there
            case "BINPERSID":
                push(Persistent(pop()))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[int(arg)] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memo[int(arg)])
            case _ if name.startswith(("INT", "BININT", "LONG", "FLOAT", "BINFLOAT")) or any(
                kind in name for kind in ("UNICODE", "STRING", "BINBYTES")
            ):
                push(arg)
            case _:
                raise PickleError(f"it uses the instruction {name}, which plain tensors do not need")

    def marked(self) -> list[Any]:
        """Remove and return what was pushed since the last mark."""
        start = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def named(self, name: str) -> Global:
        """The record of an import."""
        if name not in self.allowed:
            raise ForbiddenGlobalError(name)
        return Global(name)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))
