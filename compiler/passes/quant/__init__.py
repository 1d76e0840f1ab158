"""Quantization: `quant` for the weights and inputs of linears, `kv` for caches."""

from compiler.passes.quant.kv import QuantizeCaches
from compiler.passes.quant.quantize import Quantize
from compiler.passes.quant.recipe import Recipe, algorithm
from compiler.passes.quant.targets import Target, targets

__all__ = ["Quantize", "QuantizeCaches", "Recipe", "Target", "algorithm", "targets"]
