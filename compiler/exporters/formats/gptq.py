"""GPTQ checkpoints, as GPTQModel and AutoGPTQ lay them out; `compiler.frontends.quantized.gptq` reads them.

Zero points are those of the first version of the format, which stores each less one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from compiler.exporters.formats.format import (
    HEADS,
    Format,
    by_rows,
    group_index,
    input_refusal,
    inputs_in_order,
    kind_of,
    scales_of,
    unquantized,
    wanted_group,
    words_type,
    zeros_of,
)
from compiler.exporters.formats.packing import pack, signed, words_of
from compiler.exporters.model import ExportedModel, ExportedTensor, QuantizedModule
from compiler.ir.builder import Builder

# What is subtracted from a word, so that each of its zero points is one less.
_ONES = {4: 0x11111111, 8: 0x01010101}


class Gptq(Format):
    """Weights in 4 or 8 bits by groups, also in the order of activations."""

    name = "gptq"
    summary = "weights in 4 or 8 bits, as GPTQModel and AutoGPTQ write them"

    def refusal(self, module: QuantizedModule) -> str | None:
        """See `Format.refusal`."""
        out, width = module.sizes
        if not module.dtype.is_integer:
            return f"has no place for weights in {kind_of(module.dtype)}"
        if not module.by_row:
            return "has no place for scales of blocks of rows"
        if (reason := input_refusal(module, order=True)) is not None:
            return reason
        if out * module.bits % 32 or width * module.bits % 32:
            return f"has no place for a weight of {out} outputs and {width} inputs, which do not fill words of 32 bits"
        return None

    def refusals_of_model(self, model: ExportedModel) -> Iterable[str]:
        """One number of bits and one size of groups serve all modules."""
        yield from super().refusals_of_model(model)
        kinds = sorted({(module.bits, module.group) for module in model.quantized.values()})
        if len(kinds) > 1:
            named = " and ".join(f"{bits} bits in {_groups(group)}" for bits, group in kinds[:2])
            yield f"has one scheme for all modules, and the model has {named}"

    def tensors(self, b: Builder, module: QuantizedModule) -> list[ExportedTensor]:
        """See `Format.tensors`."""
        (out, width), bits, name = module.sizes, module.bits, module.name
        whole = by_rows(b, module)
        zero = zeros_of(b, whole)
        groups = zero.type.sizes({})[1]
        return [
            ExportedTensor(
                f"{name}.qweight",
                words_type(words_of(width, bits), out),
                inputs_in_order(b, module),
                lambda x: pack(x, bits).T.contiguous(),
            ),
            ExportedTensor(
                f"{name}.qzeros", words_type(groups, words_of(out, bits)), zero, lambda x: _less_one(x, bits)
            ),
            scales_of(b, whole, "scales", turned=True),
            group_index(b, module, f"{name}.g_idx"),
        ]

    def config(self, model: ExportedModel) -> dict[str, Any]:
        """See `Format.config`."""
        modules = model.quantized.values()
        first = next(iter(modules))
        skipped = unquantized(model)
        said: dict[str, Any] = {
            "quant_method": "gptq",
            "bits": first.bits,
            "group_size": wanted_group(model),
            "desc_act": any(module.input.order is not None for module in modules),
            "sym": all(module.zero is None for module in modules),
            "lm_head": any(name in HEADS for name in model.quantized),
            "checkpoint_format": "gptq",
            "pack_dtype": "int32",
        }
        if skipped:
            said["dynamic"] = {f"-:^{re.escape(name)}$": {} for name in skipped}
        return said


def _less_one(zero: Tensor, bits: int) -> Tensor:
    """Zero points `[N, groups]` in words `[groups, N * bits / 32]`, from each of which a one is subtracted."""
    return signed(pack(zero.T, bits).long() - _ONES[bits])


def _groups(group: int) -> str:
    return "whole rows" if group < 0 else f"groups of {group}"
