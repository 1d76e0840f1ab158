"""Which targets there are: llmc's own, and those of plug-ins.

An installed package offers targets by a module under the entry points `llmc.plugins`, or by an entry of the group
`llmc.targets`, which names a target's class or a module that registers some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from compiler.errors import TargetError
from compiler.options import Grammar, MakerInfo
from compiler.plugins import Plugin, Registry, adopt, broken_hint, place_of
from compiler.plugins.source import Place
from compiler.suggest import did_you_mean
from compiler.targets.target import Target

ENTRY_POINTS = "llmc.targets"
AUTO = "auto"

T = TypeVar("T", bound=type[Target])


@dataclass(frozen=True)
class TargetInfo(MakerInfo):
    """A registered target."""

    noun = "target"
    error = TargetError

    @property
    def target(self) -> type[Target]:
        """Its class."""
        assert isinstance(self.maker, type)
        return self.maker

    @property
    def section(self) -> str:
        """The key of its facts in `llmc inspect --json`."""
        return self.target.section or self.name

    @property
    def plugin(self) -> Plugin | None:
        """The plug-in that brings it; None if it is llmc's own."""
        return TARGETS.plugin(self.name)

    def check(self) -> None:
        """TargetError if it is no frozen dataclass that is a target."""
        if not (isinstance(self.maker, type) and issubclass(self.maker, Target)):
            raise TargetError(f"the target {self.name!r} must be a subclass of llmc.targets.Target")
        super().check()


def _adopt_installed() -> None:
    """Register what entry points name that are targets themselves, not modules."""
    adopt(ENTRY_POINTS, _adopt)


TARGETS = Registry[TargetInfo]("the target {!r} exists already", TargetError, _adopt_installed)
"""The targets, by name. `find`, `find_target` and `describe_targets` look at installed packages, too."""


def register_target(name: str) -> Callable[[T], T]:
    """Decorator: register a frozen dataclass, a subclass of `Target`, under a name.

    Raises:
        TargetError: if the name is taken or is none, or what is decorated is no target.
    """
    return lambda target: _add(name, target)


def _add(name: str, target: T, place: Place | None = None) -> T:
    info = TargetInfo(name, target)
    info.check()
    if name == AUTO:
        raise TargetError(f"a target cannot be called {AUTO!r}, which stands for those that suit the machine")
    TARGETS.add(name, info, target, place)
    return target


def find_target(name: str) -> TargetInfo:
    """The target of that name; TargetError with a suggestion if there is none."""
    known = [info.name for info in describe_targets()]
    if name not in known:
        raise TargetError(
            f"there is no target {name!r}{did_you_mean(name, [AUTO, *known])}",
            hint=broken_hint(f"targets are: {', '.join([AUTO, *known])}"),
        )
    return TARGETS[name]


def describe_targets() -> tuple[TargetInfo, ...]:
    """All targets, in the order in which `auto` considers them."""
    _adopt_installed()
    return tuple(TARGETS.values())


def target_name(target: Target) -> str:
    """The name that a target is registered under; TargetError if it is not registered."""
    for info in describe_targets():
        if info.maker is type(target):
            return info.name
    raise TargetError(
        f"the target {type(target).__name__} has no name", hint='put @register_target("name") above its class'
    )


def read_targets(text: str) -> tuple[Target | str, ...]:
    """The targets that a list names, such as `torch,tensorrt-rtx:workers=1`, in order; `auto` is left as it is.

    Raises:
        TargetError: if one is unknown, or has no such option or value.
    """
    if not text.strip():
        find_target("")
    return tuple(_GRAMMAR.read(text))


def always_targets() -> tuple[Target, ...]:
    """The targets that every engine has."""
    return tuple(info.target() for info in describe_targets() if info.target.always)


def automatic_target() -> tuple[Target, str]:
    """The target that `auto` stands for on this machine, and why: one that every engine has, if no other suits."""
    reasons = []
    for info in describe_targets():
        suits, why = info.target.fit()
        if suits and not info.target.always:
            return info.target(), why
        reasons.append(why)
    return always_targets()[0], next(filter(None, reasons), "no other target suits this machine")


def with_options(targets: Sequence[Target], options: Mapping[str, Any]) -> tuple[tuple[Target, ...], list[str]]:
    """Targets with some options changed, each in all that have it.

    Args:
        targets: the targets.
        options: the values, by the names of the options.

    Returns:
        The targets, and the names of the options that none of them has, in order.

    Raises:
        TargetError: if an option is given to a target already, with another value, or a target refuses the value.
    """
    used: set[str] = set()
    changed = []
    for target in targets:
        own = {field.name: field.default for field in dataclasses.fields(target) if field.name in options}
        for name, default in own.items():
            if getattr(target, name) not in (default, options[name]):
                raise TargetError(
                    f"the option {name!r} of {target_name(target)!r} is given twice: {getattr(target, name)!r} and "
                    f"{options[name]!r}"
                )
        used |= own.keys()
        changed.append(dataclasses.replace(target, **{name: options[name] for name in own}) if own else target)
    return tuple(changed), [name for name in options if name not in used]


def _adopt(name: str, target: type[Target]) -> None:
    if not any(info.maker is target for info in TARGETS.values()):
        _add(name, target, place_of(target))


_GRAMMAR = Grammar(TargetInfo, "target", "targets", "list", find_target, words=(AUTO,))
