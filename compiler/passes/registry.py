"""Which passes there are: the compiler's own, and those of plug-ins.

An installed package offers passes by a module under the entry points `llmc.plugins`, or by an entry of the group
`llmc.passes`, which names a pass or a module that registers some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, overload

from compiler.errors import PassError
from compiler.options.info import MakerInfo, takes_options
from compiler.passes.protocol import Pass, PassMaker, default_name, maker_of
from compiler.plugins import Plugin, Registry, adopt, broken_hint, place_of
from compiler.plugins.source import Place
from compiler.suggest import did_you_mean

ENTRY_POINTS = "llmc.passes"

Maker = TypeVar("Maker", bound=PassMaker)


@dataclass(frozen=True)
class PassInfo(MakerInfo):
    """A registered pass."""

    noun = "pass"
    error = PassError

    @property
    def plugin(self) -> Plugin | None:
        """The plug-in that brings it; None if it is llmc's own."""
        return PASSES.plugin(self.name)

    def check(self) -> None:
        """PassError if it is neither a function of a graph nor a frozen dataclass that is called with one."""
        what = f"the pass {self.name!r}"
        if not takes_options(self.maker) and (isinstance(self.maker, type) or not callable(self.maker)):
            raise PassError(f"{what} must be a function of a graph or a frozen dataclass")
        super().check()
        if takes_options(self.maker) and not any("__call__" in vars(base) for base in self.maker.__mro__):  # type: ignore[attr-defined]
            raise PassError(f"{what} needs a method __call__(self, graph) that returns the new graph")


def _adopt_installed() -> None:
    """Register what entry points name that are passes themselves, not modules."""
    adopt(ENTRY_POINTS, _adopt)


PASSES = Registry[PassInfo]("the pass {!r} exists already", PassError, _adopt_installed)
"""The passes, by name. `find` and `describe_passes` look at installed packages, too."""


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


def _add(name: str, maker: Maker, place: Place | None = None) -> Maker:
    info = PassInfo(name, maker)
    info.check()
    PASSES.add(name, info, maker, place)
    return maker


def find_pass(name: str) -> PassInfo:
    """The pass of that name; PassError with a suggestion if there is none."""
    _adopt_installed()
    if name not in PASSES:
        raise PassError(
            f"there is no pass {name!r}{did_you_mean(name, PASSES)}",
            hint=broken_hint("`llmc passes` lists them; --plugin FILE.py adds those of a file"),
        )
    return PASSES[name]


def describe_passes() -> tuple[PassInfo, ...]:
    """All passes, by name."""
    _adopt_installed()
    return tuple(sorted(PASSES.values(), key=lambda info: info.name))


def info_of(pass_: Pass) -> PassInfo | None:
    """What a pass is registered as; None for a function or dataclass that is not registered."""
    maker = maker_of(pass_)
    return next((info for info in PASSES.values() if info.maker is maker), None)


def _adopt(name: str, maker: PassMaker) -> None:
    if not any(info.maker is maker for info in PASSES.values()):
        _add(name, maker, place_of(maker))
