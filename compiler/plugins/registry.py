"""Tables by name to which plug-ins add, and which forget what a plug-in added that then failed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

from compiler.errors import LlmcError
from compiler.plugins.source import Place, Plugin, plugin_of_module, registering_place, top_level

T = TypeVar("T")

_registries: list[Registry[Any]] = []


class _Entry(NamedTuple, Generic[T]):
    thing: T
    maker: str
    place: Place
    plugin: Plugin | None


class Registry(Mapping[str, T]):
    """Things by name: llmc's own, and those of plug-ins.

    Args:
        taken: what to say of a name that is taken, such as `the pass {!r} exists already`.
        error: the kind of error that says so.
        adopt: registers what entry points name that are such things themselves, not modules that register them.
    """

    def __init__(self, taken: str, error: type[LlmcError], adopt: Callable[[], None] | None = None) -> None:
        self._taken, self._error, self._adopt = taken, error, adopt
        _registries.append(self)
        self._entries: dict[str, _Entry[T]] = {}

    def add(self, name: str, thing: T, maker: object, place: Place | None = None) -> None:
        """Enter a thing. One that is defined again, as when a notebook runs a cell twice, is replaced.

        Args:
            name: its name.
            thing: what is found under the name.
            maker: the function or class that was decorated.
            place: where that is done; the caller's line if None.

        Raises:
            LlmcError: naming both places, if something else has the name.
        """
        place = place or registering_place()
        qualified = str(getattr(maker, "__qualname__", type(maker).__qualname__))
        known = self._entries.get(name)
        if known is not None and (known.maker, known.place.module) != (qualified, place.module):
            raise self._error(
                f"{self._taken.format(name)}, in {known.place}; the new one is in {place}",
                hint="give the new one a name of its own",
            )
        for journal in _journals:
            journal.append(_Change(self, name, known, place))
        self._entries[name] = _Entry(thing, qualified, place, _loading[-1] if _loading else None)

    def find(self, name: str) -> T | None:
        """The thing of that name, which an installed package may bring; None if there is none."""
        if name not in self._entries:
            from compiler.plugins.loading import load_installed

            load_installed()
            if self._adopt is not None:
                self._adopt()
        entry = self._entries.get(name)
        return entry.thing if entry else None

    def plugin(self, name: str) -> Plugin | None:
        """The plug-in that a thing comes from; None if it is llmc's own, or there is none of that name."""
        entry = self._entries.get(name)
        if entry is None or entry.place.is_own:
            return None
        return entry.plugin or plugin_of_module(entry.place.module)

    def is_own(self, name: str) -> bool:
        """Whether a thing, if there is one of that name, is llmc's own."""
        entry = self._entries.get(name)
        return entry is None or entry.place.is_own

    def place(self, name: str) -> Place:
        """Where the thing of that name is registered; KeyError if there is none."""
        return self._entries[name].place

    def restore(self, name: str, entry: _Entry[T] | None) -> None:
        """Put back what had the name before."""
        self._entries.pop(name, None)
        if entry is not None:
            self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        return self._entries[name].thing

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def registered_plugins() -> set[Plugin]:
    """The plug-ins that have registered anything so far."""
    found = (registry.plugin(name) for registry in _registries for name in registry)
    return {plugin for plugin in found if plugin is not None}


class _Change(NamedTuple):
    registry: Registry[Any]
    name: str
    before: _Entry[Any] | None
    place: Place


_journals: list[list[_Change]] = []
_loading: list[Plugin] = []


@contextmanager
def loading(plugin: Plugin) -> Iterator[None]:
    """What is registered inside comes from this plug-in, whichever of its modules does it."""
    _loading.append(plugin)
    try:
        yield
    finally:
        _loading.pop()


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Forget what was registered inside, in every registry, if it fails. What llmc's own modules registered stays.

    The packages that were imported inside and registered something are forgotten, too: importing them again registers
    it again.
    """
    before = set(sys.modules)
    journal: list[_Change] = []
    _journals.append(journal)
    try:
        yield
    except BaseException:
        foreign = [change for change in journal if not change.place.is_own]
        for change in reversed(foreign):
            change.registry.restore(change.name, change.before)
        packages = {top_level(change.place.module) for change in foreign}
        for name in set(sys.modules) - before:
            if top_level(name) in packages:
                del sys.modules[name]
        raise
    finally:
        _journals[:] = [other for other in _journals if other is not journal]
