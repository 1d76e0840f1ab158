"""Where a step reads and writes, for kernels, and for ops that are left to the torch executor."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.packed_step import PackedStep
from runtime.executors.cpu.program import Size
from runtime.executors.torch.paged_kernels import Masks, PagedAccess, Part

_CPU = torch.device("cpu")


class StepAccess:
    """What a program gets beside its inputs; see `runtime.executors.torch.paged_kernels.PagedAccess` for the latter.

    Attributes:
        sizes: how many the step has of each size, by number, as programs take them.
        spans: `i32[SPANS, 4]`: of each sequence its first token in the step, how many it gets, how many it has
            already, and its row of the tables.
        tables: `i32[SEQUENCES, width]`: the blocks of each sequence, in order.
    """

    def __init__(self, step: PackedStep, block: int, blocks: int, width: int) -> None:
        """Find out.

        Args:
            step: the step.
            block: how many tokens a block holds.
            blocks: how many blocks the pools have.
            width: how many blocks a row of the tables names.
        """
        self._step, self._block, self._blocks = step, block, blocks
        found = step.span_arrays()
        longest = int((found.pasts + found.counts).max())
        if longest > width * block:
            raise RequestError(f"a sequence grew to {longest} tokens; the engine is built for {width * block}")
        spans = np.stack((found.starts, found.counts, found.pasts, found.rows), 1)
        self.spans = torch.from_numpy(spans.astype(np.int32, copy=False))
        self.tables = _widened(step.block_tables, width)
        self.sizes = {
            Size.ONE: 1,
            Size.TOKENS: step.tokens,
            Size.WANTED: step.wanted,
            Size.SPANS: len(spans),
            Size.SEQUENCES: len(step.block_tables),
            Size.BLOCKS: blocks,
        }

    @cached_property
    def _plain(self) -> PagedAccess:
        return PagedAccess(self._step, self._block, self._blocks, _CPU)

    @property
    def slots(self) -> Tensor | range:
        """See `PagedAccess`."""
        return self._plain.slots

    @property
    def parts(self) -> list[Part]:
        """See `PagedAccess`."""
        return self._plain.parts

    @property
    def masks(self) -> Masks:
        """See `PagedAccess`."""
        return self._plain.masks


def _widened(tables: Tensor, width: int) -> Tensor:
    """Block tables with rows of `width`, one after the other."""
    if tables.shape[1] == width:
        return tables.contiguous()
    wide = tables.new_zeros(len(tables), width)
    held = min(width, tables.shape[1])
    wide[:, :held] = tables[:, :held]
    return wide
