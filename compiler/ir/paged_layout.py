"""The paged layout: a cache is a pool of blocks, and a block table says which of them hold a sequence.

This module and `compiler.ir.cache_layout` alone know which axis of a cache is which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from compiler.ir.cache_layout import LINEAR, CacheLayout, as_bytes, copy_along
from compiler.ir.dims import Dim, Shape
from compiler.ir.graph import Graph
from compiler.ir.step import N, T
from compiler.ir.types import TensorType

if TYPE_CHECKING:
    from torch import Tensor

X = TypeVar("X")

ONE_ROW = 1
"""The rows of a value of a packed step: all tokens lie in one, `[1, T, width]`."""

NO_BLOCK = -1
"""What stands in a block table behind the blocks of a sequence."""

CACHE_BLOCK = "cache_block"
"""The fact of a graph whose caches are paged: how many tokens a block holds."""


@dataclass(frozen=True)
class PagedLayout:
    """A cache is a pool `[N, block, heads, width]`: position `p` of a sequence is in block `p // block` of its table.

    The tokens of a block lie one after the other, each with all its heads. Blocks that follow each other in the pool
    are therefore read as one sequence without a copy, and a token is written as one piece of memory.

    What a step adds to a cache has the axes of the linear layout: `[1, heads, T, width]`.

    Attributes:
        block: how many tokens a block holds.
        name: how messages call the layout.
    """

    block: int
    name: str = "paged"

    BLOCK: ClassVar[int] = 0
    POSITION: ClassVar[int] = 1
    HEAD: ClassVar[int] = 2
    WIDTH: ClassVar[int] = 3
    RANK: ClassVar[int] = 4

    @classmethod
    def shaped(cls, block: X, position: X, head: X, width: X) -> tuple[X, ...]:
        """Something for each axis, in the order of the axes."""
        by_axis = {cls.BLOCK: block, cls.POSITION: position, cls.HEAD: head, cls.WIDTH: width}
        return tuple(by_axis[axis] for axis in range(cls.RANK))

    @classmethod
    def from_linear(cls, each: Sequence[X]) -> tuple[X, ...]:
        """What there is for each axis of the linear layout, in the order of the axes of this one; a row is a block."""
        return cls.shaped(each[LINEAR.ROW], each[LINEAR.POSITION], each[LINEAR.HEAD], each[LINEAR.WIDTH])

    @property
    def text(self) -> str:
        """The dims of a pool for a reader: `[N,64,heads,width]`."""
        return f"[{','.join(map(str, self.shaped(str(N), str(self.block), 'heads', 'width')))}]"

    def dims(self, heads: Dim, width: Dim) -> Shape:
        """The shape of a pool of a step graph."""
        return self.shaped(N, self.block, heads, width)

    def new_dims(self, heads: Dim, width: Dim) -> Shape:
        """The shape of what a step adds to such a pool."""
        return LINEAR.shaped(ONE_ROW, heads, T, width)

    def fits(self, type_: TensorType) -> bool:
        """Whether a value of a step graph has the rank and the dims of a pool."""
        shape = type_.shape
        return len(shape) == self.RANK and (shape[self.BLOCK], shape[self.POSITION]) == (N, self.block)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold so many tokens of a sequence."""
        return -(-tokens // self.block)

    @classmethod
    def slots(cls, positions: Tensor, rows: Tensor, tables: Tensor, block: int) -> Tensor:
        """Where tokens lie in a pool, `i64[T]`, counted in tokens from its beginning.

        Args:
            positions: `i32[T]`, the place of each token in its sequence.
            rows: `i32[T]`, the row of the tables that is its sequence's.
            tables: `i32[B, M]`, the blocks of each sequence.
            block: how many tokens a block holds.
        """
        return tables[rows.long(), positions.long() // block].long() * block + positions % block

    @classmethod
    def append(cls, pool: Tensor, new: Tensor, slots: Tensor | range) -> Tensor:
        """Write what is new, `[1, heads, T, width]`, into a pool, in place and in its element type; returns the pool.

        Args:
            pool: the pool, which is contiguous.
            new: what a step adds.
            slots: where each token goes, as `slots` gives it; or a range, if they follow each other.
        """
        if isinstance(slots, range):
            cls.rows(pool, 1, slots.start, 0, len(slots)).copy_(new)
        else:
            tokens = new.squeeze(LINEAR.ROW).transpose(0, 1).to(pool.dtype).contiguous()
            as_bytes(pool).flatten(cls.BLOCK, cls.POSITION).index_copy_(0, slots, as_bytes(tokens))
        return pool

    @classmethod
    def read(cls, pool: Tensor, blocks: Tensor | range, length: int) -> Tensor:
        """The first `length` tokens of a sequence, with the axes of the linear layout: `[1, heads, length, width]`.

        Args:
            pool: the pool, which is contiguous.
            blocks: the blocks of the sequence, `i64`, which are copied; or a range, which is not.
            length: how many tokens.
        """
        if isinstance(blocks, range):
            return cls.rows(pool, 1, blocks.start * pool.shape[cls.POSITION], 0, length)
        chosen = as_bytes(pool).index_select(cls.BLOCK, blocks).view(pool.dtype)
        return cls.rows(chosen, 1, 0, 0, length)

    @classmethod
    def gather(cls, pool: Tensor, slots: Tensor) -> Tensor:
        """Copies of the tokens at slots `i64[count, length]`, as a linear cache: `[count, heads, length, width]`."""
        _, _, heads, width = pool.shape
        tokens = as_bytes(pool).view(-1, heads, width).index_select(0, slots.flatten()).view(pool.dtype)
        # The axes of LINEAR: heads come before positions.
        return tokens.view(*slots.shape, heads, width).transpose(LINEAR.HEAD, LINEAR.POSITION)

    @classmethod
    def rows(cls, pool: Tensor, count: int, first: int, apart: int, length: int) -> Tensor:
        """Rows of tokens that begin at equal distances, as a linear cache: `[count, heads, length, width]`.

        They share the memory of the pool, which must be contiguous, and must be within it.

        Args:
            pool: the pool.
            count: how many rows.
            first: the slot with which the first one begins.
            apart: how many slots further each of the next ones begins.
            length: how many tokens of each.
        """
        *_, heads, width = pool.shape
        token = heads * width
        # Once a cache and layer: the axes of LINEAR, spelled out.
        sizes, strides = (count, heads, length, width), (apart * token, width, token, 1)
        return pool.as_strided(sizes, strides, pool.storage_offset() + first * token)

    @classmethod
    def heads_first(cls, values: Tensor) -> Tensor:
        """Values with an axis for each axis of a pool, such as scales, with the axes of the linear layout."""
        return values.permute(LINEAR.shaped(cls.BLOCK, cls.HEAD, cls.POSITION, cls.WIDTH))

    @classmethod
    def copy_blocks(cls, pools: Iterable[Tensor], sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Make block `destinations[i]` of every pool what its block `sources[i]` is, for all i at once, in place.

        Beside the pools, it takes the memory of the copied blocks of one pool.

        Args:
            pools: the pools.
            sources: blocks; a block may be there several times.
            destinations: as many blocks, each once.
        """
        copy_along(cls.BLOCK, pools, sources, destinations)


def layout_of(graph: Graph) -> CacheLayout | PagedLayout:
    """How the caches of a step graph lie."""
    block = graph.facts.get(CACHE_BLOCK)
    return LINEAR if block is None else PagedLayout(int(block))
