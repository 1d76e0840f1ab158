"""Which elements of a step's values mean something, and how far off they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.comparison import relative_error
from compiler.ir.dims import Affine, Dim
from compiler.ir.graph import Graph
from compiler.ir.step import B, R, S, Step
from compiler.ir.types import TensorType


class Extent:
    """Which elements of a value depend on tokens: not padding, nor the unused ends of caches, nor rows without tokens.

    Args:
        type_: the value's type in a graph whose dims are symbols.
        capacity: the dim that counts the places of a cache, a symbol or a number; None if there are no caches.
        step: the step, which says how much of its rows is used.
    """

    def __init__(self, type_: TensorType, capacity: Dim | None, step: Step) -> None:
        self._type, self._step = type_, step
        self.capacity_axes = [axis for axis, dim in enumerate(type_.shape) if dim == capacity]

    def mask(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor of bools that broadcasts to `shape`."""

        def along(values: Tensor, *axes: int) -> Tensor:
            sizes = iter(values.shape)
            return values.reshape([next(sizes) if at in axes else 1 for at in range(len(shape))])

        live = torch.ones([1] * len(shape), dtype=torch.bool)
        if B not in self._type.shape:
            return live
        new = self._step.new_len
        rows = self._type.shape.index(B)
        live = live & along(new > 0, rows)
        total = self._step.past_len + new
        limits = [(axis, new) for axis in self._axes(S)] + [(axis, total) for axis in self.capacity_axes]
        for axis, limit in limits:
            live = live & (along(torch.arange(shape[axis]), axis) < along(limit, rows))
        for axis in self._axes(R):
            live = live & along(self._step.logit_pos < new[:, None], rows, axis)
        return live

    def _axes(self, wanted: Affine) -> list[int]:
        return [axis for axis, dim in enumerate(self._type.shape) if dim == wanted]


def cache_dim(graph: Graph) -> Dim | None:
    """The dim that counts the places of a cache; None if a graph has no caches."""
    caches = (value.type for value, _ in graph.states().values())
    return next((type_.shape[LINEAR.POSITION] for type_ in caches if type_.rank == LINEAR.RANK), None)


def value_error(found: Tensor, expected: Tensor, extent: Extent) -> float:
    """The relative error of a value where it means something; infinite if the shapes do not match.

    Caches may be longer than the sequences, by different amounts: what both have is compared.
    """
    a, b = found.double().cpu(), expected.double().cpu()
    if a.dim() != b.dim():
        return math.inf
    for axis in extent.capacity_axes:
        size = min(a.shape[axis], b.shape[axis])
        a, b = a.narrow(axis, 0, size), b.narrow(axis, 0, size)
    if a.shape != b.shape:
        return math.inf
    live = extent.mask(tuple(b.shape))
    return relative_error(torch.where(live, a, 0.0), torch.where(live, b, 0.0))
