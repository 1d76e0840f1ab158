"""Rounding as ops of a graph: weights by scales that are computed when an engine is built, and inputs of linears."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple
from weakref import WeakKeyDictionary

from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder
from compiler.passes.quant.algorithms.activations import LARGEST
from compiler.passes.quant.algorithms.scheme import LEAST_SCALE, Scheme
from compiler.passes.quant.recipe import Activations


class RoundedValue(NamedTuple):
    """A quantized value and its scale."""

    q: Value
    scale: Value


def round_weight(b: RewriteBuilder, weight: Value, scheme: Scheme) -> RoundedValue:
    """Append the ops that round a constant weight `[N, K]` to the nearest values of a symmetric scheme."""
    wide = weight if weight.type.dtype is DType.f32 else b.cast(weight, dtype=DType.f32, name="weight.f32")
    scale = _scale(b, _largest(b, wide, scheme), scheme.top, "weight")
    return RoundedValue(b.quantize(wide, scale, dtype=scheme.dtype, name="weight.packed"), scale)


def _largest(b: RewriteBuilder, weight: Value, scheme: Scheme) -> Value:
    """The largest absolute weight of each block: `[N, 1]`, `[N, K / group]` or `[1, 1]`."""
    if scheme.group:
        n, k = weight.type.sizes({})
        groups = b.reshape(weight, shape=(n, k // scheme.group, scheme.group), name="weight.groups")
        largest = b.amax(groups, axis=2, name="weight.amax")
        return b.reshape(largest, shape=(n, k // scheme.group), name="weight.largest")
    rows = b.amax(weight, axis=1, name="weight.amax")
    return b.amax(rows, axis=0, name="weight.amax") if scheme.whole else rows


def _scale(b: RewriteBuilder, largest: Value, top: float, name: str) -> Value:
    scale = b.scale(largest, factor=1 / top, name=f"{name}.ratio")
    return b.clamp(scale, min=LEAST_SCALE, max=float("inf"), name=f"{name}.scale")


class RoundInput(ABC):
    """Quantizes the inputs of linears; linears of one input share the result."""

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self._made: WeakKeyDictionary[RewriteBuilder, dict[str, Value]] = WeakKeyDictionary()

    def __call__(self, op: Op, b: RewriteBuilder) -> Value:
        """Append `dequantize(quantize(x))` of the input of a linear that is on rewritten operands."""
        x, made = op.operands[0], self._made.setdefault(b, {})
        if x.name not in made:
            made[x.name] = requantized(x, self.scale(op, b), self.dtype, b)
        return made[x.name]

    @abstractmethod
    def scale(self, op: Op, b: RewriteBuilder) -> Value:
        """Append the scale."""


class TokenScales(RoundInput):
    """A scale for each token, from its largest value."""

    def scale(self, op: Op, b: RewriteBuilder) -> Value:
        """Append the scales, `[..., 1]`."""
        x = op.operands[0]
        wide = x if x.type.dtype is DType.f32 else b.cast(x, dtype=DType.f32, name="x.f32")
        return _scale(b, b.amax(wide, axis=-1, name="x.amax"), LARGEST[self.dtype], "x")


class StaticScales(RoundInput):
    """A scale from calibration for each input."""

    def __init__(self, dtype: DType, amax: Mapping[str, float]) -> None:
        """`amax` says, by the linear's name, what becomes the largest value of the type."""
        super().__init__(dtype)
        self.amax = amax

    def scale(self, op: Op, b: RewriteBuilder) -> Value:
        """Append the scale, a constant."""
        number = max(self.amax[op.name] / LARGEST[self.dtype], LEAST_SCALE)
        shape = (1,) * op.operands[0].type.rank
        return b.literal(dtype=DType.f32, shape=shape, values=(number,), name="x.scale")


def input_rounding(act: Activations, dtype: DType, amax: Mapping[str, float]) -> RoundInput | None:
    """What does to the inputs of linears what `act` says; `amax` is for `static`, see there."""
    if act == "off":
        return None
    return TokenScales(dtype) if act == "token" else StaticScales(dtype, amax)


def requantized(x: Value, scale: Value, dtype: DType, b: RewriteBuilder) -> Value:
    """Append `dequantize(quantize(x, scale), scale)` in the type of `x`."""
    q = b.quantize(x, scale, dtype=dtype, name="x.packed")
    return b.dequantize(q, scale, dtype=x.type.dtype, name="x.rounded")
