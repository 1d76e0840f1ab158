"""The caches of a session, which grow with its sequences."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.cache_layout import LINEAR
from runtime.executors.interface import RowCopies
from runtime.executors.tensorrt.candidates import CacheSize
from runtime.executors.tensorrt.signature import Signature


class Caches:
    """The caches of a batch, zeroed where no run has written yet.

    Attributes:
        size: the rows, and the tokens that each holds.
        tensors: the caches by name.
    """

    def __init__(self, signature: Signature, size: CacheSize, device: torch.device) -> None:
        """Allocate caches like those of a plan; RequestError if there is no memory."""
        self.size = size
        self._like, self._device = signature.caches, device
        self.tensors = {
            cache.name: self._zeros(cache.shape(size.rows, size.capacity), cache.dtype) for cache in self._like
        }

    @property
    def full(self) -> int:
        """The past of a row that is full: what a run writes for it is dropped."""
        return self.size.capacity if self.tensors else 0

    def grow(self, size: CacheSize) -> None:
        """Move to larger caches, one after the other; RequestError if there is no memory."""
        kept = slice(min(size.rows, self.size.rows)), min(size.capacity, self.size.capacity)
        for cache in self._like:
            larger = self._zeros(cache.shape(size.rows, size.capacity), cache.dtype)
            LINEAR.view(larger, *kept).copy_(LINEAR.view(self.tensors[cache.name], *kept))
            self.tensors[cache.name] = larger
        self.size = size

    def row(self, row: int) -> Mapping[str, Tensor]:
        """One row's part of the caches, in place: caches of one row."""
        return {name: LINEAR.view(tensor, slice(row, row + 1)) for name, tensor in self.tensors.items()}

    def copy_rows(self, copies: RowCopies) -> None:
        """Copy rows in place: where the caches lie, which runs have been told, does not change."""
        copies.apply(LINEAR, self.tensors.values())

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        try:
            return torch.zeros(shape, dtype=dtype, device=self._device)
        except RuntimeError as error:
            raise RequestError(
                f"there is no memory for caches of {shape[LINEAR.ROW]} sequences of {shape[LINEAR.POSITION]} tokens: "
                f"{error}",
                hint="ask for fewer sequences at a time, or compile with a smaller --max-seq",
            ) from error


def cache_bytes(signature: Signature, size: CacheSize) -> int:
    """The bytes of caches of that size."""
    return sum(prod(c.shape(size.rows, size.capacity)) * c.dtype.itemsize for c in signature.caches)
