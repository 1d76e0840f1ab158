"""Writing a package with one plug-in, its test and a README."""

from __future__ import annotations

import keyword
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from compiler.errors import PluginError

KINDS = ("pass", "op", "family", "target")
"""What a package can be made for."""

_PLACES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "{kind}.py": "{module}/__init__.py",
    "test_{kind}.py": "tests/test_{ident}.py",
}
"""Where each template goes."""


@dataclass(frozen=True)
class NewPackage:
    """A package that was written.

    Attributes:
        folder: where it is.
        files: its files, relative to the folder.
    """

    folder: Path
    files: tuple[str, ...]


def new_package(kind: str, name: str, folder: str | os.PathLike[str] | None = None) -> NewPackage:
    """Write a package that works: a plug-in of a kind, the entry point that offers it, and its test.

    Args:
        kind: one of `KINDS`.
        name: what the plug-in is called, such as `my-pass`.
        folder: where to write it, a folder that is not there yet or is empty; one called like the plug-in if None.

    Raises:
        PluginError: if there is no such kind, the name is none or is taken, or the folder is not empty or cannot be
            made.
    """
    if kind not in KINDS:
        raise PluginError(f"there is no kind of plug-in {kind!r}", hint=f"kinds are: {', '.join(KINDS)}")
    names = _names(kind, name)
    place = Path(name if folder is None else folder).expanduser()
    _check_place(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as temporary:
            made = Path(temporary) / "package"  # a folder whose mode is the usual one
            written = tuple(_write(made, source, target, names) for source, target in _PLACES.items())
            made.replace(place)
    except OSError as error:
        raise PluginError(f"cannot write the package to {place}: {error.strerror or error}") from None
    return NewPackage(place, written)


def _names(kind: str, name: str) -> Mapping[str, str]:
    """The spellings of a name."""
    plain = name.replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", plain):
        raise PluginError(
            f"{name!r} is no name of a {kind}", hint="write letters, digits and hyphens, such as my-" + kind
        )
    ident = plain.replace("-", "_")
    if keyword.iskeyword(ident):
        raise PluginError(f"{name!r} means something else in Python", hint=f"take another name, such as my-{plain}")
    _check_free(kind, ident if kind in ("op", "family") else plain)
    title = "".join(part.capitalize() for part in plain.split("-"))
    return {"kind": kind, "name": plain, "ident": ident, "title": title, "module": f"llmc_{ident}"}


def _check_free(kind: str, name: str) -> None:
    """PluginError if something of that name is there already."""
    from compiler.frontends import families
    from compiler.ir.op_kinds import ops
    from compiler.passes import describe_passes
    from compiler.targets import describe_targets

    known: Mapping[str, Callable[[], Iterable[str]]] = {
        "pass": lambda: (info.name for info in describe_passes()),
        "op": lambda: ops,
        "family": families,
        "target": lambda: (info.name for info in describe_targets()),
    }
    if name in known[kind]():
        raise PluginError(f"the {kind} {name!r} exists already", hint=f"take another name, such as my-{name}")


def _check_place(place: Path) -> None:
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise PluginError(f"{place} exists already", hint="name another folder: -o DIR")


def _write(package: Path, source: str, target: str, names: Mapping[str, str]) -> str:
    template = Template((files("llmc.scaffold") / "templates" / f"{source.format(**names)}.txt").read_text("utf-8"))
    relative = target.format(**names)
    file = package / relative
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(template.substitute(names), encoding="utf-8")
    return relative
