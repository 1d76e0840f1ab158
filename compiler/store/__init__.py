"""The bytes of weights in files: what describes, maps and reads them, and what writes those of a rank.

Names are imported when they are first used: headers are read without torch, which takes a second to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.store.write_ranks import EmittedRank, emit_torch, stored_ranks

__all__ = ["EmittedRank", "emit_torch", "stored_ranks"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("compiler.store.write_ranks"), name)
