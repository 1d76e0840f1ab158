"""Packages that evaluation needs and that `llmc[eval]` brings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from compiler.errors import RequestError

EXTRA = 'pip install "llmc[eval]"'


def extra_module(name: str, package: str, purpose: str) -> Any:
    """The module of an optional package.

    Args:
        name: the module.
        package: the package that brings it.
        purpose: what it is needed for, to end a sentence with.

    Raises:
        RequestError: if it is not installed, or cannot be imported.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        raise RequestError(
            f"{package} is not installed, which is needed {purpose} (no module {missing!r})", hint=EXTRA
        ) from None
    except ImportError as error:
        raise RequestError(f"{package}, which is needed {purpose}, cannot be imported: {error}", hint=EXTRA) from None
