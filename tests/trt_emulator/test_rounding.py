"""Layers on 16-bit floats beside torch's functions in float64: they compute in float32 and round once, at the end."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.trt_emulator.layers import emulated_kinds
from compiler.trt_emulator.memory import TORCH_TYPES
from compiler.trt_network.products import PRODUCT, ProductSpec
from tests.trt_emulator.networks import evaluate

LINEAR = {"op0": "NONE", "op1": "TRANSPOSE"}
ATTENTION = {"norm_op": "SOFTMAX", "causal_kind": "LOWER_RIGHT", "query_form": "PADDED_BHND"}


def rotated(x, cos, sin):
    """Halves of the heads turned as complex numbers."""
    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.complex(cos, sin).unsqueeze(1)
    return torch.cat([turned.real, turned.imag], -1)


def attended(q, k, v):
    queries, keys = q.shape[2], k.shape[2]
    keep = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, scale=1.0, enable_gqa=True)


# For each kind: the shapes of its inputs, the layer's properties, and torch's function.
LAYERS: dict[str, tuple[list[tuple[int, ...]], dict[str, Any], Callable[..., Tensor]]] = {
    "ACTIVATION": (
        [(40, 50)],
        {"type": "GELU_TANH", "alpha": 0.0, "beta": 0.0},
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "ATTENTION": ([(2, 4, 20, 16), (2, 2, 33, 16), (2, 2, 33, 16)], ATTENTION, attended),
    "CUMULATIVE": ([(4, 200)], {"op": "SUM", "exclusive": False, "reverse": False}, lambda x: x.cumsum(1)),
    "EINSUM": ([(2, 9, 64), (2, 30, 64)], {"equation": "bik,bjk->bij"}, lambda a, b: a @ b.mT),
    "ELEMENTWISE": ([(40, 50), (40, 50)], {"op": "DIV"}, lambda a, b: a / b),
    "MATRIX_MULTIPLY": ([(20, 300), (30, 300)], LINEAR, F.linear),
    "NORMALIZATION": (
        [(30, 64), (1, 64), (1, 64)],
        {"axes": 0b10, "epsilon": 1e-5, "num_groups": 1, "is_v2": True},
        lambda x, scale, bias: F.layer_norm(x, (64,), scale[0], bias[0], 1e-5),
    ),
    PRODUCT: (
        [(20, 300), (30, 300), (30,)],
        ProductSpec("dense", 30, 300, bias=True, activation="silu").params,
        lambda x, w, b: F.silu(F.linear(x, w, b)),
    ),
    "REDUCE": ([(500, 90)], {"op": "AVG", "axes": 0b10, "keep_dims": False}, lambda x: x.mean(1)),
    "ROTARY_EMBEDDING": (
        [(2, 3, 20, 16), (2, 20, 8), (2, 20, 8)],
        {"interleaved": False, "rotary_embedding_dim": 0},
        rotated,
    ),
    "SOFTMAX": ([(30, 60)], {"axes": 0b10}, lambda x: torch.softmax(x, 1)),
    "UNARY": ([(40, 50)], {"op": "SIN"}, torch.sin),
}

# These do not round: they move elements, or make what the types hold exactly; the others have their own rule.
MOVING = {"CAST", "CONCATENATION", "DIST_COLLECTIVE", "FILL", "GATHER", "IDENTITY", "KV_CACHE_UPDATE", "SCATTER"}
MOVING |= {"SELECT", "SHAPE", "SHUFFLE", "SLICE", "SQUEEZE", "UNSQUEEZE"}
QUANTIZING = {"QUANTIZE", "DEQUANTIZE"}
BESIDE_KERNELS = {"llmc::attention"}  # tests/runtime/executors/cuda/test_plugin_kernels.py


def test_every_layer_that_rounds_is_here():
    assert set(emulated_kinds()) == LAYERS.keys() | MOVING | QUANTIZING | BESIDE_KERNELS


def random(shape, seed, dtype):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", ["HALF", "BF16"])
@pytest.mark.parametrize("kind", LAYERS)
def test_one_rounding(kind, dtype):
    shapes, params, function = LAYERS[kind]
    given = [random(shape, seed, TORCH_TYPES[dtype]) for seed, shape in enumerate(shapes)]
    exact = function(*(x.double() for x in given))
    extra = [torch.tensor(1, dtype=torch.int32)] if kind == "CUMULATIVE" else []
    constants = [1] if extra else []
    result = evaluate(kind, [*given, *extra], dtype, exact.shape, constants=constants, **params)
    # A second rounding inside would change far more than one element in a hundred.
    same = (result == exact.to(TORCH_TYPES[dtype])).double().mean().item()
    assert result.dtype == TORCH_TYPES[dtype] and same > 0.99
    torch.testing.assert_close(result.double(), exact, rtol=torch.finfo(TORCH_TYPES[dtype]).eps, atol=1e-5)


@pytest.mark.parametrize("dtype", ["HALF", "BF16"])
@pytest.mark.parametrize("source", ["INT8", "FP8"])
def test_dequantize_rounds_once(source, dtype):
    q = (random((40, 50), 0, torch.float32) * 40).to(TORCH_TYPES[source])
    scale = random((50,), 1, TORCH_TYPES[dtype]).abs() + 0.01
    exact = q.double() * scale.double()
    result = evaluate("DEQUANTIZE", [q, scale], dtype, (40, 50), axis=1, to_type=dtype)
    assert torch.equal(result, exact.to(TORCH_TYPES[dtype]))


@pytest.mark.parametrize("dtype", ["HALF", "BF16"])
def test_sums_of_many_terms_stay_in_float32(dtype):
    # In 16 bits the sum of ones would stay at 2048, or at 256.
    x = torch.ones(1, 4096).to(TORCH_TYPES[dtype])
    params: dict[str, Any] = {"op": "SUM", "axes": 0b10, "keep_dims": False}
    assert evaluate("REDUCE", [x], dtype, (1,), **params).item() == 4096
    weights = evaluate("SOFTMAX", [x * 0], dtype, (1, 4096), axes=0b10)
    assert (weights == 1 / 4096).all() and math.isclose(weights.double().sum().item(), 1)
