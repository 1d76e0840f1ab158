"""Rounding to the nearest value: scales from the largest weights, as ops that are computed when an engine is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder
from compiler.passes.quant.recipe import Recipe, dequantized_linear, rewrite_linears, targets

LARGEST = {DType.i8: 127, DType.i4: 7, DType.f8e4m3: 448}
"""The largest value of a quantized type that its negative is a value of, too."""

# Rows of zeros need a scale as well; any that float16 can hold will do.
LEAST_SCALE = 2.0**-24


class Rounded(NamedTuple):
    """A quantized value and its scale."""

    q: Value
    scale: Value


def quantize_rtn(graph: Graph, recipe: Recipe) -> Graph:
    """The graph with the weights of its targets rounded to the nearest value of the recipe's type.

    Activations are quantized, too, if `act` is `token`.

    Raises:
        PassError: as `targets`.
    """
    activation = TokenScales(recipe.dtype) if recipe.act == "token" else None

    def emit(op: Op, b: RewriteBuilder) -> Value:
        x = activation(op.operands[0], b) if activation else None
        rounded = round_weight(b, op.operands[1], recipe)
        return dequantized_linear(op, b, rounded.q, rounded.scale, x=x)

    return rewrite_linears(graph, {target.op.name: emit for target in targets(graph, recipe)})


def round_weight(b: RewriteBuilder, weight: Value, recipe: Recipe, *, bits: int | None = None) -> Rounded:
    """Append the ops that quantize a constant weight `[N, K]`.

    Args:
        b: the builder.
        weight: the weight.
        recipe: says the type, and which weights share a scale.
        bits: how many bits of an integer type to use; all if None.
    """
    largest = LARGEST[recipe.dtype] if bits is None else 2 ** (bits - 1) - 1
    wide = weight if weight.type.dtype is DType.f32 else b.cast(weight, dtype=DType.f32, name="weight.f32")
    scale = _scale(b, _largest(b, wide, recipe), largest, "weight")
    return Rounded(b.quantize(wide, scale, dtype=recipe.dtype, name="weight.packed"), scale)


def _largest(b: RewriteBuilder, weight: Value, recipe: Recipe) -> Value:
    """The largest absolute weight of each block: `[N, 1]`, `[N, K / group]` or `[1, 1]`."""
    if recipe.algorithm == "fp8" and recipe.weights == "tensor":
        rows = b.amax(weight, axis=1, name="weight.amax")
        return b.amax(rows, axis=0, name="weight.amax")  # type: ignore[no-any-return]
    if not recipe.group:
        return b.amax(weight, axis=1, name="weight.amax")  # type: ignore[no-any-return]
    n, k = weight.type.sizes({})
    groups = b.reshape(weight, shape=(n, k // recipe.group, recipe.group), name="weight.groups")
    largest = b.amax(groups, axis=2, name="weight.amax")
    return b.reshape(largest, shape=(n, k // recipe.group), name="weight.largest")  # type: ignore[no-any-return]


def _scale(b: RewriteBuilder, largest: Value, top: int, name: str) -> Value:
    scale = b.scale(largest, factor=1 / top, name=f"{name}.ratio")
    return b.clamp(scale, min=LEAST_SCALE, max=float("inf"), name=f"{name}.scale")  # type: ignore[no-any-return]


class TokenScales:
    """Quantizes activations by a scale for each token; linears of one input share the result."""

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self._made: dict[str, Value] = {}

    def __call__(self, x: Value, b: RewriteBuilder) -> Value:
        """`dequantize(quantize(x))`."""
        if x.name not in self._made:
            wide = x if x.type.dtype is DType.f32 else b.cast(x, dtype=DType.f32, name="x.f32")
            scale = _scale(b, b.amax(wide, axis=-1, name="x.amax"), LARGEST[self.dtype], "x")
            self._made[x.name] = requantized(x, scale, self.dtype, b)
        return self._made[x.name]


class StaticScales:
    """Quantizes activations by scales from calibration, one for each input of linears."""

    def __init__(self, dtype: DType, amax_of: Callable[[Value], float]) -> None:
        """`amax_of` gives the largest absolute value that calibration saw of an input."""
        self.dtype = dtype
        self.amax_of = amax_of
        self._made: dict[str, Value] = {}

    def __call__(self, x: Value, b: RewriteBuilder) -> Value:
        """`dequantize(quantize(x))`."""
        if x.name not in self._made:
            number = max(self.amax_of(x) / LARGEST[self.dtype], LEAST_SCALE)
            scale = b.literal(dtype=DType.f32, shape=(1,) * x.type.rank, values=(number,), name="x.scale")
            self._made[x.name] = requantized(x, scale, self.dtype, b)
        return self._made[x.name]


def requantized(x: Value, scale: Value, dtype: DType, b: RewriteBuilder) -> Value:
    """Append `dequantize(quantize(x, scale), scale)` in the type of `x`."""
    q = b.quantize(x, scale, dtype=dtype, name="x.packed")
    return b.dequantize(q, scale, dtype=x.type.dtype, name="x.rounded")  # type: ignore[no-any-return]
