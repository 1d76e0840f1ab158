"""How many tokens of a row a step may have, so that its memory follows the tokens and not a product of lengths.

A mask, an attention bias or the scores of attention have an element for each pair of a new token (a position of `S`)
and a token of the sequence (a position of `C`). A long prompt is taken in by several steps over consecutive tokens,
chunks, each short enough that no such value is large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import zip_longest

from compiler.ir.dims import evaluate
from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.ir.types import TensorType

BUDGET = 2**24
"""How many elements a value with both `S` and `C` in its shape may have: 64 MiB in float32."""

_MULTIPLE = 64  # a round number of tokens suits every kernel


def chunk_length(graph: Graph, batch: int, capacity: int, *, holds_scores: Callable[[Op], bool]) -> int:
    """How many tokens of each row a step may have at most: 1 or more, and `capacity` if nothing speaks against it.

    Args:
        graph: the step graph.
        batch: the rows of the batch.
        capacity: the tokens of a row in the caches.
        holds_scores: whether what computes an `attention` op holds its scores, `[B, heads, S, C]`, in memory.
    """
    each = elements_per_token(graph, batch, capacity, holds_scores=holds_scores)
    fitting = BUDGET // each if each else capacity
    rounded = fitting - fitting % _MULTIPLE if fitting > _MULTIPLE else fitting
    return max(1, min(rounded, capacity))


def elements_per_token(graph: Graph, batch: int, capacity: int, *, holds_scores: Callable[[Op], bool]) -> int:
    """The most elements for one position of `S` of any value that has both `S` and `C` in its shape; 0 without any.

    The arguments are those of `chunk_length`.
    """
    sizes = {**dict.fromkeys(graph.dims, 1), "B": batch, "C": capacity}
    shapes = [value.type.sizes(sizes) for op in graph.ops for value in op.results if _is_product(value.type)]
    shapes += [shape for op in graph.find("attention") for shape in _hidden_shapes(op, sizes, holds_scores(op))]
    return max(map(math.prod, shapes), default=0)


def _is_product(type_: TensorType) -> bool:
    return {"S", "C"} <= set(type_.symbols)


def _hidden_shapes(op: Op, sizes: dict[str, int], scores: bool) -> Iterator[tuple[int, ...]]:
    """What an `attention` op makes that is no value of the graph: its mask with the bias, and its scores."""
    q, k, _, mask, *bias = (value.type for value in op.operands)
    reversed_shapes = [type_.sizes(sizes)[::-1] for type_ in (mask, *bias)]
    yield tuple(map(max, zip_longest(*reversed_shapes, fillvalue=1)))
    if scores:
        batch, heads, length, _ = q.shape
        yield tuple(evaluate(dim, sizes) for dim in (batch, heads, length, k.shape[2]))
