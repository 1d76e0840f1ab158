"""The protocol of a pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, Protocol

from compiler.ir.graph import Graph


class Pass(Protocol):
    """A function of graphs: it returns a new graph, or the one it was given if there is nothing to do.

    Either a plain function, or an instance of a frozen dataclass whose fields are the pass's options. The docstring is
    what `llmc passes` shows. A dataclass may also have these methods:

    - `requires(self, graph)`, which the pipeline calls first, raises a PassError, with the mend, where the pass cannot
      be applied.
    - `dry_run(self, graph)`, of a pass that calibrates, returns about the graph that the pass would: ops of the same
      types, from no data. It stands for the pass in dry runs, and is tried before any data is read.

    An attribute `after_automatic` that is true says that the pass works on what the passes make that the compiler adds
    by itself, such as fused attention: those are then put before it.
    """

    def __call__(self, graph: Graph, /) -> Graph:
        """The rewritten graph."""


PassMaker = Callable[..., Any]
"""What is registered: the function itself, or the dataclass."""


def has_dry_run(pass_: Pass) -> bool:
    """Whether a pass says that it calibrates, by a method that stands for it where there is no data."""
    return hasattr(pass_, "dry_run")


def runs_after_automatic(pass_: Pass) -> bool:
    """Whether the passes that the compiler adds by itself come before this one, and not after all."""
    return bool(getattr(pass_, "after_automatic", False))


def maker_of(pass_: Pass) -> PassMaker:
    """The dataclass of a pass, or the function."""
    return type(pass_) if is_dataclass(pass_) else pass_


def default_name(maker: PassMaker) -> str:
    """`merge-linears` for a function `merge_linears` or a class `MergeLinears`."""
    name = getattr(maker, "__name__", type(maker).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).replace("_", "-").lower().strip("-")
