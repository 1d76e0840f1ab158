"""Quantization: `quant` for the weights and inputs of linears, `kv` for caches."""

from compiler.passes.quant.caches.kv import QuantizeCaches
from compiler.passes.quant.linears.targets import TargetLinear, targets
from compiler.passes.quant.quantize import Quantize
from compiler.passes.quant.recipe import Recipe, algorithm

__all__ = ["Quantize", "QuantizeCaches", "Recipe", "TargetLinear", "algorithm", "targets"]
