"""compressed-tensors checkpoints, as llm-compressor writes them.

A module has `weight_packed i32[N, K * bits / 32]`, packed along the inputs, or `weight` in int8 or f8e4m3;
`weight_scale`, one for the weight, for each output or for each group of inputs; `weight_zero_point` if it is
asymmetric, packed along the outputs if the weight is packed; and `input_scale` if its inputs are quantized by
calibration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compiler.errors import CheckpointError, ConfigError
from compiler.frontends.quantized.packed import Enter, Options, Packed, has_any, ordered
from compiler.frontends.quantized.stored_scales import static_input, stored_cache_scale, token_input, weight_scale
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

if TYPE_CHECKING:
    from compiler.frontends.weights import Weights

_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense")
_STRATEGIES = ("tensor", "channel", "group", "block")


class CompressedTensors:
    """See `Scheme`."""

    def __init__(self, options: Options) -> None:
        """Read the options; ConfigError if one is not supported."""
        self._file = options.file
        options.only("format", *_FORMATS)
        options.only("quantization_status", "compressed", "frozen")
        sparsity = options.get("sparsity_config", kind=dict, default={})
        Options(options.file, sparsity).only("format", "dense")
        groups = options.get("config_groups", kind=dict)
        self._groups = [_Group(Options(f"{options.file}, {name},", group)) for name, group in groups.items()]
        cache = options.get("kv_cache_scheme", kind=dict, default={})
        self._cache = cache_type(Options(f"{options.file}, kv_cache_scheme,", cache)) if cache else None

    @property
    def cache(self) -> DType | None:
        """See `Scheme.cache`."""
        return self._cache

    def weight(self, weights: Weights, module: str, out: int, width: int, name: str) -> Packed | None:
        """See `Scheme.weight`."""
        if not has_any(weights, module, "weight_packed", "weight_scale"):
            return None
        group = next((group for group in self._groups if group.takes(module)), None)
        if group is None:
            raise CheckpointError(
                f"the module {module!r} is quantized, but no group of {self._file} targets it",
                hint="config.json and the weights belong to different models",
            )
        return group.weight(weights, module, out, width, name)

    def cache_scale(self, weights: Weights, module: str, which: str, heads: int) -> Value:
        """See `Scheme.cache_scale`."""
        return stored_cache_scale(weights, (f"{module}.{which}_scale",), heads, f"{which}.cache_scale")


def cache_type(options: Options) -> DType:
    """The type of caches that a `kv_cache_scheme` describes."""
    options.only("num_bits", 8)
    options.only("dynamic", False)
    options.only("symmetric", True)
    options.only("strategy", "tensor", "attn_head")
    return DType.f8e4m3 if options.only("type", "float", "int") == "float" else DType.i8


class _Group:
    """The modules that are quantized alike."""

    def __init__(self, options: Options) -> None:
        options.only("format", *_FORMATS)
        self.targets = options.get("targets", kind=list)
        weights = _described(options, "weights")
        weights.only("strategy", *_STRATEGIES)
        weights.only("dynamic", False)
        self.bits: int = weights.get("num_bits", kind=int, default=8)
        self.float = weights.only("type", "int", "float") == "float"
        weights.only("num_bits", *((8,) if self.float else (8, 4, 2, 3, 5, 6, 7)))
        self.symmetric = weights.only("symmetric", True, False)
        self.by_index = weights.only("actorder", None, False, True, "group", "dynamic", "weight", "static") in (
            *(True, "group", "dynamic"),
        )
        self.activations = _activations(options)

    def takes(self, module: str) -> bool:
        """Whether the module is one of the targets, by name or by a pattern; `Linear` stands for all."""
        return any(
            re.match(target.removeprefix("re:"), module) is not None
            if target.startswith("re:")
            else target in ("Linear", module)
            for target in map(str, self.targets)
        )

    def weight(self, weights: Weights, module: str, out: int, width: int, name: str) -> Packed:
        """See `Scheme.weight`."""
        scale = weight_scale(weights, f"{module}.weight_scale", out, width, f"{name}.scale")
        q = self._q(weights, module, out, width, name)
        zero = self._zero(weights, module, scale, q.type.dtype, name)
        enter = self._enter(weights, module, name)
        groups = scale.type.sizes({})[1]
        if self.by_index and groups > 1:
            numbers = weights.raw(f"{module}.weight_g_idx", width, dtypes=(DType.i32,), name=f"{name}.groups")
            q, sort = ordered(weights.b, q, numbers, groups, name)
            return Packed(q, scale, zero, _both(sort, enter))
        weights.drop(f"{module}.weight_g_idx")
        return Packed(q, scale, zero, enter)

    def _q(self, weights: Weights, module: str, out: int, width: int, name: str) -> Value:
        if not weights.has(f"{module}.weight_packed"):
            dtype = DType.f8e4m3 if self.float else DType.i8
            return weights.raw(f"{module}.weight", out, width, dtypes=(dtype,), name=f"{name}.packed")
        weights.drop(f"{module}.weight_shape")
        count = -(-width * self.bits // 32)
        words = weights.raw(f"{module}.weight_packed", out, count, dtypes=(DType.i32,), name=f"{name}.words")
        return self._unpacked(weights, words, 1, width, f"{name}.packed")

    def _zero(self, weights: Weights, module: str, scale: Value, dtype: DType, name: str) -> Value | None:
        tensor = f"{module}.weight_zero_point"
        if self.symmetric or self.float:
            weights.drop(tensor)  # zeros, where they are there at all
            return None
        rows, groups = scale.type.sizes({})
        if weights.has(f"{module}.weight_packed") and rows > 1:
            count = -(-rows * self.bits // 32)
            words = weights.raw(tensor, count, groups, dtypes=(DType.i32,), name=f"{name}.zero.words")
            return self._unpacked(weights, words, 0, rows, f"{name}.zero")
        stored = weights.raw(tensor, *weights.shape(tensor), dtypes=(DType.i8,), name=f"{name}.zero.stored")
        shaped = weights.b.reshape(stored, shape=(rows, groups), name=f"{name}.zero.blocks")
        if dtype is DType.i8:
            return shaped  # type: ignore[no-any-return]
        return weights.b.cast(shaped, dtype=dtype, name=f"{name}.zero")  # type: ignore[no-any-return]

    def _unpacked(self, weights: Weights, words: Value, axis: int, size: int, name: str) -> Value:
        """The integers of words, without what fills the last word."""
        b = weights.b
        every: Value = b.unpack(words, bits=self.bits, axis=axis, name=name)
        if every.type.shape[axis] == size:
            return every
        return b.slice(every, axis=axis, start=0, size=size, name=f"{name}.cut")  # type: ignore[no-any-return]

    def _enter(self, weights: Weights, module: str, name: str) -> Enter | None:
        if self.activations is None:
            return None
        dtype = DType.f8e4m3 if self.activations.only("type", "int", "float") == "float" else DType.i8
        if self.activations.only("dynamic", False, True):
            return token_input(dtype)
        symmetric = self.activations.only("symmetric", True, False)
        if symmetric:
            weights.drop(f"{module}.input_zero_point")
        return static_input(weights, module, dtype, name, zero=not symmetric)


def _described(options: Options, key: str) -> Options:
    return Options(f"{options.file} {key},", options.get(key, kind=dict))


def _activations(options: Options) -> Options | None:
    """How inputs are quantized; None if they are not."""
    given: Mapping[str, Any] = options.get("input_activations", kind=dict, default={})
    if Options(options.file, options.get("output_activations", kind=dict, default={})).values:
        raise ConfigError(
            f"{options.file} quantizes outputs, which is not supported",
            hint="compile the unquantized checkpoint, and let llmc quantize it",
        )
    if not given:
        return None
    found = _described(options, "input_activations")
    found.only("num_bits", 8)
    if found.only("dynamic", False, True):
        found.only("strategy", "token")
        found.only("symmetric", True)
    else:
        found.only("strategy", "tensor")
    return found


def _both(first: Enter, second: Enter | None) -> Enter:
    return first if second is None else lambda b, x: second(b, first(b, x))
