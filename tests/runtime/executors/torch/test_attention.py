"""The executor's attention against the interpreter's, for attention that rounds between the steps and that does not.

Bounds are derived: each of the steps (product, scale, bias, softmax, context) errs by its unit in the last place, and
softmax turns an error of the scores by d into one of the probabilities by a factor of at most exp(2 d).
"""

import pytest
import torch

from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.interpreter import Interpreter
from compiler.ir.torch_types import to_torch
from tests.runtime.executors.torch.lowered import lowered

B, S, C = symbol("B"), symbol("S"), symbol("C")
WIDTH, SCALE = 16, 0.3


def attention_graph(dtype, kv_heads, bias, rounded):
    b = Builder()
    b.dims = {name: DimRange(1, 2, 64) for name in "BSC"}
    q, (k, v) = b.input("q", dtype, B, 4, S, WIDTH), (b.input(name, dtype, B, kv_heads, C, WIDTH) for name in "kv")
    extra = [b.input("bias", dtype, 4, 1, C)] if bias else []
    mask = b.input("mask", DType.bool, B, 1, S, C)
    b.output("y", b.attention(q, k, v, mask, *extra, scale=SCALE, rounded=rounded))
    return b.build()


def inputs_of(graph, sizes):
    generator = torch.Generator().manual_seed(0)
    inputs = {v.name: torch.randn(v.type.sizes(sizes), generator=generator) for v in graph.inputs}
    inputs["mask"] = inputs["mask"] > -0.5
    inputs["mask"][..., 0] = True
    return {v.name: inputs[v.name].to(to_torch(v.type.dtype)) for v in graph.inputs}


def run(graph, inputs):
    """What the executor computes on a CPU, where it holds 16-bit values as float32."""
    wide = [x.float() if x.is_floating_point() else x for x in inputs.values()]
    return lowered(graph).run(*wide, writes=None)[0].double()


def bound(inputs, step, sums):
    """How far attention may be from the exact one: steps round in units of `step`, sums in units of `sums`."""
    q, k, v = (inputs[name].double().abs() for name in "qkv")
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    keys = k.shape[2]
    product = q @ k.mT * SCALE
    biased = product + inputs["bias"].double().abs() if "bias" in inputs else product
    # Product, scaled product and sum are each rounded; the product is a sum of WIDTH terms.
    scores = ((2 * step + WIDTH * sums) * product + step * biased).amax(-1, keepdim=True)
    # exp, its sum and the quotient in `sums`; then the probability is rounded. The last term is for underflow.
    relative = torch.expm1(2 * scores + (keys + 8) * sums + step) + keys * sums
    exact = exact_probs(inputs)
    return (exact * relative) @ v + 2.0**-25 * v.sum(2, keepdim=True)


def exact_probs(inputs):
    q, k = inputs["q"].double(), inputs["k"].double()
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT * SCALE
    scores = scores + inputs["bias"].double() if "bias" in inputs else scores
    return torch.softmax(scores.masked_fill(~inputs["mask"], float("-inf")), -1)


@pytest.mark.parametrize("dtype", [DType.f32, DType.f16, DType.bf16])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("length", [1, 5])
def test_both_kinds_of_attention(dtype, kv_heads, bias, length):
    unit = torch.finfo(to_torch(dtype)).eps / 2
    single = torch.finfo(torch.float32).eps / 2
    for rounded in (False, True):
        graph = attention_graph(dtype, kv_heads, bias, rounded)
        inputs = inputs_of(graph, {"B": 2, "S": length, "C": 40})
        exact = Interpreter(graph, accumulate=torch.float64, exact=True)(inputs)["y"]
        meant = Interpreter(graph)(inputs)["y"].double()
        found = run(graph, inputs)
        # The executor rounds nothing between the steps, even where it may.
        fine = bound(inputs, single, single)
        assert ((found - exact).abs() <= fine + single * exact.abs()).all()
        coarse = bound(inputs, unit if rounded else single, single)
        allowed = fine + coarse + (single + unit) * (exact.abs() + coarse)
        assert ((found - meant).abs() <= allowed).all()


def test_16_bits_are_what_the_bound_is_for():
    """The steps that are rounded err more than those that are not may."""
    graph = attention_graph(DType.bf16, 2, True, True)
    inputs = inputs_of(graph, {"B": 2, "S": 5, "C": 40})
    exact = Interpreter(graph, accumulate=torch.float64, exact=True)(inputs)["y"]
    error = (Interpreter(graph)(inputs)["y"].double() - exact).abs()
    single, unit = torch.finfo(torch.float32).eps / 2, torch.finfo(torch.bfloat16).eps / 2
    assert (error > bound(inputs, single, single) + (single + unit) * exact.abs()).any()
