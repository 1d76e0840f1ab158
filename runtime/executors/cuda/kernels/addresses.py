"""Where the tokens of a packed step are in pools of blocks, on the device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep, Span, Spans

TILE = 128
"""How many tokens a work item of attention has at most."""

PADDING = -1
"""The row of a token that is none: it computes and writes nothing, and its context is 0."""

NO_TOKEN = -1
"""What stands for none in a list of tokens."""


@dataclass(frozen=True)
class Addresses:
    """Where the tokens of a step are. The tensors are int32, on the device.

    Attributes:
        positions: `[T]`, the place of each token in its sequence.
        rows: `[T]`, the row of `tables` that is its sequence's; or `PADDING`.
        tables: `[B, M]`, the blocks of each sequence, in order.
        block: how many tokens a block holds.
        longest: an upper bound of how many tokens a sequence has after the step.
        decodes: whether every token is the only one of its sequence.
        queries: `[Q, 4]`, the work items that `work_items` makes of the other tokens; None if `decodes`.
        singles: `[S]`, the tokens that are the only ones of their sequences, beside sequences that have more, or
            `NO_TOKEN`; None if `decodes`, or if there are none.
    """

    positions: Tensor
    rows: Tensor
    tables: Tensor
    block: int
    longest: int
    decodes: bool
    queries: Tensor | None = None
    singles: Tensor | None = None

    @classmethod
    def of(cls, step: PackedStep, block: int, device: torch.device | str) -> Addresses:
        """The addresses of a packed step over pools of blocks of `block` tokens, on a device."""
        spans = step.span_arrays()
        decodes = len(spans.rows) == step.tokens
        singles = spans.starts[spans.counts == 1]
        return cls(
            positions=step.token_positions.to(device),
            rows=step.token_rows.to(device),
            tables=step.block_tables.to(device),
            block=block,
            longest=int((spans.pasts + spans.counts).max()),
            decodes=decodes,
            queries=None if decodes else torch.from_numpy(items_of(spans.of(spans.counts > 1))).to(device),
            singles=torch.from_numpy(singles).to(device) if len(singles) and not decodes else None,
        )


def work_items(spans: Iterable[Span]) -> Tensor:
    """The chunks of sequences that a step computes, cut into items for `attend`: `i32[Q, 4]`, on the host.

    An item is `(row, first token, tokens, past)`: at most `TILE` consecutive tokens of the sequence in a row of the
    block tables, the first of which is at position `past`. An item of no tokens is passed over. Those that see most
    come first, so that they do not end last.
    """
    columns = [(span.row, span.start, span.new, span.past) for span in spans]
    arrays = np.array(columns, dtype=np.int32).reshape(-1, 4).T
    return torch.from_numpy(items_of(Spans(*arrays)))


def items_of(spans: Spans) -> npt.NDArray[np.int32]:
    """The work items of sequences, as `work_items` gives them."""
    counts = -(-spans.counts // TILE)
    ends = counts.cumsum()
    at = (np.arange(counts.sum()) - (ends - counts).repeat(counts)) * TILE
    items = np.empty((len(at), 4), dtype=np.int32)
    items[:, 0] = spans.rows.repeat(counts)
    items[:, 1] = spans.starts.repeat(counts) + at
    items[:, 2] = np.minimum(TILE, spans.counts.repeat(counts) - at)
    items[:, 3] = spans.pasts.repeat(counts) + at
    return items[np.argsort(-(items[:, 2] + items[:, 3]), kind="stable")]
