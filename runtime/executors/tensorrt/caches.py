"""The caches of a session, which grow with its sequences."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from compiler.errors import RequestError
from runtime.executors.tensorrt.offers import CacheSize
from runtime.executors.tensorrt.signature import Signature


class Caches:
    """Tensors `[rows, heads, capacity, head_dim]`, zeroed where no run has written yet.

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
        rows, capacity = min(size.rows, self.size.rows), min(size.capacity, self.size.capacity)
        for cache in self._like:
            larger = self._zeros(cache.shape(size.rows, size.capacity), cache.dtype)
            larger[:rows, :, :capacity] = self.tensors[cache.name][:rows, :, :capacity]
            self.tensors[cache.name] = larger
        self.size = size

    def row(self, row: int) -> Mapping[str, Tensor]:
        """One row's part of the caches: `[1, heads, capacity, head_dim]` each, in place."""
        return {name: tensor[row : row + 1] for name, tensor in self.tensors.items()}

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        try:
            return torch.zeros(shape, dtype=dtype, device=self._device)
        except RuntimeError as error:
            raise RequestError(
                f"there is no memory for caches of {shape[0]} sequences of {shape[2]} tokens: {error}",
                hint="ask for fewer sequences at a time, or compile with a smaller --max-seq",
            ) from error


def cache_bytes(signature: Signature, size: CacheSize) -> int:
    """The bytes of caches of that size."""
    return sum(prod(c.shape(size.rows, size.capacity)) * c.dtype.itemsize for c in signature.caches)
