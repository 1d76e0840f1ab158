"""Errors of code that is not llmc's own, as messages that name its file and line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from compiler.errors import GraphError, LlmcError, PluginError
from compiler.plugins.source import Place, is_own, module_of, place_of, top_level


@contextmanager
def blamed(culprit: object, what: str) -> Iterator[None]:
    """Name the file and line of a plug-in's function that fails inside.

    An error that llmc raises on purpose stays what it is, but a `GraphError` that the function ran into says where.
    What goes wrong in llmc's own functions is a bug of llmc, and passes.

    Args:
        culprit: the function that runs inside, or an object with a method that does.
        what: what fails, such as `the sharding rule of softcap`.

    Raises:
        PluginError: for any exception that is no `LlmcError`.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the user is told whose it is
        blame(error, culprit, what)


def blame(error: Exception, culprit: object, what: str) -> NoReturn:
    """Raise what `blamed` raises for an error."""
    mended = fault(error, culprit, what)
    if mended is error:
        raise error
    raise mended from error


def fault(error: Exception, culprit: object, what: str) -> Exception:
    """The error that says what a plug-in's function did wrong; the error itself if there is nothing to add."""
    if is_own(culprit):
        return error
    where = located(error, culprit)
    if not isinstance(error, LlmcError):
        return PluginError(
            f"{what} fails: {type(error).__name__}: {_first_line(error)} ({where})",
            hint="this is a mistake in the code named; --debug shows all of the traceback",
        )
    if not isinstance(error, GraphError):
        return error
    place = "" if where in error.message else f" ({where})"  # a rule's mistake passes the pass that applies the rule
    return type(error)(f"{what} fails: {error.message}{place}", hint=error.hint, excerpt=error.excerpt)


def _first_line(error: Exception) -> str:
    """What an error says, without what torch lists below that."""
    return str(error).strip().partition("\n")[0]


def located(error: BaseException, culprit: object) -> str:
    """The line of the culprit's package at which an error arose, or where the culprit is defined."""
    return blamed_line(error, top_level(module_of(culprit))) or str(place_of(culprit))


def blamed_line(error: BaseException, package: str) -> str:
    """The innermost line of a package that an error, or what caused it, passed; empty if there is none.

    It is written as `my_ops.py, line 12`.
    """
    if error.__cause__ is not None and (line := blamed_line(error.__cause__, package)):
        return line
    for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        if top_level(module) == package:
            return str(Place(module, frame.f_code.co_filename, number))
    return ""
