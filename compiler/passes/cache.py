"""The pass `cache`: how the keys and values of past tokens lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.ir.paged import DEFAULT_BLOCK, PASS_NAME, paged
from compiler.passes.registry import register

Layout = Literal["linear", "paged"]


@register(PASS_NAME)
@dataclass(frozen=True)
class CacheForm:
    """Lay out caches in blocks, and pack the tokens of a step without padding.

    With `linear`, each sequence has a row of every cache, which is as long as the longest sequence may be, and steps
    are padded. With `paged`, caches are pools of blocks, a block table says which of them a sequence is in, and the
    tokens of a step lie one after the other. TensorRT runs linear caches only.

    It needs attention in one op: the automatic passes, `fuse-attention` among them, are applied before it.
    """

    layout: Annotated[Layout, "linear: a row for each sequence; paged: pools of blocks, and packed tokens"]
    block: Annotated[int, "how many tokens a block holds"] = DEFAULT_BLOCK

    after_automatic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise PassError(f"there are no caches {self.layout!r}", hint=f"they are {' or '.join(get_args(Layout))}")
        if self.block < 1:
            raise PassError(f"block={self.block} holds no token", hint=f"use one such as block={DEFAULT_BLOCK}")

    def __call__(self, graph: Graph) -> Graph:
        """The graph with such caches; one that is paged does not become linear again."""
        return graph if self.layout == "linear" else paged(graph, self.block)
