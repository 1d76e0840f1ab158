"""What a pass is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, Protocol

from compiler.ir.graph import Graph


class Pass(Protocol):
    """A function of graphs: it returns a new graph, or the one it was given if there is nothing to do.

    Either a plain function, or an instance of a frozen dataclass whose fields are the pass's options. A dataclass may
    also have `requires(self, graph)`, which raises a PassError, with the mend, where the pass cannot be applied; the
    pipeline calls it first. The docstring is what `llmc passes` shows.
    """

    def __call__(self, graph: Graph, /) -> Graph:
        """The rewritten graph."""


PassMaker = Callable[..., Any]
"""What is registered: the function itself, or the dataclass."""


def takes_options(maker: PassMaker) -> bool:
    """Whether a pass is made by calling `maker` with options; else `maker` is the pass."""
    return isinstance(maker, type) and is_dataclass(maker)


def maker_of(pass_: Pass) -> PassMaker:
    """The dataclass of a pass, or the function."""
    return type(pass_) if is_dataclass(pass_) else pass_


def default_name(maker: PassMaker) -> str:
    """`merge-linears` for a function `merge_linears` or a class `MergeLinears`."""
    name = getattr(maker, "__name__", type(maker).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).replace("_", "-").lower().strip("-")
