"""AWQ checkpoints, as AutoAWQ lays them out in its version `gemm`; `compiler.frontends.quantized.awq` reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from compiler.exporters.formats.format import (
    Format,
    by_rows,
    input_refusal,
    inputs_in_order,
    kind_of,
    scales_of,
    unquantized,
    wanted_group,
    words_type,
    zeros_of,
)
from compiler.exporters.formats.packing import pack
from compiler.exporters.model import ExportedModel, ExportedTensor, QuantizedModule
from compiler.frontends.quantized.awq import ORDER
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType

_BITS, _PER_WORD = 4, 8


class Awq(Format):
    """Weights in 4 bits by groups; the inputs of an MLP's second linear may be divided by stored numbers."""

    name = "awq"
    summary = "weights in 4 bits, as AutoAWQ writes them"
    has_divisors = True

    def refusal(self, module: QuantizedModule) -> str | None:
        """See `Format.refusal`."""
        if module.dtype is not DType.i4:
            return f"has no place for weights in {kind_of(module.dtype)}"
        if not module.by_row:
            return "has no place for scales of blocks of rows"
        if (reason := input_refusal(module, divisors=True)) is not None:
            return reason
        out = module.sizes[0]
        return f"has no place for a weight of {out} outputs, which do not fill words of 8" if out % _PER_WORD else None

    def refusals_of_model(self, model: ExportedModel) -> Iterable[str]:
        """One size of groups serves all modules."""
        yield from super().refusals_of_model(model)
        groups = sorted({module.group for module in model.quantized.values()})
        if len(groups) > 1:
            yield f"has one size of groups for all modules, and the model has {groups[0]} and {groups[1]}"

    def tensors(self, b: Builder, module: QuantizedModule) -> list[ExportedTensor]:
        """See `Format.tensors`."""
        (out, width), name = module.sizes, module.name
        whole = by_rows(b, module)
        zero = zeros_of(b, whole)
        tensors = [
            ExportedTensor(f"{name}.qweight", words_type(width, out // _PER_WORD), inputs_in_order(b, module), _packed),
            ExportedTensor(f"{name}.qzeros", words_type(zero.type.sizes({})[1], out // _PER_WORD), zero, _packed),
            scales_of(b, whole, "scales", turned=True),
        ]
        factor, divisors = module.input.factor, module.input.divisors
        if factor is not None and divisors is not None:
            wide = b.cast(factor, dtype=DType.f32, name="factor")
            tensors.append(ExportedTensor(divisors, wide.type, wide, lambda x: 1 / x))
        return tensors

    def config(self, model: ExportedModel) -> dict[str, Any]:
        """See `Format.config`."""
        skipped = unquantized(model)
        return {
            "quant_method": "awq",
            "bits": _BITS,
            "group_size": wanted_group(model),
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": skipped or None,
        }


def _packed(x: Any) -> Any:
    """Integers `[N, columns]` in words `[columns, N / 8]`."""
    return pack(x.T, _BITS, order=ORDER)
