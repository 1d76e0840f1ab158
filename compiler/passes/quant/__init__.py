"""Quantization: `quant` for the weights and inputs of linears, `kv` for caches."""

from compiler.passes.quant.quantize import Quantize
from compiler.passes.quant.recipe import Recipe, Target, targets

__all__ = ["Quantize", "Recipe", "Target", "targets"]
