"""Importing plug-ins: files that the user names, and what installed packages offer by entry points.

A package offers modules under the group `llmc.plugins`; importing one registers what it has, of whatever sort. Other
groups offer things of one sort: an entry of `llmc.passes` names a pass, or a module.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from compiler.errors import LlmcError, PluginError
from compiler.plugins.faults import blamed_line
from compiler.plugins.registry import all_or_nothing, loading
from compiler.plugins.source import FILE_PREFIX, Plugin, top_level
from compiler.suggest import did_you_mean_path, names_in

GROUPS = ("llmc.plugins", "llmc.passes", "llmc.targets")
"""The groups of entry points that are looked at."""


@dataclass
class _Offer:
    """An entry point of an installed package that was imported, or could not be."""

    group: str
    entry: EntryPoint
    thing: Any = None
    failure: str = ""

    @property
    def plugin(self) -> Plugin:
        """The package."""
        dist = self.entry.dist
        return Plugin(dist.name, dist.version) if dist else Plugin(top_level(self.entry.value))

    def attempt(self, action: Callable[[], Any]) -> Any:
        """Do something with it; if it fails, its package is broken, and nothing of it stays."""
        try:
            with all_or_nothing(), loading(self.plugin):
                return action()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, only this package is at fault
            reason = error.message if isinstance(error, LlmcError) else f"{type(error).__name__}: {error}"
            line = blamed_line(error, top_level(self.entry.module))
            self.failure = (
                f"the package {self.plugin.name!r} cannot be used: its entry point {self.entry.name!r} of {self.group} "
                f"({self.entry.value}) fails: {reason}" + (f" ({line})" if line else "")
            )
            _state.untold.append(f"{self.failure}; {self.hint}")
            return None

    @property
    def hint(self) -> str:
        """What to do about a broken package."""
        name = self.plugin.name
        return f"update it or uninstall it: pip install --upgrade {name}, or pip uninstall {name}"


@dataclass
class _State:
    """What was looked at so far."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    busy: bool = False
    seen_path: list[str] = field(default_factory=list)
    offers: dict[tuple[str, str, str], _Offer] = field(default_factory=dict)
    untold: list[str] = field(default_factory=list)


_state = _State()


def load_plugins(files: Iterable[str | os.PathLike[str]] = ()) -> list[str]:
    """Import what installed packages offer, then Python files.

    A package that fails is left out: it matters only to those who need what it has, and they are told.

    Returns:
        A sentence about each package that failed and was not told of before.

    Raises:
        PluginError: if there is no such file, or it raises, naming the file and line.
    """
    load_installed()
    for file in files:
        load_file(file)
    told, _state.untold = _state.untold, []
    return told


def load_installed() -> None:
    """Import what installed packages offer. Only the first call takes time, until `sys.path` changes."""
    with _state.lock:
        if _state.busy or _state.seen_path == sys.path:
            return
        _state.busy = True  # a plug-in that is being imported may look something up
        try:
            known, _state.offers = _state.offers, {}
            for group in GROUPS:
                for entry in entry_points(group=group):
                    key = group, entry.name, entry.value
                    offer = _state.offers[key] = known.get(key) or _Offer(group, entry)
                    if key not in known:
                        offer.thing = offer.attempt(entry.load)
            _state.seen_path = list(sys.path)
        finally:
            _state.busy = False


def adopt(group: str, register: Callable[[str, Any], None]) -> None:
    """Hand what installed packages offer in a group, but for modules, to `register(name, thing)`.

    This is done at every call; a package whose thing is refused once is not asked again.
    """
    load_installed()
    for offer in list(_state.offers.values()):
        if offer.thing is None or offer.failure:
            continue  # it fails, or is being imported, and looks something up meanwhile
        if offer.group == group and not inspect.ismodule(offer.thing):
            offer.attempt(partial(register, offer.entry.name, offer.thing))


def broken_hint(hint: str) -> str:
    """A hint about something that is not there, with the packages that might have it and could not be loaded."""
    broken = {offer.plugin.name: offer for offer in _state.offers.values() if offer.failure}
    return "; ".join(filter(None, [hint, *(f"{offer.failure}; {offer.hint}" for offer in broken.values())]))


def load_file(path: str | os.PathLike[str]) -> ModuleType:
    """Import a Python file, which registers what it defines. A second time does nothing.

    Raises:
        PluginError: if there is no such file, or it raises, naming the file and line.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise _missing(path, file)
    # Two plugins may share a file name, so that the whole path is in the module's.
    name = f"{FILE_PREFIX}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    with _state.lock:
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise PluginError(f"the plugin {path} is no Python file", hint="its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up while it is being executed
        try:
            with all_or_nothing(), loading(Plugin.of_file(file)):
                spec.loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(name, None)
            if not isinstance(error, (Exception, SystemExit)):
                raise
            reason = error.message if isinstance(error, LlmcError) else f"{type(error).__name__}: {error}"
            hint = error.hint if isinstance(error, LlmcError) else None
            raise PluginError(f"the plugin {path} fails{_line(error, file)}: {reason}", hint=hint) from error
    return module


def _missing(path: str | os.PathLike[str], file: Path) -> PluginError:
    """That there is no such file, and which one may have been meant."""
    if not file.is_dir():
        return PluginError(f"there is no plugin {path}{did_you_mean_path(path, Path.is_file)}")
    plugins = [f"--plugin {Path(path) / name}" for name in names_in(file) if name.endswith(".py")]
    return PluginError(
        f"the plugin {path} is a folder, not a Python file",
        hint=f"name the files in it: {' '.join(plugins)}" if plugins else "it holds no .py files",
    )


def _line(error: BaseException, file: Path) -> str:
    """` at line 3`, where the file itself is to blame."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f" at line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f" at line {lines[-1]}" if lines else ""
