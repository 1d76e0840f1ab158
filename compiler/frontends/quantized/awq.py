"""AWQ checkpoints, as AutoAWQ writes them in its format `gemm`.

A module has `qweight i32[K, N / 8]` and `qzeros i32[groups, N / 8]`, both packed along the outputs in an order of their
own, and `scales [groups, N]`. Zero points that are all in the middle are left out. An activation function may be
followed by a division by `act.scales`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import CheckpointError
from compiler.frontends.quantized.packed import (
    Options,
    PackedLinear,
    groups_of,
    has_any,
    stored_integers,
    transposed,
    wide,
)
from compiler.frontends.quantized.uncached import Uncached
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

if TYPE_CHECKING:
    from compiler.frontends.weights import Weights

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The integers of a word, from the lowest bits up, are these of its eight columns."""


class AwqImporter(Uncached):
    """See `PackedScheme`."""

    def __init__(self, options: Options) -> None:
        """Read the options; ConfigError if one is not supported."""
        if "bits" in options.values:
            options.only("bits", 4)
        options.only("w_bit", 4)
        for name in ("version", "format", "checkpoint_format"):
            options.only(name, "gemm")
        options.without("backend", "llm-awq")
        options.only("zero_point", True, False)  # zero points are stored either way
        self.group = options.take("group_size", int, aliases=["q_group_size"], default=128)

    def weight(self, weights: Weights, module: str, out: int, width: int, name: str) -> PackedLinear | None:
        """See `PackedScheme.weight`."""
        if not has_any(weights, module, "qweight", "qzeros", "scales"):
            return None
        if out % 8:
            raise CheckpointError(f"{module} has {out} outputs, which do not fill words of 8")
        b = weights.b
        groups = groups_of(module, width, self.group)
        scales = weights.raw(
            f"{module}.scales", groups, out, dtypes=(DType.f32, DType.f16, DType.bf16), name=f"{name}.scale.stored"
        )
        zeros = f"{module}.qzeros"
        zero = _unpacked(weights, zeros, groups, out, f"{name}.zero")
        symmetric = not stored_integers(weights.read(zeros), bits=4, axis=1).any()
        return PackedLinear(
            _unpacked(weights, f"{module}.qweight", width, out, f"{name}.packed"),
            transposed(b, wide(b, scales, f"{name}.scale.f32"), f"{name}.scale"),
            None if symmetric else zero,
        )


def _unpacked(weights: Weights, tensor: str, rows: int, out: int, name: str) -> Value:
    """The stored `[rows, out]` as `i4[out, rows]`."""
    words = weights.raw(tensor, rows, out // 8, dtypes=(DType.i32,), name=f"{name}.words")
    return transposed(weights.b, weights.b.unpack(words, bits=4, axis=1, order=ORDER, name=f"{name}.stored"), name)
