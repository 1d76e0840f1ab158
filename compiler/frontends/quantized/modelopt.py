"""ModelOpt checkpoints, as TensorRT Model Optimizer exports them in the Hugging Face layout.

A module has `weight` in f8e4m3 or int8, or in u8, of which each byte holds two outputs, the even one in its low half;
`weight_scale`; `input_scale` if its inputs are quantized; and `pre_quant_scale` if they are multiplied by factors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from compiler.errors import CheckpointError
from compiler.frontends.quantized.compressed_tensors import cache_type
from compiler.frontends.quantized.packed import Enter, Options, PackedLinear
from compiler.frontends.quantized.stored_scales import (
    chained,
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


class _Algorithm(NamedTuple):
    """The type of weights, what of them shares a scale, and the scales of inputs: `static`, `token` or none."""

    dtype: DType
    by: str
    act: str = ""


_ALGORITHMS = {
    "fp8": _Algorithm(DType.f8e4m3, "tensor", "static"),
    "fp8_per_channel_per_token": _Algorithm(DType.f8e4m3, "channel", "token"),
    "w4a16_awq": _Algorithm(DType.i4, "group"),
    "w8a16": _Algorithm(DType.i8, "channel"),
    "w8a8_sq_per_channel": _Algorithm(DType.i8, "channel", "static"),
}


class ModelOpt:
    """See `PackedScheme`."""

    def __init__(self, options: Options) -> None:
        """Read the options; ConfigError if one is not supported."""
        inner = options.section("quantization") if "quantization" in options.values else options
        name = inner.only("quant_algo", "", *_ALGORITHMS)
        self._algorithm = _ALGORITHMS.get(name)
        inner.only("has_zero_point", False)
        self._group = inner.take("group_size", int, default=0)
        self._cache = _cache_type(inner)

    @property
    def cache(self) -> DType | None:
        """See `PackedScheme.cache`."""
        return self._cache

    def weight(self, weights: Weights, module: str, out: int, width: int, name: str) -> PackedLinear | None:
        """See `PackedScheme.weight`."""
        if self._algorithm is None or not self._quantized(weights, module):
            return None
        b, dtype, tensor = weights.b, self._algorithm.dtype, f"{module}.weight"
        # Some configs do not say how large the groups are.
        group = (1, self._group) if self._group > 0 else None
        block = {"tensor": (out, width), "channel": (1, width), "group": group}[self._algorithm.by]
        scale = weight_scale(weights, f"{module}.weight_scale", out, width, f"{name}.scale", block)
        if dtype is DType.i4:
            if out % 2:
                raise CheckpointError(f"{module} has {out} outputs, an odd number, of which bytes hold two each")
            pairs = weights.raw(tensor, out // 2, width, dtypes=(DType.u8,), name=f"{name}.words")
            q = b.unpack(pairs, bits=4, axis=0, signed=True, name=f"{name}.packed")
        else:
            q = weights.raw(tensor, out, width, dtypes=(dtype,), name=f"{name}.packed")
        return PackedLinear(q, scale, None, self._enter(weights, module, width, name))

    def cache_scale(self, weights: Weights, module: str, which: str, heads: int) -> Value:
        """See `PackedScheme.cache_scale`."""
        tensors = (f"{module}.{which}_proj.{which}_scale", f"{module}.{which}_scale")
        return stored_cache_scale(weights, tensors, heads, f"{which}.cache_scale")

    def _quantized(self, weights: Weights, module: str) -> bool:
        """By its scale, or by its type where the scale is missing."""
        stored = weights.tensors.get(f"{module}.weight")
        return weights.has(f"{module}.weight_scale") or (
            stored is not None and stored.dtype in (DType.u8, DType.i8, DType.f8e4m3)
        )

    def _enter(self, weights: Weights, module: str, width: int, name: str) -> Enter | None:
        assert self._algorithm is not None
        factors = f"{module}.pre_quant_scale"
        before = scaled_input(weights, factors, width, name) if weights.has(factors) else None
        if self._algorithm.act == "static":
            return chained(before, static_input(weights, module, self._algorithm.dtype, name))
        return chained(before, token_input(self._algorithm.dtype) if self._algorithm.act else None)


def _cache_type(options: Options) -> DType | None:
    """The type of caches, which newer versions describe by an object where they can, or else by the older name."""
    scheme = options.values.get("kv_cache_scheme")
    if isinstance(scheme, dict):
        return cache_type(options.section("kv_cache_scheme")) if scheme else None
    names = {"": None, "fp8": DType.f8e4m3, "int8": DType.i8}
    return names[options.only("kv_cache_quant_algo" if scheme is None else "kv_cache_scheme", *names)]
