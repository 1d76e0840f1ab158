"""Checkpoints that are not quantized."""

from __future__ import annotations

from typing import Any

from compiler.exporters.formats.format import Format, kind_of
from compiler.exporters.model import ExportedModel, ExportedTensor, QuantizedModule
from compiler.ir.builder import Builder


class Plain(Format):
    """Every weight in the type that the model computes in."""

    name = "safetensors"
    summary = "weights in float32, float16 or bfloat16"

    def needs_quantized(self, model: ExportedModel) -> bool:
        """It does not."""
        return False

    def refusal(self, module: QuantizedModule) -> str | None:
        """See `Format.refusal`."""
        return f"has no place for weights in {kind_of(module.dtype)}"

    def tensors(self, b: Builder, module: QuantizedModule) -> list[ExportedTensor]:
        """Never called: `refusal` has refused every such module."""
        raise AssertionError(f"{module.name} is quantized, which the format {self.name} refuses")

    def config(self, model: ExportedModel) -> dict[str, Any] | None:
        """See `Format.config`."""
        return None
