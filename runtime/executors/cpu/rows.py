"""Ops of rows: sums, functions, norms, rotary embedding, embedding, quantization and copies; the kernels in C++ are in
`native/elementwise.cpp`, `norms.cpp`, `rotary.cpp`, `embedding.cpp` and `rounding.cpp`.

Each function adds an op to a program. Matrices are float32 where nothing else is said. A matrix of one row stands for
all rows of the result. The result may be an operand, save where a function says that it must not.
"""

from __future__ import annotations

import ctypes
import math
from typing import ClassVar

import torch
from torch import Tensor

from runtime.executors.cpu.abi import DTYPES
from runtime.executors.cpu.program import Matrix, ProgramBuilder

BINARY = frozenset({"add", "sub", "mul", "div"})
"""The kernels of two operands."""
UNARY = frozenset({"relu", "silu", "sigmoid", "tanh", "cos", "sin", "gelu_tanh", "gelu_erf"})
"""The kernels of one operand and no attributes."""


class ScaleStruct(ctypes.Structure):
    """See `Scale` in elementwise.cpp."""

    _fields_: ClassVar = [("factor", ctypes.c_float)]


class ClampStruct(ctypes.Structure):
    """See `Clamp` in elementwise.cpp."""

    _fields_: ClassVar = [("least", ctypes.c_float), ("most", ctypes.c_float)]


class NormStruct(ctypes.Structure):
    """See `Norm` in norms.cpp."""

    _fields_: ClassVar = [
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("width", ctypes.c_int64),
        ("eps", ctypes.c_float),
    ]


class RotaryStruct(ctypes.Structure):
    """See `Rotary` in rotary.cpp."""

    _fields_: ClassVar = [("width", ctypes.c_int64), ("interleaved", ctypes.c_int64)]


class TableStruct(ctypes.Structure):
    """See `Table` in embedding.cpp."""

    _fields_: ClassVar = [
        ("data", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("entries", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
    ]


class RoundingStruct(ctypes.Structure):
    """See `Rounding` in rounding.cpp."""

    _fields_: ClassVar = [("least", ctypes.c_float), ("most", ctypes.c_float), ("shifted", ctypes.c_int32)]


def emit_binary(builder: ProgramBuilder, kernel: str, a: Matrix, b: Matrix, out: Matrix) -> None:
    """Add `out = a + b`, or another of `BINARY`.

    All are float32, or but for a quotient all int32 or int64. An operand of one column stands for all columns.
    """
    assert kernel in BINARY
    assert a.dtype is b.dtype is out.dtype
    assert all(operand.columns in (1, out.columns) for operand in (a, b))
    builder.add(kernel, a, b, out)


def emit_unary(builder: ProgramBuilder, kernel: str, x: Matrix, out: Matrix) -> None:
    """Add a function of each element, one of `UNARY`."""
    assert kernel in UNARY
    _check_floats(x, out)
    builder.add(kernel, x, out)


def emit_scale(builder: ProgramBuilder, x: Matrix, out: Matrix, factor: float) -> None:
    """Add `out = x * factor`."""
    _check_floats(x, out)
    builder.add("scale", x, out, attributes=ScaleStruct(factor))


def emit_clamp(builder: ProgramBuilder, x: Matrix, out: Matrix, least: float | None, most: float | None) -> None:
    """Add `x` cut to a range, which may have no end on a side."""
    _check_floats(x, out)
    limits = ClampStruct(-math.inf if least is None else least, math.inf if most is None else most)
    builder.add("clamp", x, out, attributes=limits)


def emit_layer_norm(
    builder: ProgramBuilder, x: Matrix, out: Matrix, weight: Tensor | None, bias: Tensor | None, eps: float, width: int
) -> None:
    """Add a layer norm of each group of `width` columns, with `weight` and `bias` `[width]` in float32."""
    _check_floats(x, out)
    builder.add("layer_norm", x, out, attributes=_norm(builder, out, weight, bias, eps, width))


def emit_rms_norm(
    builder: ProgramBuilder, x: Matrix, out: Matrix, weight: Tensor | None, eps: float, width: int
) -> None:
    """Add an RMS norm of each group of `width` columns, with `weight` `[width]` in float32."""
    _check_floats(x, out)
    builder.add("rms_norm", x, out, attributes=_norm(builder, out, weight, None, eps, width))


def emit_amax(builder: ProgramBuilder, x: Matrix, out: Matrix) -> None:
    """Add the largest absolute value of each group of columns of `x`; `out` has a column for each group."""
    assert x.dtype is out.dtype is torch.float32 and x.columns % out.columns == 0
    builder.add("amax_abs", x, out)


def emit_embedding(
    builder: ProgramBuilder, ids: Matrix, out: Matrix, table: Tensor, scales: Tensor | None = None
) -> None:
    """Add the rows of `table [entries, columns]` that `ids [rows, 1]` (int32 or int64) name.

    The table is of any type; with `scales [entries]`, in float32, each row is multiplied by its own.
    """
    assert ids.columns == 1 and ids.dtype in (torch.int32, torch.int64) and out.dtype is torch.float32
    assert table.is_contiguous() and table.shape[1] == out.columns
    assert scales is None or scales.numel() == len(table)
    builder.keep(table)
    attributes = TableStruct(table.data_ptr(), _address(builder, scales), len(table), DTYPES[table.dtype])
    builder.add("embedding", ids, out, attributes=attributes)


def emit_rotary(
    builder: ProgramBuilder, x: Matrix, cos: Matrix, sin: Matrix, out: Matrix, width: int, *, interleaved: bool
) -> None:
    """Add the rotary embedding of heads of `width` columns, of which twice as many turn as `cos` and `sin` have."""
    _check_floats(x, out)
    assert cos.dtype is sin.dtype is torch.float32 and cos.columns == sin.columns
    assert out.columns % width == 0 and 2 * cos.columns <= width
    builder.add("rotary", x, cos, sin, out, attributes=RotaryStruct(width, interleaved))


def emit_quantize(
    builder: ProgramBuilder, x: Matrix, scale: Matrix, zero: Matrix | None, out: Matrix, low: float, high: float
) -> None:
    """Add `x / scale + zero` in the nearest value of int8 or float8, cut to `low` to `high`; `out` is not `x`.

    `scale`, in float32, and `zero`, in int8, have a row for each of `x` or a single one, and a column for each block of
    columns of `x`.
    """
    assert x.dtype is torch.float32 and x.columns == out.columns
    _add_rounding(builder, "quantize", x, scale, zero, out, RoundingStruct(low, high, zero is not None))


def emit_dequantize(builder: ProgramBuilder, q: Matrix, scale: Matrix, zero: Matrix | None, out: Matrix) -> None:
    """Add `(q - zero) * scale` for `q` of int8 or float8; the rest is as in `emit_quantize`."""
    assert out.dtype is torch.float32 and q.columns == out.columns
    _add_rounding(builder, "dequantize", q, scale, zero, out, RoundingStruct(0, 0, zero is not None))


def emit_copy(builder: ProgramBuilder, x: Matrix, out: Matrix) -> None:
    """Add a copy, converted to the type of `out` as torch converts; `out` does not overlap `x`."""
    assert x.columns == out.columns
    builder.add("copy", x, out)


def emit_gather_rows(builder: ProgramBuilder, x: Matrix, index: Matrix, out: Matrix) -> None:
    """Add the rows of `x` that `index [rows of out, 1]` (int32 or int64) names, in the type of `out`, not in place."""
    assert x.columns == out.columns and index.columns == 1 and index.dtype in (torch.int32, torch.int64)
    builder.add("gather_rows", x, index, out)


def _norm(
    builder: ProgramBuilder, out: Matrix, weight: Tensor | None, bias: Tensor | None, eps: float, width: int
) -> NormStruct:
    assert out.columns % width == 0
    assert all(parameter is None or parameter.numel() == width for parameter in (weight, bias))
    return NormStruct(_address(builder, weight), _address(builder, bias), width, eps)


def _add_rounding(
    builder: ProgramBuilder,
    kernel: str,
    x: Matrix,
    scale: Matrix,
    zero: Matrix | None,
    out: Matrix,
    attributes: RoundingStruct,
) -> None:
    assert scale.dtype is torch.float32 and x.columns % scale.columns == 0
    assert zero is None or (zero.dtype is torch.int8 and zero.columns == scale.columns)
    builder.add(kernel, x, scale, *([] if zero is None else [zero]), out, attributes=attributes)


def _address(builder: ProgramBuilder, parameter: Tensor | None) -> int | None:
    """Where a parameter lies, which is kept from now on."""
    if parameter is None:
        return None
    assert parameter.dtype is torch.float32 and parameter.is_contiguous()
    builder.keep(parameter)
    return parameter.data_ptr()


def _check_floats(x: Matrix, out: Matrix) -> None:
    assert x.dtype is out.dtype is torch.float32 and x.columns == out.columns
