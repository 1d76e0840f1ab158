"""Chunked prefill: a long step as several short ones over consecutive tokens, whose logits are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.executors.step import Step


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
    if step.token_ids.shape[1] <= length:
        return run(step)
    logits: Tensor | None = None
    for chunk in chunks(step, length):
        part = run(chunk.step)
        if logits is None:
            logits = part.new_zeros((*step.logit_pos.shape, part.shape[-1]))
        logits[chunk.rows, chunk.places] = part[chunk.rows, chunk.columns]
    assert logits is not None
    return logits


def chunks(step: Step, length: int) -> Iterator[Chunk]:
    """Cut a step; chunks that no row has tokens in are left out, but for the first."""
    longest = max(1, int(step.new_len.max()))
    for start in range(0, longest, length):
        stop = min(start + length, step.token_ids.shape[1])
        here = (step.logit_pos >= start) & (step.logit_pos < stop)
        rows, places = here.nonzero(as_tuple=True)
        columns = here.cumsum(1)[rows, places] - 1
        wanted = torch.zeros((len(here), max(1, int(here.sum(1).max()))), dtype=step.logit_pos.dtype)
        wanted[rows, columns] = step.logit_pos[rows, places] - start
        yield Chunk(
            Step(
                step.token_ids[:, start:stop].contiguous(),
                step.past_len + step.new_len.clamp(max=start),
                (step.new_len - start).clamp(0, stop - start),
                wanted,
            ),
            rows,
            places,
            columns,
        )
