"""A quantized weight in memory, and its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import dequantize
from compiler.ir.int4 import unpack_int4

TILE = 1 << 18
"""Elements of a tile: as float32, they fit into a second-level cache."""


class PackedWeight(NamedTuple):
    """A quantized weight `[N, K]`.

    Attributes:
        q: int8, float8, or int4 two to a byte (uint8 `[N, K / 2]`, or flat).
        scale: float32 `[N or fewer, K or fewer]`.
        zero: int8 of the scale's shape, or None.
        shape: `(N, K)`.
        dtype: what `q` holds.
    """

    q: Tensor
    scale: Tensor
    zero: Tensor | None
    shape: tuple[int, int]
    dtype: DType

    def tiles(self) -> Iterator[tuple[int, Tensor]]:
        """The weight in float32, some rows at a time, each with the number of its first row."""
        rows, columns = self.shape
        step = max(TILE // columns, 1)
        block = rows // self.scale.shape[0]
        step = -(-step // block) * block if block < rows else step
        for start in range(0, rows, step):
            size = min(step, rows - start)
            parameters = [None if p is None else _rows(p, start, size, rows) for p in (self.scale, self.zero)]
            assert parameters[0] is not None
            yield start, dequantize(self.rows(start, size), parameters[0], parameters[1])

    def rows(self, start: int, size: int) -> Tensor:
        """Some rows, unpacked."""
        if self.dtype is not DType.i4:
            return self.q[start : start + size]
        columns = self.shape[1]
        first = start * columns // 2
        odd = start * columns % 2
        data = self.q[first : (start * columns + size * columns + 1) // 2]
        return unpack_int4(data, size * columns + odd)[odd:].view(size, columns)


def _rows(parameter: Tensor, start: int, size: int, rows: int) -> Tensor:
    count = parameter.shape[0]
    if count == 1:
        return parameter
    block = rows // count
    return parameter[start // block : -(-(start + size) // block)]
