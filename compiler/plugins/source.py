"""Where code comes from: llmc itself, an installed package, or a file of the user's."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import FrameType

FILE_PREFIX = "llmc_plugin_"
"""What the names of modules begin with that are files of the user's."""

_OWN = frozenset({"compiler", "llmc", "runtime"})


@dataclass(frozen=True)
class Plugin:
    """What registered something: an installed package, or a file.

    Attributes:
        name: the distribution's name, or the file's without its folder.
        version: of a package.
        sha256: of a file's content.
        path: where a file is; two plug-ins are equal wherever they are.
    """

    name: str
    version: str = ""
    sha256: str = ""
    path: str = field(default="", compare=False)

    @property
    def is_file(self) -> bool:
        """Whether it is a file, not a package."""
        return not self.version

    def __str__(self) -> str:
        if self.version:
            return f"the package {self.name} {self.version}"
        if not self.path and not self.sha256:
            return f"code that was typed in ({self.name})"
        return f"the file {self.name}" + (f" (sha256 {self.sha256[:12]})" if self.sha256 else "")

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> Plugin:
        """The plug-in that a file is; without a digest if it cannot be read."""
        file = Path(path)
        try:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError:
            digest = ""
        return cls(file.name, sha256=digest, path=str(file))


@dataclass(frozen=True)
class Place:
    """A line of code.

    Attributes:
        module: the name of its module.
        file: its file.
        line: its number.
    """

    module: str
    file: str
    line: int | None

    @property
    def is_own(self) -> bool:
        """Whether it is llmc's own."""
        return top_level(self.module) in _OWN

    @property
    def home(self) -> str:
        """The module, or the file if it has no name that could be imported."""
        return shown(self.file) if self.module.startswith(FILE_PREFIX) else self.module

    @property
    def location(self) -> str:
        """Such as `compiler/ir/ops/nn.py:12`, which editors open: relative to the current folder if it lies within."""
        return f"{shown(self.file)}:{self.line}" if self.line else shown(self.file)

    def __str__(self) -> str:
        where = self.module if self.is_own or not self.file else shown(self.file)
        return f"{where}, line {self.line}" if self.line else where


def registering_place() -> Place:
    """The line that registers something now: the nearest caller that is a module's own code, or not llmc's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        place = Place(str(frame.f_globals.get("__name__", "")), frame.f_code.co_filename, frame.f_lineno)
        if not place.is_own or frame.f_code.co_name == "<module>":
            return place
        frame = frame.f_back
    return Place("", "", None)


def is_own(thing: object) -> bool:
    """Whether a function or class is llmc's own, by the module that defines it."""
    return top_level(module_of(thing)) in _OWN


def module_of(thing: object) -> str:
    """The name of the module that defines a function, a class, or an object's class."""
    while isinstance(thing, partial):
        thing = thing.func
    return str(getattr(thing, "__module__", None) or type(thing).__module__)


def top_level(module: str) -> str:
    """`my_package` for `my_package.ops.relu`."""
    return module.partition(".")[0]


def place_of(thing: object) -> Place:
    """Where a function is defined; of anything else only its module and file."""
    while isinstance(thing, partial):
        thing = thing.func
    if callable(thing):
        thing = inspect.unwrap(thing)
    module = module_of(thing)
    code = getattr(thing, "__code__", None)
    if code is not None:
        return Place(module, str(code.co_filename), int(code.co_firstlineno))
    return Place(module, str(getattr(sys.modules.get(module), "__file__", None) or ""), None)


@cache
def plugin_of_module(module: str) -> Plugin | None:
    """The plug-in that a module belongs to; None if it is llmc's own."""
    if top_level(module) in _OWN:
        return None
    for name in _distributions().get(top_level(module), ()):
        try:
            return Plugin(name, version(name))
        except PackageNotFoundError:
            continue
    file = getattr(sys.modules.get(module), "__file__", None)
    return Plugin.of_file(file) if file else Plugin(module)


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def shown(file: str) -> str:
    """A path as messages show it: relative to the current folder if it lies within."""
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file
