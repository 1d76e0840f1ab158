"""Files that commands write their results to: whether one can be written is said before any long work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compiler.atomic_file import replacing
from compiler.errors import RequestError
from compiler.suggest import did_you_mean_path


def check_output(output: Path | None) -> None:
    """RequestError if a file cannot be written there: its folder is missing or not writable, or it is a folder."""
    if output is None:
        return
    place = output.expanduser()
    if place.is_dir():
        raise RequestError(f"{output} is a folder", hint="give the name of a file after -o")
    folder = place.parent
    if not folder.is_dir():
        near = did_you_mean_path(folder, Path.is_dir)
        raise RequestError(f"there is no folder {folder} to write {place.name} to{near}", hint=f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise RequestError(f"the folder {folder} cannot be written to", hint="give another place after -o")


def write_lines(output: Path, rows: Iterable[Any]) -> None:
    """Write JSON lines; the file is there whole, or not at all. RequestError if it cannot be written."""
    write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(output: Path, text: str) -> None:
    """Write a text in UTF-8; the file is there whole, or not at all. RequestError if it cannot be written."""
    try:
        with replacing(output.expanduser()) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"cannot write {output}: {error.strerror}") from None
