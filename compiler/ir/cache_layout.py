"""Where a cache keeps what: its axes, its dims, and how its rows and positions are read and written.

This module and `compiler.ir.paged_layout` alone know which axis of a cache is which. Graphs, passes, targets and
executors ask the layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

from compiler.ir.dims import Dim, Shape
from compiler.ir.step import B, C, S
from compiler.ir.types import TensorType

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

CACHE = "cache."
"""What the names of caches begin with that frontends make."""


def cache_name(layer: int, which: str) -> str:
    """The name of a layer's cache of keys (`k`) or values (`v`): `cache.3.k`."""
    return f"{CACHE}{layer}.{which}"


def place_of_cache(name: str) -> tuple[int, str] | None:
    """Inverse of `cache_name`; None for another name, such as a pass may give."""
    found = re.fullmatch(rf"{re.escape(CACHE)}([0-9]+)\.([kv])", name)
    return (int(found[1]), found[2]) if found else None


def layer_of_cache(name: str) -> str:
    """What the names of all caches of a layer begin with: `cache.3` of `cache.3.k`."""
    return name.rpartition(".")[0]


class Appends(NamedTuple):
    """Where a step's new keys and values go in every cache; computed once a step by `CacheLayout.appends`.

    With `start`, all rows of the batch go to the same positions, and one copy does it. Otherwise what is new at the
    index `source` goes to the index `target` of a cache.
    """

    start: int | None
    source: tuple[Tensor | slice, ...] = ()
    target: tuple[Tensor | slice, ...] = ()


@dataclass(frozen=True)
class CacheLayout:
    """The linear layout: a cache is a tensor `[B, heads, C, width]`, of which a row belongs to a sequence.

    What a step adds to a cache has the same axes, with S positions in place of C.

    Attributes:
        name: how messages call the layout.
    """

    name: str = "linear"

    ROW: ClassVar[int] = 0
    HEAD: ClassVar[int] = 1
    POSITION: ClassVar[int] = 2
    WIDTH: ClassVar[int] = 3
    RANK: ClassVar[int] = 4

    def shaped(self, row: T, head: T, position: T, width: T) -> tuple[T, ...]:
        """Something for each axis, in the order of the axes."""
        by_axis = {self.ROW: row, self.HEAD: head, self.POSITION: position, self.WIDTH: width}
        return tuple(by_axis[axis] for axis in range(self.RANK))

    @property
    def text(self) -> str:
        """The dims of a cache for a reader: `[B,heads,C,width]`."""
        return f"[{','.join(map(str, self.shaped(B, 'heads', C, 'width')))}]"

    def dims(self, heads: Dim, width: Dim) -> Shape:
        """The shape of a cache of a step graph."""
        return self.shaped(B, heads, C, width)

    def new_dims(self, heads: Dim, width: Dim) -> Shape:
        """The shape of what a step adds to such a cache."""
        return self.shaped(B, heads, S, width)

    def fits(self, type_: TensorType) -> bool:
        """Whether a value of a step graph has the rank and the symbolic dims of a cache."""
        shape = type_.shape
        return len(shape) == self.RANK and (shape[self.ROW], shape[self.POSITION]) == (B, C)

    def resized(self, shape: Sequence[int], rows: int, capacity: int) -> tuple[int, ...]:
        """The shape of a cache for other numbers of rows and positions."""
        return self.shaped(rows, shape[self.HEAD], capacity, shape[self.WIDTH])

    def view(self, cache: Tensor, rows: slice, length: int | None = None) -> Tensor:
        """Some rows of a cache, and of each the first `length` positions; all of them if None. Shares its memory."""
        whole = slice(None)
        return cache[self.shaped(rows, whole, whole if length is None else slice(length), whole)]

    def index(self, row: T | slice, position: T | slice) -> tuple[T | slice, ...]:
        """The index of a cache that takes rows and positions, with all heads and their whole width."""
        return self.shaped(row, slice(None), position, slice(None))

    def along(self, values: Tensor, *axes: int) -> Tensor:
        """Values that have one axis for each of these axes of a cache, in ascending order, so that they broadcast."""
        sizes = iter(values.shape)
        return values.reshape([next(sizes) if axis in axes else 1 for axis in range(self.RANK)])

    def appends(self, past: Sequence[int], new: Sequence[int], length: int, device: torch.device) -> Appends:
        """Where a step's tokens go: `new` of the `length` positions of each row, after the `past` tokens of the row."""
        if all(start == past[0] for start in past) and all(count == length for count in new):
            return Appends(past[0])
        import torch

        rows = [row for row, count in enumerate(new) for _ in range(count)]
        sources = [position for count in new for position in range(count)]
        targets = [past[row] + position for row, position in zip(rows, sources, strict=True)]
        row, source, target = torch.tensor([rows, sources, targets], device=device)
        return Appends(None, self.index(row, source), self.index(row, target))

    def append(self, cache: Tensor, new: Tensor, appends: Appends) -> Tensor:
        """Write what is new into a cache, in place, in the cache's element type; returns the cache."""
        if appends.start is not None:
            cache.narrow(self.POSITION, appends.start, new.shape[self.POSITION]).copy_(new)
        else:
            as_bytes(cache)[appends.target] = as_bytes(new.to(cache.dtype))[appends.source]
        return cache

    def append_on_device(self, cache: Tensor, new: Tensor, past: Tensor) -> None:
        """Write what is new into a cache from position `past[b]` of each row on, in place, as far as it fits.

        All positions of `new` are written, padding too. Nothing waits for the device, so that it can be captured.

        Args:
            cache: the cache, of any element type.
            new: what a step adds, of the same element type.
            past: `i32[B]`, on the device of the cache.
        """
        import torch

        axis = self.POSITION
        cache, new = as_bytes(cache), as_bytes(new)
        length, capacity = new.shape[axis], cache.shape[axis]
        if length == 1:
            index = self.along(past.clamp(max=capacity - 1).long(), self.ROW).expand_as(new)
            fits = self.along(past < capacity, self.ROW)
            cache.scatter_(axis, index, torch.where(fits, new, cache.gather(axis, index)))
            return
        distance = torch.arange(capacity, device=cache.device) - past[:, None]
        inside = self.along((distance >= 0) & (distance < length), self.ROW, axis)
        index = self.along(distance.clamp(0, length - 1), self.ROW, axis).expand_as(cache)
        cache.copy_(torch.where(inside, new.gather(axis, index), cache))

    def copy_rows(
        self, caches: Iterable[Tensor], sources: Sequence[int], destinations: Sequence[int], length: int | None = None
    ) -> None:
        """Make row `destinations[i]` of every cache what its row `sources[i]` is, for all i at once, in place.

        Beside the caches, it takes the memory of the copied rows of one cache.

        Args:
            caches: the caches.
            sources: rows; a row may be there several times.
            destinations: as many rows, each once.
            length: how many positions of a row to copy: those after them must mean nothing. All if None.
        """
        copy_along(self.ROW, (self.view(cache, slice(None), length) for cache in caches), sources, destinations)


def copy_along(axis: int, tensors: Iterable[Tensor], sources: Sequence[int], destinations: Sequence[int]) -> None:
    """Make index `destinations[i]` of an axis of every tensor what its index `sources[i]` is, all at once, in place.

    Beside the tensors, it takes the memory of what is copied of one of them.
    """
    import torch

    # Caches may have been made in inference mode, outside of which they could not be written to.
    with torch.inference_mode():
        index = torch.tensor([[*sources], [*destinations]], dtype=torch.int64)
        for tensor in map(as_bytes, tensors):
            if tensor.device.type == "cpu":
                _copy_one_by_one(tensor.unbind(axis), sources, destinations)
            else:
                index = index.to(tensor.device)
                tensor.index_copy_(axis, index[1], tensor.index_select(axis, index[0]))


def _copy_one_by_one(parts: Sequence[Tensor], sources: Sequence[int], destinations: Sequence[int]) -> None:
    """Copy parts of a tensor, of which those that are overwritten and copied are kept meanwhile.

    On a CPU this is twice as fast as to copy by index; on a GPU each copy would cost a launch.
    """
    kept = {source: parts[source].clone() for source in {*sources} & {*destinations}}
    for source, destination in zip(sources, destinations, strict=True):
        parts[destination].copy_(kept.get(source, parts[source]))


def as_bytes(tensor: Tensor) -> Tensor:
    """A tensor whose elements are moved by index: torch does not do so with some types of a byte, as which they are."""
    import torch

    return tensor.view(torch.int8) if tensor.dtype.itemsize == 1 else tensor


LINEAR = CacheLayout()
"""The layout of caches unless a pass changes it. TensorRT's own layer for caches has it, too."""
