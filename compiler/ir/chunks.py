"""Chunked prefill: a long step as several short ones, so that its memory follows the tokens and no product of lengths.

A mask, an attention bias or the scores of attention have an element for each pair of a new token (a position of `S`)
and a token of the sequence (a position of `C`). A long prompt is taken in by several steps over consecutive tokens,
chunks, each short enough that no such value is large. The logits of the chunks are put together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from compiler.ir.cache_layout import LINEAR
from compiler.ir.dims import evaluate
from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.ir.step import Step, StepDim, dim_sizes
from compiler.ir.types import TensorType

if TYPE_CHECKING:
    from torch import Tensor

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
    sizes = {**dict.fromkeys(graph.dims, 1), **dim_sizes(batch=batch, capacity=capacity)}
    shapes = [value.type.sizes(sizes) for op in graph.ops for value in op.results if _is_product(value.type)]
    shapes += [shape for op in graph.find("attention") for shape in _hidden_shapes(op, sizes, holds_scores(op))]
    return max(map(math.prod, shapes), default=0)


def _is_product(type_: TensorType) -> bool:
    return {StepDim.LENGTH, StepDim.CAPACITY} <= set(type_.symbols)


def _hidden_shapes(op: Op, sizes: dict[str, int], scores: bool) -> Iterator[tuple[int, ...]]:
    """What an `attention` op makes that is no value of the graph: its mask with the bias, and its scores."""
    q, k, _, mask, *bias = (value.type for value in op.operands)
    reversed_shapes = [type_.sizes(sizes)[::-1] for type_ in (mask, *bias)]
    yield tuple(map(max, zip_longest(*reversed_shapes, fillvalue=1)))
    if scores:
        batch, heads, length, _ = q.shape
        yield tuple(evaluate(dim, sizes) for dim in (batch, heads, length, k.shape[LINEAR.POSITION]))


class Chunk(NamedTuple):
    """Some consecutive tokens of every row of a step.

    Attributes:
        step: the step over these tokens. A row whose tokens have all been taken in has none in it.
        rows: for each wanted position among these tokens the row.
        places: for each of them its place among the row's wanted positions.
        columns: for each of them its place among the positions that `step` wants of the row.
    """

    step: Step
    rows: Tensor
    places: Tensor
    columns: Tensor


def in_chunks(step: Step, length: int, run: Callable[[Step], Tensor]) -> Tensor:
    """The logits of a step that is run in chunks of at most `length` tokens of a row.

    Args:
        step: the step; one that is short enough is run as it is.
        length: the most tokens of a row at a time.
        run: runs a step, and returns its logits `[B, R, vocabulary]`.

    Returns:
        The logits of the whole step, `[B, R, vocabulary]`; zeros for positions beyond all tokens.
    """
    if step.length <= length:
        return run(step)
    logits: Tensor | None = None
    for chunk in chunks(step, length):
        part = run(chunk.step)
        if logits is None:
            logits = part.new_zeros((step.batch, step.wanted, part.shape[-1]))
        logits[chunk.rows, chunk.places] = part[chunk.rows, chunk.columns]
    assert logits is not None
    return logits


def chunks(step: Step, length: int) -> Iterator[Chunk]:
    """Cut a step; chunks that no row has tokens in are left out, but for the first."""
    longest = max(1, int(step.new_len.max()))
    for start in range(0, longest, length):
        stop = min(start + length, step.length)
        here = (step.logit_pos >= start) & (step.logit_pos < stop)
        rows, places = here.nonzero(as_tuple=True)
        columns = here.cumsum(1)[rows, places] - 1
        wanted = step.logit_pos.new_zeros((step.batch, max(1, int(here.sum(1).max()))))
        wanted[rows, columns] = step.logit_pos[rows, places] - start
        yield Chunk(step.tokens(start, stop, wanted), rows, places, columns)
