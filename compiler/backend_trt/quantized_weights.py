"""How plans hold quantized weights: as TensorRT-RTX 1.6.1 has fast kernels for them, measured on an H100.

- `codes`: 8 bits whose scales belong to rows. The integers are an input, which all plans share; so are the scales,
  which the product is multiplied by. A single scale is a constant of the kernel.
- `blocks`: 4 bits. Their kernels want constants, in blocks of 16 to 128, so that each plan holds the weight itself.
- `wide`: everything else. No kernel reads it, so it is an input of 16 bits, or 32, dequantized when it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import broadcast_blocks
from compiler.ir.op import Op, Value
from compiler.ir.torch_types import to_torch

if TYPE_CHECKING:
    from compiler.backend_trt.emission import Emission, TrtTensor

Form = Literal["codes", "blocks", "wide"]

_BLOCKS = (128, 64, 32, 16)


def weight_form(op: Op) -> Form:
    """How plans hold the weight that an op dequantizes, if it is read by linears."""
    q, scale = (value.type for value in op.operands[:2])
    if q.dtype is DType.i4:
        return "blocks" if _block(op) else "wide"
    by_row = q.rank == 2 and scale.shape in ((1, 1), (q.shape[0], 1))
    return "codes" if by_row and (len(op.operands) == 2 or q.dtype is DType.i8) else "wide"


def _block(op: Op) -> int | None:
    """How many weights of a row make a block for TensorRT; None if there is no such size."""
    q, scale = (value.type for value in op.operands[:2])
    if q.rank != 2:
        return None
    width = q.sizes({})[1] // scale.sizes({})[1]
    return next((size for size in _BLOCKS if width % size == 0), None)


def codes_matrix(e: Emission, op: Op) -> TrtTensor:
    """A weight in the form `codes`, float32 `[N, K]`: its integers or FP8, times its scale if that is only one."""

    def make() -> TrtTensor:
        q, scale = op.operands[:2]
        codes = e.shared(q.name, q, q.type.sizes({}))
        unit = e.constant(scale.name, e.source.tensor(scale).float().reshape(())) if _has_one_scale(op) else e.one()
        return e.layer(e.network.add_dequantize(codes, unit, e.data_type(DType.f32)), "codes", owner=op.result)

    return e.once(("codes", op.name), make)


def row_scales(e: Emission, op: Op) -> TrtTensor | None:
    """What the columns of a product with `codes_matrix` are multiplied by, float32 `[1, N]`; None by nothing."""
    scale = op.operands[1]

    def make() -> TrtTensor:
        return e.cast(e.shared(f"{scale.name}/row", scale, scale.type.sizes({})[::-1]), DType.f32, "scales")

    return None if _has_one_scale(op) else e.once(("scales", scale.name), make)


def _has_one_scale(op: Op) -> bool:
    return op.operands[1].type.shape == (1, 1)


def block_matrix(e: Emission, op: Op) -> TrtTensor:
    """A weight in the form `blocks`, dequantized but for its zero points."""

    def make() -> TrtTensor:
        q, scale = op.operands[:2]
        rows, columns = q.type.sizes({})
        size = _block(op)
        assert size
        scales = _for_rows(e.source.tensor(scale), rows)
        scales = broadcast_blocks(scales, torch.Size((rows, columns // size))).expand(rows, columns // size)
        codes = e.constant(q.name, e.source.tensor(q), e.source.weight(q), dtype=DType.i4)
        dtype = op.result.type.dtype
        given = e.constant(f"{op.name}/scale", scales.to(to_torch(dtype)))
        return e.layer(e.network.add_dequantize(codes, given, e.data_type(dtype)), str(dtype), owner=op.result)

    return e.once(("blocks", op.name), make)


def row_shifts(e: Emission, op: Op) -> TrtTensor | None:
    """What zero points take off a weight, `zero * scale` of each row's blocks, float32 `[N, G]`; None without any."""
    if len(op.operands) < 3:
        return None
    scale, zero = op.operands[1:]
    rows = op.result.type.sizes({})[0]
    return e.once(("shifts", op.name), lambda: e.constant(f"{op.name}/shift", _shift(e, scale, zero, rows)))


def _shift(e: Emission, scale: Value, zero: Value, rows: int) -> Tensor:
    return _for_rows(e.source.tensor(zero).float() * e.source.tensor(scale).float(), rows).contiguous()


def _for_rows(numbers: Tensor, rows: int) -> Tensor:
    """Numbers of blocks, those of each row."""
    return broadcast_blocks(numbers, torch.Size((rows, numbers.shape[1]))).expand(rows, -1)
