"""Schemes that say nothing of caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import CheckpointError
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

if TYPE_CHECKING:
    from compiler.frontends.weights import Weights


class Uncached:
    """The part of a `PackedScheme` that is about caches, which stay as they are."""

    @property
    def cache(self) -> DType | None:
        """See `PackedScheme.cache`."""
        return None

    def cache_scale(self, weights: Weights, module: str, which: str, heads: int) -> Value:
        """CheckpointError: there are none."""
        raise CheckpointError(f"{module} has no scale for cached {which}")
