"""compressed-tensors checkpoints, as llm-compressor writes them.

A module has `weight_packed i32[N, K * bits / 32]`, packed along the inputs, or `weight` in int8 or f8e4m3;
`weight_scale`, one for the weight, for each output, or for each group of inputs or block; `weight_zero_point` if it is
asymmetric, packed along the outputs if the weight is packed; and `input_scale` if its inputs are quantized by
calibration.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from compiler.errors import CheckpointError
from compiler.frontends.quantized.compressed_group import FORMATS, Group
from compiler.frontends.quantized.packed import Options, PackedLinear, has_any
from compiler.frontends.quantized.stored_scales import stored_cache_scale
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

if TYPE_CHECKING:
    from compiler.frontends.weights import Weights


class CompressedTensors:
    """See `PackedScheme`."""

    def __init__(self, options: Options) -> None:
        """Read the options; ConfigError if one is not supported."""
        self._file = options.file
        options.only("format", *FORMATS)
        options.only("quantization_status", "compressed", "frozen")
        options.only("transform_config", {})
        if options.take("sparsity_config", dict, default={}):
            options.section("sparsity_config").only("format", "dense")
        groups = options.section("config_groups")
        self._targets = {
            target: group for group in map(Group, map(groups.section, groups.values)) for target in group.targets
        }
        cache = options.take("kv_cache_scheme", dict, default={})
        self._cache = cache_type(options.section("kv_cache_scheme")) if cache else None

    @property
    def cache(self) -> DType | None:
        """See `PackedScheme.cache`."""
        return self._cache

    def weight(self, weights: Weights, module: str, out: int, width: int, name: str) -> PackedLinear | None:
        """See `PackedScheme.weight`."""
        if not has_any(weights, module, "weight_packed", "weight_scale"):
            return None
        target = self._target(module)
        if target is None:
            raise CheckpointError(
                f"the module {module!r} is quantized, but no group of {self._file} targets it",
                hint="config.json and the weights belong to different models",
            )
        return self._targets[target].weight(weights, module, out, width, name)

    def cache_scale(self, weights: Weights, module: str, which: str, heads: int) -> Value:
        """See `PackedScheme.cache_scale`."""
        return stored_cache_scale(weights, (f"{module}.{which}_scale",), heads, f"{which}.cache_scale")

    def _target(self, module: str) -> str | None:
        """Of the targets that a module is among: its name, else the first pattern in the alphabet, else its class."""
        patterns = sorted(target for target in self._targets if target.startswith("re:"))
        found = (target for target in patterns if re.match(target.removeprefix("re:"), module))
        return next((target for target in (module, *found, "Linear") if target in self._targets), None)


def cache_type(options: Options) -> DType:
    """The type of caches that a `kv_cache_scheme` describes."""
    options.only("num_bits", 8)
    options.only("dynamic", False)
    options.only("symmetric", True)
    options.only("strategy", "tensor", "attn_head")
    return DType.f8e4m3 if options.only("type", "float", "int") == "float" else DType.i8
