"""Texts to calibrate with: files of the user's, and the one that comes with the compiler."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from compiler.errors import PassError
from compiler.text_files import read_text

Document = str | tuple[int, ...]
"""A text, or the token ids of one."""

_FORMS = 'a line is "text", {"text": "..."}, [1, 2, 3] or {"token_ids": [1, 2, 3]}'


def default_texts() -> tuple[Document, ...]:
    """The text that comes with the compiler, about 45 kB of simple English; what it is, its first paragraph says."""
    text = (files("compiler.passes.quant") / "calibration.txt").read_text(encoding="utf-8")
    return (text.partition("\n\n")[2],)


def read_texts(path: str | os.PathLike[str]) -> tuple[Document, ...]:
    """The documents of a file: one, or one per line if its name ends in `.jsonl`.

    Raises:
        PassError: if the file cannot be read, is empty, or a line of JSON is neither a text nor token ids.
    """
    path = Path(path)
    text = read_text(path, PassError, what="the calibration text").text
    if not text.strip():
        raise PassError(f"the calibration text {path} is empty", hint="give a file with some thousand words")
    if path.suffix != ".jsonl":
        return (text,)
    lines = enumerate(text.split("\n"), start=1)
    return tuple([_document(line, f"{path}, line {number}") for number, line in lines if line.strip()])


def _document(line: str, place: str) -> Document:
    try:
        parsed: Any = json.loads(line)
    except ValueError as error:
        raise PassError(f"{place} is no JSON: {error}", hint=_FORMS) from None
    if isinstance(parsed, dict):
        parsed = parsed.get("text", parsed.get("token_ids"))
    if isinstance(parsed, str):
        return parsed
    if isinstance(parsed, list) and all(type(item) is int and item >= 0 for item in parsed):
        return tuple(parsed)
    raise PassError(f"{place} has neither a text nor token ids", hint=_FORMS)
