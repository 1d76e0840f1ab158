"""Where the tokens of a packed step are in pools of blocks, on the device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep, Span

TILE = 128
"""How many tokens a work item of attention has at most."""

PADDING = -1
"""The row of a token that is none: it computes and writes nothing, and its context is 0."""


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
        singles: `[S]`, the tokens that are the only ones of their sequences, beside sequences that have more; None if
            `decodes`, or if there are none.
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
        spans = step.spans()
        decodes = len(spans) == step.tokens
        singles = [] if decodes else [span.start for span in spans if span.new == 1]
        return cls(
            positions=step.token_positions.to(device),
            rows=step.token_rows.to(device),
            tables=step.block_tables.to(device),
            block=block,
            longest=max(span.length for span in spans),
            decodes=decodes,
            queries=None if decodes else work_items(span for span in spans if span.new > 1).to(device),
            singles=torch.tensor(singles, dtype=torch.int32).to(device) if singles else None,
        )


def work_items(spans: Iterable[Span]) -> Tensor:
    """The chunks of sequences that a step computes, cut into items for `attend`: `i32[Q, 4]`, on the host.

    An item is `(row, first token, tokens, past)`: at most `TILE` consecutive tokens of the sequence in a row of the
    block tables, the first of which is at position `past`. An item of no tokens is passed over. Those that see most
    come first, so that they do not end last.
    """
    items = [
        (span.row, start, min(TILE, span.stop - start), span.past + start - span.start)
        for span in spans
        for start in range(span.start, span.stop, TILE)
    ]
    items.sort(key=lambda item: -(item[2] + item[3]))
    return torch.tensor(items, dtype=torch.int32).reshape(-1, 4)
