"""Where the tensors of an engine's weights file lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compiler.errors import EngineError
from compiler.ir.safetensors_header import Entry, read_header
from compiler.os_errors import reading_hint

_AGAIN = "copy the engine again from where it came, or compile it again"


def read_spans(path: Path) -> Mapping[str, Entry]:
    """The tensors of the file at `path` by name; their data is not read.

    Raises:
        EngineError: naming the file, if it cannot be read, is truncated, or is no safetensors file.
    """
    try:
        return read_header(path)
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}", hint=reading_hint(error, _AGAIN)) from None
    except ValueError as error:
        raise EngineError(f"{path} {error}", hint=_AGAIN) from None
