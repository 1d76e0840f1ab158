"""Writes tests/llmc/api-1.json: the names of `llmc`, and the parameters of those that are called.

    python tools/public_api.py

Run it after a name or a parameter was added. A test holds that what the file says stays; docs/stability.md promises it.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import llmc

TARGET = Path(__file__).resolve().parent.parent / "tests" / "llmc" / f"api-{llmc.API_VERSION}.json"


def public_api() -> dict[str, Any]:
    """Of each public name null, or its parameters in order: their kind, and whether they must be given."""
    return {name: parameters(getattr(llmc, name)) for name in sorted(llmc.__all__)}


def parameters(thing: object) -> dict[str, dict[str, Any]] | None:
    """The parameters of something that is called; None of what is not."""
    if not callable(thing):
        return None
    try:
        found = inspect.signature(thing).parameters.values()
    except ValueError:
        return None
    return {p.name: {"kind": p.kind.name, "required": p.default is p.empty} for p in found}


if __name__ == "__main__":
    TARGET.write_text(json.dumps(public_api(), indent=1) + "\n")
