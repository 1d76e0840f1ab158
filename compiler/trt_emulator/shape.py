"""Layers that make, or change, shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compiler.trt_emulator.memory import TORCH_TYPES
from compiler.trt_emulator.table import LayerCall, emulates


def _transpose(x: Tensor, permutation: Sequence[int] | None) -> Tensor:
    """Transposed by the first entries of the permutation, which TensorRT gives at its greatest length."""
    return x if permutation is None else x.permute(list(permutation[: x.ndim]))


@emulates(
    "SHUFFLE", "first_transpose", "reshape_dims", "second_transpose", "zero_is_placeholder", inputs=2, shape_inputs=(1,)
)
def shuffle(call: LayerCall) -> Tensor:
    """A transpose, a reshape and a transpose; see the attributes of `IShuffleLayer`."""
    x = _transpose(call.tensor(0), call.param("first_transpose"))
    dims = call.dims(1, "reshape_dims")
    if dims is not None:
        if call.param("zero_is_placeholder"):
            dims = [x.shape[axis] if size == 0 else size for axis, size in enumerate(dims)]
        x = x.reshape(dims)
    return _transpose(x, call.param("second_transpose"))


@emulates("SHAPE", inputs=1)
def shape(call: LayerCall) -> Tensor:
    """The dims of the input, as a vector."""
    return torch.tensor(call.tensor(0).shape, dtype=torch.int64)


def _axes(call: LayerCall, rank: int) -> set[int]:
    axes = [int(axis) for axis in call.tensor(1).flatten().tolist()]
    if any(not -rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) < len(axes):
        raise call.error(f"has axes {axes} for rank {rank}", hint="give different axes, each within the rank")
    return {axis % rank for axis in axes}


@emulates("SQUEEZE", inputs=2, shape_inputs=(1,))
def squeeze(call: LayerCall) -> Tensor:
    """Without the dimensions in the second input, which must be 1."""
    x = call.tensor(0)
    axes = _axes(call, x.ndim)
    if any(x.shape[axis] != 1 for axis in axes):
        raise call.error(f"removes the axes {sorted(axes)} of {list(x.shape)}", hint="remove dimensions of 1 only")
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in axes])


@emulates("UNSQUEEZE", inputs=2, shape_inputs=(1,))
def unsqueeze(call: LayerCall) -> Tensor:
    """With dimensions of 1 at the places in the second input, counted in the output."""
    x = call.tensor(0)
    rank = x.ndim + call.tensor(1).numel()
    axes = _axes(call, rank)
    sizes = iter(x.shape)
    return x.reshape([1 if axis in axes else next(sizes) for axis in range(rank)])


@emulates("CONCATENATION", "axis", inputs=None)
def concatenation(call: LayerCall) -> Tensor:
    """The inputs in order, along an axis."""
    return torch.cat(call.tensors(), dim=call.param("axis"))


@emulates("FILL", "shape", "alpha", "beta", inputs=3, operation=("LINSPACE",), shape_inputs=(0,))
def fill(call: LayerCall) -> Tensor:
    """`alpha` plus, for every axis, the index times that axis' `beta`; alpha is a scalar, beta too or one per axis."""
    dims = call.dims(0, "shape") or []
    dtype = torch.float32 if TORCH_TYPES[call.dtype].is_floating_point else torch.int64
    given = (call.optional(1), call.optional(2))
    device = "meta" if any(x is not None and x.is_meta for x in given) else "cpu"
    alpha, beta = (
        (torch.tensor(call.param(name)) if x is None else x).to(device, dtype)
        for name, x in zip(("alpha", "beta"), given, strict=True)
    )
    steps = beta.flatten().expand(len(dims))
    result = alpha.reshape([1] * len(dims)).expand(dims)
    for axis, size in enumerate(dims):
        index = torch.arange(size, dtype=dtype, device=device)
        result = result + (index * steps[axis]).reshape([-1] + [1] * (len(dims) - axis - 1))
    return result
