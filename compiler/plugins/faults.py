"""Errors of code that is not llmc's own, as messages that name its file and line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from compiler.errors import GraphError, LlmcError, PluginError
from compiler.plugins.source import Place, is_own, module_of, place_of, top_level


@contextmanager
def blamed(culprit: object, what: str) -> Iterator[None]:
    """Name the file and line of a plug-in's function that fails inside.

    An error that llmc raises on purpose stays what it is, but a `GraphError` that the function ran into says where.
    What goes wrong in llmc's own functions is a bug of llmc, and passes.

    Args:
        culprit: the function that runs inside, or an object with a method that does.
        what: what fails, such as `the placement of softcap`.

    Raises:
        PluginError: for any exception that is no `LlmcError`.
    """
    try:
        yield
    except Exception as error:
        mended = fault(error, culprit, what)
        if mended is error:
            raise
        raise mended from error


def fault(error: Exception, culprit: object, what: str) -> Exception:
    """The error that says what a plug-in's function did wrong; the error itself if there is nothing to add."""
    if is_own(culprit):
        return error
    where = located(error, culprit)
    if not isinstance(error, LlmcError):
        return PluginError(
            f"{what} fails: {type(error).__name__}: {error} ({where})",
            hint="this is a mistake in the code named; --debug shows all of the traceback",
        )
    if not isinstance(error, GraphError):
        return error
    return type(error)(f"{what} fails: {error.message} ({where})", hint=error.hint, excerpt=error.excerpt)


def located(error: BaseException, culprit: object) -> str:
    """The line of the culprit's package at which an error arose, or where the culprit is defined."""
    return blamed_line(error, top_level(module_of(culprit))) or str(place_of(culprit))


def blamed_line(error: BaseException, package: str) -> str:
    """The innermost line of a package that an error passed, such as `my_ops.py, line 12`; empty if there is none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        if top_level(module) == package:
            return str(Place(module, frame.f_code.co_filename, line))
    return ""
