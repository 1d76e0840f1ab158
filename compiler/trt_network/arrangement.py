"""Parts of quantized weights in the order in which the kernels of plug-ins read them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compiler.ir.evaluators.quant import broadcast_blocks
from compiler.ir.int4 import chunk_int4
from compiler.trt_network.dtypes import DataType
from compiler.trt_network.record import Arranged, Joined, TensorRecord


def arrange(stored: Tensor, arranged: Arranged) -> Tensor:
    """A part of a weight as kernels read it; see `compiler.trt_network.products`.

    Args:
        stored: the part as the weights file has it, int4 as int8.
        arranged: what to make of it.
    """
    if arranged.part == "bias" or (arranged.part == "codes" and not arranged.chunk):
        return stored
    if arranged.part == "codes":
        return chunk_int4(stored, arranged.chunk).contiguous().view(torch.int8)
    spread = _spread(stored, arranged.rows, arranged.columns // arranged.group).t()
    if arranged.part == "zero":
        return spread.to(torch.int8).contiguous()
    return (spread.float() * arranged.factor).contiguous()


def join(joined: Joined, load: Callable[[TensorRecord], Tensor]) -> Tensor:
    """Parts of several weights as one.

    Args:
        joined: what to make.
        load: gives a tensor of the weights file.
    """
    dtype = DataType[joined.dtype].torch_dtype
    if joined.known[0].part == "bias":
        sums = [_bias_sum([part for part in row if part], load) for row in joined.parts]
        device = next(each.device for each in sums if each is not None)
        filled = [
            torch.zeros(size, device=device) if each is None else each
            for each, size in zip(sums, joined.sizes, strict=True)
        ]
        return torch.cat(filled).to(dtype)
    # Codes of 8 bits have the rows in front; everything else has the columns there.
    columns = 1 if joined.known[0].part == "codes" and not joined.known[0].chunk else 0
    rows = [
        torch.cat([_bytes(arrange(load(part.stored), part)) for part in row if part], columns) for row in joined.parts
    ]
    return torch.cat(rows, 1 - columns).view(dtype)


def _bias_sum(biases: list[Arranged], load: Callable[[TensorRecord], Tensor]) -> Tensor | None:
    if not biases:
        return None
    return torch.stack([load(bias.stored).float() for bias in biases]).sum(0)


def _bytes(values: Tensor) -> Tensor:
    """Values of 8 bits as such that can be put together: torch cannot do that with float8."""
    return values.view(torch.int8) if values.dtype.itemsize == 1 else values


def _spread(parameter: Tensor, rows: int, groups: int) -> Tensor:
    """Scales or zero points of blocks, for each row and each group of columns."""
    per_row = broadcast_blocks(parameter, torch.Size((rows, parameter.shape[1]))).expand(rows, -1)
    return per_row.repeat_interleave(groups // parameter.shape[1], 1)
