"""Quantized weights in a plan: a constant layer and a dequantize layer, which TensorRT fuses into the product.

Fused kernels need constants, so that these weights lie in the plan itself. What fuses was found by the sizes of plans:
int8 by a scale a row, int4 by blocks of 16 to 128 with scales of the result's type. What does not is computed as the
plan is built, and stored as wide as the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.op import Op
from compiler.ir.quant_evaluators import spread
from compiler.ir.torch_types import to_torch

if TYPE_CHECKING:
    from compiler.backend_trt.emission import Emission, TrtTensor

_BLOCKS = (128, 64, 32, 16)


def packed_weight(e: Emission, op: Op, dtype: DType) -> TrtTensor:
    """Add the layers of a `dequantize` of constants; returns its result in an element type."""
    q, scale, *zero = op.operands
    codes = e.constant(q.name, e.source.tensor(q), e.source.weight(q), dtype=q.type.dtype)
    scales = e.source.tensor(scale).float()
    if zero:
        shift = e.source.tensor(zero[0]).float() * scales
        return e.cast(_shifted(e, op, _scaled(e, op, codes, scales, DType.f32), shift), dtype, f"{dtype}")
    return _scaled(e, op, codes, scales, dtype)


def _scaled(e: Emission, op: Op, codes: TrtTensor, scales: Tensor, dtype: DType) -> TrtTensor:
    """The integers or floats times their scales."""
    q = op.operands[0].type
    rows, columns = q.sizes({})
    if scales.numel() == 1 and q.dtype is not DType.i4:
        return _dequantized(e, op, codes, scales.reshape(()), dtype)
    scales = _for_rows(scales, rows)
    block = columns // scales.shape[1]
    if q.dtype is DType.i4:
        block = next((size for size in _BLOCKS if block % size == 0), block)
        scales = spread(scales, torch.Size((rows, columns // block)))
        scales = scales.expand(rows, columns // block)
    elif block == columns:
        return _dequantized(e, op, codes, scales.reshape(-1), dtype, axis=0)
    if q.dtype is not DType.f8e4m3:
        return _dequantized(e, op, codes, scales.to(to_torch(dtype)), dtype)
    wide = _dequantized(e, op, codes, torch.ones(()), DType.f32)
    return e.cast(_blockwise(e, op, wide, scales, "PROD"), dtype, f"{dtype}")


def _for_rows(numbers: Tensor, rows: int) -> Tensor:
    """Numbers of blocks, those of each row."""
    return spread(numbers, torch.Size((rows, numbers.shape[1]))).expand(rows, -1)


def _dequantized(
    e: Emission, op: Op, codes: TrtTensor, scales: Tensor, dtype: DType, axis: int | None = None
) -> TrtTensor:
    given = e.constant(f"{op.name}/scale", scales)
    layer = e.network.add_dequantize(codes, given, e.data_type(dtype))
    if layer is not None and axis is not None:
        layer.axis = axis
    return e.layer(layer, str(dtype), owner=op.result)


def _shifted(e: Emission, op: Op, weight: TrtTensor, shift: Tensor) -> TrtTensor:
    return _blockwise(e, op, weight, shift, "SUB")


def _blockwise(e: Emission, op: Op, weight: TrtTensor, numbers: Tensor, operation: str) -> TrtTensor:
    """A float32 weight and a number for each block of it."""
    rows, columns = op.result.type.sizes({})
    numbers = _for_rows(numbers, rows)
    blocks = numbers.shape[1]

    def reshaped(tensor: TrtTensor, shape: tuple[int, ...], detail: str) -> TrtTensor:
        layer = e.network.add_shuffle(tensor)
        layer.reshape_dims = shape
        return e.layer(layer, detail, owner=op.result)

    cut = reshaped(weight, (rows, blocks, columns // blocks), "blocks")
    given = e.constant(f"{op.name}/{operation.lower()}", numbers.reshape(rows, blocks, 1))
    return reshaped(e.elementwise(cut, given, operation, "by block"), (rows, columns), "whole")
