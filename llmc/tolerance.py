"""How far logits may lie from a reference before rounding does not explain it.

Every layer rounds the values on its way to the logits a number of times to the element type, by at most eps / 2 of
their size each, and these errors are as good as independent: over the layers they add up like a random walk, to about
eps * sqrt(layers). Engine and reference both round, and models amplify some errors (a norm divides by what is left
after a subtraction), hence the factor. The logits of the examples, which have four layers, differ by up to 1.7 eps in
16 bits; the tolerance allows ten.

In float32 the order of a sum matters instead: executors sum products in different orders, and a sum of K terms has an
error of about eps * sqrt(K), with K around 4096. In 16 bits sums are done in float32, too, so this error is small
there.

Where activations are quantized to 8 bits, a value that lies near the bound between two codes can get either. Of values
that differ by eps of their size, a share of about eps / step gets another code, which is off by a step: an RMS of
sqrt(eps * step). A step of int8 is about 1/32 of the RMS (the largest value is some four times the RMS, and has 127
steps), one of e4m3 up to 1/8 of the value.
"""

from __future__ import annotations

import math

import torch

from compiler.ir.analysis import constant_values
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph

_FACTOR = 5.0
_TERMS = 4096
_SUMMING = torch.finfo(torch.float32).eps * math.sqrt(_TERMS)
_STEPS = {DType.i8: 1 / 32, DType.f8e4m3: 1 / 8}


def logits_tolerance(dtype: str, layers: int, step: float = 0.0) -> float:
    """The largest relative error of logits that rounding explains: RMS of the difference over RMS of the reference.

    Args:
        dtype: the element type computed in: `float32`, `float16` or `bfloat16`.
        layers: how many layers the model has.
        step: the step by which activations are quantized, relative to their size; 0 if they are not.
    """
    rounding = max(torch.finfo(getattr(torch, dtype)).eps, _SUMMING)
    return _FACTOR * math.sqrt(layers) * (math.sqrt(rounding * step) if step else rounding)


def quantization_step(*graphs: Graph) -> float:
    """The largest step by which graphs quantize what a run computes, relative to its size; 0 if they do not."""
    steps = [0.0]
    for graph in graphs:
        constant = constant_values(graph)
        steps += [_STEPS.get(op.result.type.dtype, 0.0) for op in graph.find("quantize") if op.name not in constant]
    return max(steps)
