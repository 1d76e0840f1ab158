"""Quantized linears as layouts give them that know how they are stored, whatever the tool.

A module that is quantized has `weight` in i8, i4 or f8e4m3 and `weight_scale`; `weight_zero` if it is asymmetric;
`pre_quant_scale` or `smoother` if its inputs are multiplied or divided by factors; and, if inputs are quantized by
calibration, `input_scale`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.frontends.quantized.packed import Enter, Options, PackedLinear
from compiler.frontends.quantized.stored_scales import (
    chained,
    divided_input,
    scaled_input,
    static_input,
    stored_cache_scale,
    token_input,
    weight_scale,
)
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

if TYPE_CHECKING:
    from compiler.frontends.weights import Weights

_CACHES = {"int8": DType.i8, "fp8": DType.f8e4m3, "": None}
_QUANTIZED = (DType.i8, DType.i4, DType.f8e4m3)


class OfLayouts:
    """See `PackedScheme`."""

    def __init__(self, options: Options) -> None:
        """Read the options; ConfigError if one is not supported."""
        self._inputs = options.only("inputs", "", "static", "token")
        self._cache = _CACHES[options.only("kv_cache", *("", "int8", "fp8"))]

    @property
    def cache(self) -> DType | None:
        """See `PackedScheme.cache`."""
        return self._cache

    def weight(self, weights: Weights, module: str, out: int, width: int, name: str) -> PackedLinear | None:
        """See `PackedScheme.weight`."""
        if not weights.has(f"{module}.weight_scale"):
            return None
        scale = weight_scale(weights, f"{module}.weight_scale", out, width, f"{name}.scale")
        q = weights.raw(f"{module}.weight", out, width, dtypes=_QUANTIZED, name=f"{name}.packed")
        zero = None
        if weights.has(f"{module}.weight_zero"):
            shape = weights.shape(f"{module}.weight_zero")
            zero = weights.raw(f"{module}.weight_zero", *shape, dtypes=(q.type.dtype,), name=f"{name}.zero")
        return PackedLinear(q, scale, zero, self._enter(weights, module, width, q.type.dtype, name))

    def cache_scale(self, weights: Weights, module: str, which: str, heads: int) -> Value:
        """See `PackedScheme.cache_scale`."""
        return stored_cache_scale(weights, (f"{module}.{which}_scale",), heads, f"{which}.cache_scale")

    def _enter(self, weights: Weights, module: str, width: int, dtype: DType, name: str) -> Enter | None:
        steps: list[Enter] = []
        if weights.has(f"{module}.pre_quant_scale"):
            steps.append(scaled_input(weights, f"{module}.pre_quant_scale", width, name))
        if weights.has(f"{module}.smoother"):
            steps.append(divided_input(weights, f"{module}.smoother", width, name))
        if self._inputs == "static":
            steps.append(static_input(weights, module, dtype, name))
        elif self._inputs == "token":
            steps.append(token_input(dtype))
        return chained(*steps)
