"""Parts of quantized weights in the order in which the kernels of plug-ins read them."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.ir.evaluators.quant import broadcast_blocks
from compiler.ir.int4 import chunk_int4
from compiler.trt_network.record import Arranged


def arrange(stored: Tensor, arranged: Arranged) -> Tensor:
    """A part of a weight as kernels read it; see `compiler.trt_network.products`.

    Args:
        stored: the part as the weights file has it, int4 as int8.
        arranged: what to make of it.
    """
    if arranged.part == "codes":
        return chunk_int4(stored, arranged.chunk).contiguous().view(torch.int8)
    spread = _spread(stored, arranged.rows, arranged.columns // arranged.group).t()
    if arranged.part == "zero":
        return spread.to(torch.int8).contiguous()
    return (spread.float() * arranged.factor).contiguous()


def _spread(parameter: Tensor, rows: int, groups: int) -> Tensor:
    """Scales or zero points of blocks, for each row and each group of columns."""
    per_row = broadcast_blocks(parameter, torch.Size((rows, parameter.shape[1]))).expand(rows, -1)
    return per_row.repeat_interleave(groups // parameter.shape[1], 1)
