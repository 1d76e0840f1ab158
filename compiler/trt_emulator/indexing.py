"""Layers that pick elements, or put them in place."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.trt_emulator.table import LayerCall, emulates

_MODES = ("STRICT_BOUNDS", "WRAP", "CLAMP", "FILL", "REFLECT")


def _reflect(index: Tensor, size: int) -> Tensor:
    """Indices mirrored at the middle of the first and of the last element."""
    period = max(2 * (size - 1), 1)
    index = index % period
    return torch.minimum(index, period - index) if size > 1 else index


def _pick(call: LayerCall, x: Tensor, axis: int, start: int, size: int, stride: int) -> Tensor:
    """`size` elements of one axis from `start` on, every `stride`-th, by the mode of the layer."""
    length, mode = x.shape[axis], call.param("mode")
    last = start + (size - 1) * stride
    inside = size == 0 or (min(start, last) >= 0 and max(start, last) < length)
    if inside and size and stride > 0:
        return x[(slice(None),) * axis + (slice(start, last + 1, stride),)]
    index = torch.arange(size) * stride + start
    if inside:
        return x.index_select(axis, index.to(x.device))
    if mode == "STRICT_BOUNDS" or (length == 0 and mode != "FILL"):
        raise call.error(
            f"takes elements {start} to {last} of axis {axis}, which has {length}", hint="keep the slice inside"
        )
    if mode == "FILL":
        return _pick_or_fill(call, x, axis, index)
    index = {"WRAP": index % length, "CLAMP": index.clamp(0, length - 1), "REFLECT": _reflect(index, length)}[mode]
    return x.index_select(axis, index.to(x.device))


def _pick_or_fill(call: LayerCall, x: Tensor, axis: int, index: Tensor) -> Tensor:
    given = call.optional(4)
    value = torch.zeros((), dtype=x.dtype) if given is None else given.reshape(())
    length = x.shape[axis]
    x = torch.cat([x, value.to(x.device).expand(*x.shape[:axis], 1, *x.shape[axis + 1 :])], dim=axis)
    index = torch.where((index < 0) | (index >= length), length, index)
    return x.index_select(axis, index.to(x.device))


@emulates("SLICE", "start", "shape", "stride", inputs=6, optional=("axes",), mode=_MODES, shape_inputs=(1, 2, 3, 5))
def slice_(call: LayerCall) -> Tensor:
    """Elements by start, size and stride on every axis, or on `axes`; what is out of bounds is by `mode`."""
    x = call.tensor(0)
    starts, sizes, strides = (call.dims(i, name) for i, name in ((1, "start"), (2, "shape"), (3, "stride")))
    axes = call.dims(5, "axes") or list(range(x.ndim))
    for axis, start, size, stride in zip(axes, starts or [], sizes or [], strides or [], strict=True):
        x = _pick(call, x, axis % x.ndim, start, size, stride)
    return x


def _check_indices(call: LayerCall, index: Tensor, size: int) -> Tensor:
    """The indices as int64; TargetError if one is negative or too large."""
    if not index.is_meta and index.numel():
        least, most = (int(value) for value in torch.aminmax(index))
        if least < 0 or most >= size:
            raise call.error(
                f"has indices from {least} to {most} into a dimension of {size}", hint="keep indices in [0, size)"
            )
    return index.long()


def _gather(call: LayerCall, x: Tensor, index: Tensor, axis: int) -> Tensor:
    flat = _check_indices(call, index, x.shape[axis]).flatten()
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _points(call: LayerCall, x: Tensor, index: Tensor, batch_dims: int) -> tuple[Tensor, ...]:
    """Index tensors for the leading dimensions of x: the batch dimensions, then those that the last axis gives."""
    columns = [_check_indices(call, c, x.shape[batch_dims + i]) for i, c in enumerate(index.unbind(-1))]
    ranges = [
        torch.arange(x.shape[axis], device=x.device).reshape([-1] + [1] * (index.ndim - 2 - axis))
        for axis in range(batch_dims)
    ]
    return (*ranges, *columns)


@emulates("GATHER", "axis", "num_elementwise_dims", inputs=2, mode=("DEFAULT", "ELEMENT", "ND"))
def gather(call: LayerCall) -> Tensor:
    """Elements of the first input at the indices in the second, by one of three modes."""
    x, index, batch_dims = call.tensor(0), call.tensor(1), call.param("num_elementwise_dims")
    if call.param("mode") == "ND":
        return x[_points(call, x, index, batch_dims)]
    axis = call.param("axis") % x.ndim
    if call.param("mode") == "ELEMENT":
        return x.gather(axis, _check_indices(call, index, x.shape[axis]))
    if batch_dims == 0:
        return _gather(call, x, index, axis)
    return torch.stack([_gather(call, row, part, axis - 1) for row, part in zip(x, index, strict=True)])


@emulates("SCATTER", "axis", inputs=3, mode=("ELEMENT", "ND"))
def scatter(call: LayerCall) -> Tensor:
    """The first input with the elements at the indices in the second replaced by those of the third."""
    x, index, updates = call.tensor(0), call.tensor(1), call.tensor(2)
    if call.param("mode") == "ELEMENT":
        axis = call.param("axis") % x.ndim
        return x.scatter(axis, _check_indices(call, index, x.shape[axis]), updates)
    return x.index_put(_points(call, x, index, 0), updates)
