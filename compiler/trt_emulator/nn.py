"""Products, reductions and normalizations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from compiler.trt_emulator.memory import upcast
from compiler.trt_emulator.table import LayerCall, emulates

_OPERATIONS = ("NONE", "TRANSPOSE", "VECTOR")


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product; torch accumulates it in float32 for 16-bit floats too, and rounds it once.

    Its product of float16 with row-major matrices is many times slower than converting them first.
    """
    if a.dtype == torch.bfloat16 or (a.dtype == torch.float16 and b.stride(-1) != 1):
        return a @ b
    return upcast(a) @ upcast(b)


@emulates("MATRIX_MULTIPLY", inputs=2, op0=_OPERATIONS, op1=_OPERATIONS)
def matrix_multiply(call: LayerCall) -> Tensor:
    """The product of matrices or vectors; leading dimensions of 1 are broadcast. Sums are kept in float32.

    TensorRT-RTX 1.6.1, as measured, keeps the sums of float16 products in float16 where the left matrix has two rows or
    more, unless casts to float32 stand around the product; the documentation does not say. The emulator is closer to
    the exact product there.
    """
    a, b = call.tensor(0), call.tensor(1)
    op0, op1 = call.param("op0"), call.param("op1")
    a = a.unsqueeze(-2) if op0 == "VECTOR" else a
    b = b.unsqueeze(-1) if op1 == "VECTOR" else b
    if a.ndim != b.ndim:
        raise call.error(
            f"multiplies stacks of matrices of ranks {a.ndim} and {b.ndim}", hint="reshape one of them with a SHUFFLE"
        )
    result = _product(a.mT if op0 == "TRANSPOSE" else a, b.mT if op1 == "TRANSPOSE" else b)
    result = result.squeeze(-2) if op0 == "VECTOR" else result
    return result.squeeze(-1) if op1 == "VECTOR" else result


@emulates("EINSUM", "equation", inputs=None)
def einsum(call: LayerCall) -> Tensor:
    """A sum of products by Einstein's convention."""
    result: Tensor = torch.einsum(call.param("equation"), *[upcast(x) for x in call.tensors()])
    return result


@emulates("SOFTMAX", inputs=1, axes=[1 << axis for axis in range(8)])
def softmax(call: LayerCall) -> Tensor:
    """The softmax along the one axis in the mask."""
    return torch.softmax(upcast(call.tensor(0)), dim=call.axes()[0])


def _multiply_all(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


def _average(x: Tensor, axes: list[int]) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=True)
    total = x.sum(axes, keepdim=True)
    return torch.div(total, x.numel() // total.numel(), rounding_mode="trunc")


_REDUCTIONS: Mapping[str, Callable[[Tensor, list[int]], Tensor]] = {
    "SUM": lambda x, axes: x.sum(axes, keepdim=True),
    "PROD": _multiply_all,
    "MAX": lambda x, axes: x.amax(axes, keepdim=True),
    "MIN": lambda x, axes: x.amin(axes, keepdim=True),
    "AVG": _average,
}


@emulates("REDUCE", "axes", "keep_dims", inputs=1, op=_REDUCTIONS)
def reduce(call: LayerCall) -> Tensor:
    """A reduction over the axes in the mask."""
    x, axes = upcast(call.tensor(0)), call.axes()
    result = _REDUCTIONS[call.param("op")](x, axes) if axes else x
    return result if call.param("keep_dims") else result.squeeze(axes)


@emulates(
    "NORMALIZATION",
    "axes",
    "epsilon",
    inputs=3,
    num_groups=(1, None),
    is_v2=(True, None),
    compute_precision=("FLOAT", None),
)
def normalization(call: LayerCall) -> Tensor:
    """Less the mean, over the root of the variance plus epsilon, times the scale, plus the bias."""
    x, axes = upcast(call.tensor(0)), call.axes()
    centred = x - x.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    normal: Tensor = centred / (variance + float(call.param("epsilon"))).sqrt()
    return normal * upcast(call.tensor(1)) + upcast(call.tensor(2))


@emulates("CUMULATIVE", "exclusive", "reverse", inputs=2, op=("SUM",), shape_inputs=(1,))
def cumulative(call: LayerCall) -> Tensor:
    """Running sums along the axis in the second input; without the element itself if exclusive."""
    x, axis = upcast(call.tensor(0)), int(call.tensor(1))
    x = x.flip(axis) if call.param("reverse") else x
    total = x.cumsum(axis)
    if call.param("exclusive"):
        total = torch.cat([torch.zeros_like(total.narrow(axis, 0, 1)), total], axis).narrow(axis, 0, x.shape[axis])
    return total.flip(axis) if call.param("reverse") else total
