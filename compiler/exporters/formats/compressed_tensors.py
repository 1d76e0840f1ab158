"""compressed-tensors checkpoints, as llm-compressor writes them.

Weights in 4 or 8 bits under inputs of 16 bits are `pack-quantized`, int8 weights under int8 inputs `int-quantized`, fp8
weights `float-quantized`; `compiler.frontends.quantized.compressed_tensors` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from compiler.exporters.formats.format import (
    HEADS,
    Format,
    as_stored,
    by_rows,
    group_index,
    inputs_in_order,
    scales_of,
    unquantized,
    words_type,
    zeros_of,
)
from compiler.exporters.formats.packing import pack, words_of
from compiler.exporters.inputs import InputForm
from compiler.exporters.model import CacheModule, ExportedModel, ExportedTensor, QuantizedModule
from compiler.ir.builder import Builder
from compiler.ir.cache_layout import LINEAR
from compiler.ir.dtypes import DType
from compiler.ir.paged_layout import PagedLayout

_PACKED, _INTEGER, _FLOAT, _MIXED, _DENSE = (
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "mixed-precision",
    "dense",
)


class CompressedTensors(Format):
    """Weights in 4 or 8 bits, int8 and fp8 inputs, and quantized caches."""

    name = "compressed-tensors"
    summary = "int4, int8 and fp8 weights, int8 and fp8 inputs and caches, as llm-compressor writes them"
    has_caches = True

    def needs_quantized(self, model: ExportedModel) -> bool:
        """See `Format.needs_quantized`."""
        return not model.quantized and not model.caches

    def refusal(self, module: QuantizedModule) -> str | None:
        """See `Format.refusal`."""
        form = module.input
        if form.factor is not None:
            return "has no place for factors of inputs"
        if form.dtype is not None and form.dtype is not module.dtype:
            return f"has no place for inputs in {form.dtype} and weights in {module.dtype}"
        if form.scale is not None and form.scale.type.elements != 1:
            return "has no place for several scales from calibration of one input"
        if module.dtype is DType.i4 and not module.by_row:
            return "has no place for scales of blocks of rows of packed weights"
        if form.dtype is not None and module.dtype is DType.i8 and module.group > 0:
            return "has no place for groups of int8 weights under int8 inputs"
        return None

    def refusals_of_model(self, model: ExportedModel) -> Iterable[str]:
        """Either all caches are quantized, and to one type, or none is."""
        yield from super().refusals_of_model(model)
        kinds = {(cache.dtype, _heads(cache) > 1) for cache in model.caches}
        if len(kinds) > 1 or len(model.caches) not in (0, model.cache_count):
            yield (
                f"has one scheme for all caches, and of {model.cache_count} caches {len(model.caches)} are quantized"
                + (" in several ways" if len(kinds) > 1 else "")
            )

    def tensors(self, b: Builder, module: QuantizedModule) -> list[ExportedTensor]:
        """See `Format.tensors`."""
        packed = _format_of(module) == _PACKED
        module = by_rows(b, module) if packed else module
        whole = self._packed(b, module) if packed else self._unpacked(b, module)
        if module.input.order is not None and module.group > 0:
            whole.append(group_index(b, module, f"{module.name}.weight_g_idx"))
        for value, word in ((module.input.scale, "input_scale"), (module.input.zero, "input_zero_point")):
            if value is not None:
                whole.append(as_stored(b, f"{module.name}.{word}", value, (1,)))
        return whole

    def _packed(self, b: Builder, module: QuantizedModule) -> list[ExportedTensor]:
        (out, width), bits, name = module.sizes, module.bits, module.name
        shape = b.literal(dtype=DType.i64, shape=(2,), values=(out, width), name="shape")
        tensors = [
            ExportedTensor(
                f"{name}.weight_packed",
                words_type(out, words_of(width, bits)),
                inputs_in_order(b, module),
                lambda x: pack(x, bits),
            ),
            scales_of(b, module, "weight_scale"),
            as_stored(b, f"{name}.weight_shape", shape),
        ]
        if module.zero is not None:
            zero = zeros_of(b, module)
            type_ = words_type(words_of(out, bits), zero.type.sizes({})[1])
            tensors.append(ExportedTensor(f"{name}.weight_zero_point", type_, zero, lambda x: _packed_columns(x, bits)))
        return tensors

    def _unpacked(self, b: Builder, module: QuantizedModule) -> list[ExportedTensor]:
        scale = scales_of(b, module, "weight_scale")
        if module.block == module.sizes:
            scale = as_stored(b, scale.name, scale.value, (1,))
        tensors = [as_stored(b, f"{module.name}.weight", inputs_in_order(b, module)), scale]
        if module.zero is not None:
            tensors.append(as_stored(b, f"{module.name}.weight_zero_point", module.zero, scale.type.sizes({})))
        return tensors

    def cache_tensors(self, b: Builder, model: ExportedModel) -> list[ExportedTensor]:
        """See `Format.cache_tensors`."""
        return [
            as_stored(
                b,
                f"{cache.name}.{cache.which}_scale",
                cache.scale,
                (1,) if _heads(cache) == 1 else (_heads(cache), 1, 1),
            )
            for cache in model.caches
        ]

    def config(self, model: ExportedModel) -> dict[str, Any]:
        """See `Format.config`."""
        schemes: list[tuple[dict[str, Any], list[str]]] = []
        for module in model.quantized.values():
            scheme = _scheme(module)
            known = next((names for other, names in schemes if other == scheme), None)
            if known is None:
                schemes.append((scheme, [module.name]))
            else:
                known.append(module.name)
        formats = {scheme["format"] for scheme, _ in schemes}
        left = unquantized(model)
        heads = [name for name in HEADS if name not in model.quantized]
        return {
            "quant_method": "compressed-tensors",
            "format": _DENSE if not formats else formats.pop() if len(formats) == 1 else _MIXED,
            "quantization_status": "compressed",
            "config_groups": {
                f"group_{i}": {"targets": ["Linear"] if len(schemes) == 1 else names, **scheme}
                for i, (scheme, names) in enumerate(schemes)
            },
            "ignore": [*left, *heads],
            "kv_cache_scheme": _cache_scheme(model.caches[0]) if model.caches else None,
        }


def _format_of(module: QuantizedModule) -> str:
    if not module.dtype.is_integer:
        return _FLOAT
    return _PACKED if module.input.dtype is None and module.by_row else _INTEGER


def _scheme(module: QuantizedModule) -> dict[str, Any]:
    """What the modules of a group have in common."""
    return {
        "format": _format_of(module),
        "weights": _weights(module),
        "input_activations": _activations(module.input),
        "output_activations": None,
    }


def _weights(module: QuantizedModule) -> dict[str, Any]:
    said = {
        "num_bits": module.bits,
        "type": "int" if module.dtype.is_integer else "float",
        "symmetric": module.zero is None,
        "dynamic": False,
        "group_size": None,
        "block_structure": None,
        "actorder": "group" if module.input.order is not None and module.group > 0 else None,
    }
    if module.block == module.sizes and _format_of(module) != _PACKED:
        return {**said, "strategy": "tensor"}
    if module.group < 0 and module.by_row:
        return {**said, "strategy": "channel"}
    if module.block[0] == 1:
        return {**said, "strategy": "group", "group_size": module.group}
    return {**said, "strategy": "block", "block_structure": list(module.block)}


def _activations(form: InputForm) -> dict[str, Any] | None:
    if form.dtype is None:
        return None
    return {
        "num_bits": 8,
        "type": "int" if form.dtype is DType.i8 else "float",
        "symmetric": form.zero is None,
        "dynamic": form.by == "token",
        "strategy": "token" if form.by == "token" else "tensor",
        "group_size": None,
    }


def _cache_scheme(cache: CacheModule) -> dict[str, Any]:
    return {
        "num_bits": 8,
        "type": "int" if cache.dtype is DType.i8 else "float",
        "symmetric": True,
        "dynamic": False,
        "strategy": "tensor" if _heads(cache) == 1 else "attn_head",
        "group_size": None,
    }


def _heads(cache: CacheModule) -> int:
    """How many heads have a scale of their own."""
    return max(cache.scale.type.sizes({})[axis] for axis in (LINEAR.HEAD, PagedLayout.HEAD))


def _packed_columns(zero: Tensor, bits: int) -> Tensor:
    """Zero points `[N, groups]` in words `[N * bits / 32, groups]`."""
    return pack(zero.T, bits).T.contiguous()
