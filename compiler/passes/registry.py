"""Which passes there are: the compiler's own, those of installed packages, and those of plugin files.

A package offers passes by entry points of the group `llmc.passes`; each names a pass, or a module that registers some.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, overload

from compiler.errors import LlmcError, PassError
from compiler.ir.suggest import did_you_mean
from compiler.passes.options import Option, options_of, spell_value
from compiler.passes.protocol import Pass, PassMaker, default_name, maker_of, takes_options

ENTRY_POINTS = "llmc.passes"

Maker = TypeVar("Maker", bound=PassMaker)


@dataclass(frozen=True)
class PassInfo:
    """A registered pass.

    Attributes:
        name: its name in pipelines.
        maker: the function that it is, or the dataclass whose instances it is.
    """

    name: str
    maker: PassMaker

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """Its options; the first one is what `name=value` sets."""
        return options_of(self.maker) if isinstance(self.maker, type) else ()

    @property
    def doc(self) -> str:
        """What it does."""
        return inspect.getdoc(self.maker) or ""

    @property
    def summary(self) -> str:
        """The first paragraph of `doc`, on one line."""
        return " ".join(self.doc.partition("\n\n")[0].split())

    @property
    def module(self) -> str:
        """Where it is defined."""
        return str(self.maker.__module__)

    def as_json(self) -> dict[str, Any]:
        """What `llmc passes --json` prints."""
        options = [
            {
                "name": option.name,
                "type": option.type_text,
                "required": option.required,
                "default": None if option.required else spell_value(option.type, option.default),
                "help": option.help,
            }
            for option in self.options
        ]
        return {
            "name": self.name,
            "summary": self.summary,
            "doc": self.doc,
            "module": self.module,
            "options": options,
        }


_PASSES: dict[str, PassInfo] = {}
_seen_path: list[str] = []
_loaded: set[tuple[str, str]] = set()


@overload
def register(name: str) -> Callable[[Maker], Maker]: ...
@overload
def register(name: Maker) -> Maker: ...
def register(name: str | Maker) -> Callable[[Maker], Maker] | Maker:
    """Decorator: register a function of graphs, or a frozen dataclass whose instances are, as a pass.

    `@register("name")` gives the name; `@register` takes the function's, with hyphens.

    Raises:
        PassError: if the name is taken or is none, or what is decorated is no pass.
    """
    if not isinstance(name, str):
        return _add(default_name(name), name)
    return lambda maker: _add(name, maker)


def _add(name: str, maker: Maker) -> Maker:
    known = _PASSES.get(name)
    if known is not None and known.maker is not maker and not _is_reloaded(known.maker, maker):
        raise PassError(
            f"the pass {name!r} exists already, in {known.module}", hint="give the new one a name of its own"
        )
    info = PassInfo(name, maker)
    _check(info)
    _PASSES[name] = info
    return maker


def _is_reloaded(old: PassMaker, new: PassMaker) -> bool:
    # A module that failed halfway, or that a notebook runs again, registers its passes a second time.
    places = [(maker.__module__, getattr(maker, "__qualname__", "")) for maker in (old, new)]
    return places[0] == places[1]


def _check(info: PassInfo) -> None:
    what = f"the pass {info.name!r}"
    if not re.fullmatch(r"[a-z][a-z0-9-]*", info.name):
        raise PassError(f"{what} needs another name: small letters, digits and hyphens, a letter first")
    if not takes_options(info.maker):
        if isinstance(info.maker, type) or not callable(info.maker):
            raise PassError(f"{what} must be a function of a graph or a frozen dataclass")
        return
    if not info.maker.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise PassError(f"{what} must be a frozen dataclass: write @dataclass(frozen=True)")
    if not any("__call__" in vars(base) for base in info.maker.__mro__):  # type: ignore[attr-defined]
        raise PassError(f"{what} needs a method __call__(self, graph) that returns the new graph")
    _ = info.options  # refuses fields that no text can be read as


def find_pass(name: str) -> PassInfo:
    """The pass of that name; PassError with a suggestion if there is none."""
    load_entry_points()
    if name not in _PASSES:
        raise PassError(
            f"there is no pass {name!r}{did_you_mean(name, _PASSES)}",
            hint="`llmc passes` lists them; --plugin FILE.py adds those of a file",
        )
    return _PASSES[name]


def describe_passes() -> tuple[PassInfo, ...]:
    """All passes, by name."""
    load_entry_points()
    return tuple(sorted(_PASSES.values(), key=lambda info: info.name))


def info_of(pass_: Pass) -> PassInfo | None:
    """What a pass is registered as; None for a function or dataclass that is not registered."""
    maker = maker_of(pass_)
    return next((info for info in _PASSES.values() if info.maker is maker), None)


def load_entry_points() -> None:
    """Register the passes of installed packages.

    Raises:
        PassError: naming the package, if one cannot be imported or registers a name that is taken.
    """
    if _seen_path == sys.path:
        return
    for entry in entry_points(group=ENTRY_POINTS):
        if (entry.name, entry.value) in _loaded:
            continue
        _load(entry)
        _loaded.add((entry.name, entry.value))
    _seen_path[:] = sys.path


def _load(entry: EntryPoint) -> None:
    package = entry.dist.name if entry.dist else "unknown"
    try:
        with all_or_nothing():
            loaded = entry.load()
            if not inspect.ismodule(loaded) and not any(info.maker is loaded for info in _PASSES.values()):
                _add(entry.name, loaded)
    except Exception as error:
        reason = error.message if isinstance(error, LlmcError) else f"{type(error).__name__}: {error}"
        raise PassError(
            f"the passes of the package {package!r} ({entry.value}) cannot be loaded: {reason}",
            hint=f"update the package or uninstall it: pip uninstall {package}",
        ) from error


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Forget the passes registered inside if it fails."""
    before = dict(_PASSES)
    try:
        yield
    except BaseException:
        _PASSES.clear()
        _PASSES.update(before)
        raise
