"""Weights in files, of checkpoints and engines.

- `safetensors_header` and `safetensors_writer` read and write the format, whose element types are in
  `safetensors_dtypes`; a `StoredTensor` is what a header says of a tensor.
- `mapped_file` maps files of engines; `weight_bytes` gives the tensors of a mapped weights file by name, and
  `constant_loader` the constants of a graph that points into one.
- `ranks` writes the weights and the graph of every rank.

A graph points at tensors by `compiler.ir.tensor_ref`; which bytes stand for which values is said in
`compiler.ir.tensor_data`. Names are imported when they are first used: headers are read without torch, which takes a
second to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.store.ranks import StoredRank, stored_ranks, write_ranks

__all__ = ["StoredRank", "stored_ranks", "write_ranks"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("compiler.store.ranks"), name)
