"""Kernels of rows against the interpreter's evaluators, and functions of numbers against float64."""

from functools import partial

import pytest
import torch

import compiler.ir.evaluators.nn
import compiler.ir.evaluators.quant  # noqa: F401 - registers them
from compiler.ir.dtypes import DType
from compiler.ir.evaluators.core import evaluator
from compiler.ir.evaluators.quant import RANGES
from runtime.executors.cpu import rows
from tests.runtime.executors.cpu.kernel_runs import run_op

EPS = torch.finfo(torch.float32).eps
SHAPES = [(1, 1), (1, 2050), (2, 8192), (3, 37), (9, 64)]
"""One row, few, and several for each thread; whole vectors and others."""


def meaning(kind, *operands, **attrs):
    return evaluator(kind).compute(attrs, {}, *operands)


def random(*shape, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * scale


def strided(tensor):
    """The same numbers as some columns of a wider matrix; around them NaN or the largest integers."""
    around = float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
    wide = torch.full((tensor.shape[0], tensor.shape[1] + 16), around).to(tensor.dtype)
    view = wide[:, 8:-8]
    view.copy_(tensor)
    return view


def empty(*shape, dtype=torch.float32):
    return strided(torch.zeros(shape, dtype=dtype))


def untouched_around(view):
    """Whether a kernel wrote only into the columns of a view that `strided` made."""
    wide = view._base
    reference = strided(torch.zeros(view.shape, dtype=view.dtype))._base
    return all(
        torch.equal(wide[:, edge].view(torch.uint8), reference[:, edge].view(torch.uint8))
        for edge in (slice(0, 8), slice(-8, None))
    )


def apply(library, emit, operands, shape, dtype=torch.float32, threads=2):
    """What an op computes of operands that are parts of wider matrices."""
    out = empty(*shape, dtype=dtype)
    run_op(library, emit, [*map(strided, operands), out], threads)
    assert untouched_around(out)
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", sorted(rows.BINARY))
def test_arithmetic(library, kind, shape):
    a, b = random(*shape), random(*shape) + 3
    emit = partial(rows_binary, kind)
    for left, right in [(a, b), (a[:1], b), (a, b[:1]), (a[:, :1], b), (a, b[:, :1]), (a[:1, :1], b)]:
        assert torch.equal(apply(library, emit, [left, right], shape), meaning(kind, left, right).expand(shape))


def rows_binary(kind, builder, *matrices):
    rows.emit_binary(builder, kind, *matrices)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("kind", ["add", "sub", "mul"])
def test_arithmetic_of_integers(library, kind, dtype):
    a = torch.arange(9, dtype=dtype).reshape(9, 1) * 10**6 + 1
    for b in (torch.tensor([[2]], dtype=dtype), a + 7):
        expected = meaning(kind, a, b)
        assert torch.equal(apply(library, partial(rows_binary, kind), [a, b], (9, 1), dtype), expected)


def test_sum_in_place(library):
    a, b = random(5, 100), random(5, 100)
    changed = a.clone()
    run_op(library, lambda builder, x, y: rows.emit_binary(builder, "add", x, y, x), [changed, b])
    assert torch.equal(changed, a + b)


FUNCTIONS = {
    "relu": ({}, "relu"),
    "silu": ({}, "silu"),
    "sigmoid": ({}, "sigmoid"),
    "tanh": ({}, "tanh"),
    "gelu_tanh": ({"tanh": True}, "gelu"),
    "gelu_erf": ({"tanh": False}, "gelu"),
    "cos": ({}, "cos"),
    "sin": ({}, "sin"),
}


def all_sizes():
    """Numbers of every size from 1e-6 to 20, both signs, and 0: 4095 of them."""
    sizes = torch.cat([torch.logspace(-6, 0, 1023), torch.linspace(1, 20, 1024)])
    return torch.cat([-sizes, torch.zeros(1), sizes])[None]


def allowed_error(kernel, x, exact):
    """Two units in the last place of the result; what is x times a number near 0 may be wrong by such a unit of x."""
    cancels = kernel in ("gelu_tanh", "gelu_erf")
    return 2 * EPS * (x.abs() if cancels else exact.abs()).clamp(min=1e-30)


@pytest.mark.parametrize("kernel", sorted({*FUNCTIONS} - {"cos", "sin"}))
def test_functions(library, kernel):
    attrs, kind = FUNCTIONS[kernel]
    x = all_sizes()
    exact = meaning(kind, x.double(), **attrs)
    result = apply(library, partial(emit_unary, kernel), [x], x.shape)
    assert ((result - exact).abs() <= allowed_error(kernel, x, exact)).all()


def emit_unary(kernel, builder, *matrices):
    rows.emit_unary(builder, kernel, *matrices)


@pytest.mark.parametrize("kernel", ["cos", "sin"])
@pytest.mark.parametrize("largest", [20, 2**20, 2**30], ids=str)
def test_angles(library, kernel, largest):
    x = (all_sizes() * (largest / 20)).reshape(5, -1)
    result = apply(library, partial(emit_unary, kernel), [x], x.shape)
    assert (result - getattr(x.double(), kernel)()).abs().max() <= EPS


@pytest.mark.parametrize("kernel", sorted(FUNCTIONS))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_functions_of_every_shape(library, kernel, shape):
    attrs, kind = FUNCTIONS[kernel]
    x = random(*shape, scale=2)
    exact = meaning(kind, x.double(), **attrs)
    for threads in (1, 3):
        result = apply(library, partial(emit_unary, kernel), [x], shape, threads=threads)
        torch.testing.assert_close(result.double(), exact, rtol=2 * EPS, atol=8 * EPS)


@pytest.mark.parametrize("kernel", sorted(FUNCTIONS))
def test_functions_pass_nan_on_and_stand_infinity(library, kernel):
    attrs, kind = FUNCTIONS[kernel]
    x = torch.tensor([[float("nan"), float("inf"), 500.0, -500.0]])
    result = apply(library, partial(emit_unary, kernel), [x], x.shape)
    expected = meaning(kind, x.double(), **attrs).float()
    torch.testing.assert_close(result, expected, rtol=2 * EPS, atol=1e-30, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scale_and_clamp(library, shape):
    x = random(*shape)
    scaled = apply(library, lambda builder, a, out: rows.emit_scale(builder, a, out, 0.3), [x], shape)
    assert torch.equal(scaled, meaning("scale", x, factor=0.3))
    clamped = apply(library, lambda builder, a, out: rows.emit_clamp(builder, a, out, -0.5, 0.75), [x], shape)
    assert torch.equal(clamped, meaning("clamp", x, min=-0.5, max=0.75))
    above = apply(library, lambda builder, a, out: rows.emit_clamp(builder, a, out, 0.1, None), [x], shape)
    assert torch.equal(above, x.clamp(min=0.1))


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("tokens", "width"), [(1, 64), (2, 5), (7, 100), (3, 2048)])
def test_norms(library, kind, heads, tokens, width):
    x = random(tokens, heads * width) + 10
    weight, bias = random(width), random(width + 1)[1:].contiguous()
    for parameters in ([], [weight], [weight, bias]):
        if kind == "rms_norm" and len(parameters) == 2:
            continue
        exact = meaning(kind, x.double().reshape(tokens, heads, width), *[p.double() for p in parameters], eps=1e-5)
        emit = partial(emit_norm, kind, parameters, width)
        result = apply(library, emit, [x], x.shape)
        # The error of the mean, which is near 10, is one unit in the last place of it; so is that of each difference.
        atol = 8 * 10 * EPS * (1 + weight.abs().max().item())
        torch.testing.assert_close(result.double(), exact.reshape(x.shape), rtol=4 * EPS, atol=atol)


def emit_norm(kind, parameters, width, builder, x, out):
    weight, bias = [*parameters, None, None][:2]
    if kind == "layer_norm":
        rows.emit_layer_norm(builder, x, out, weight, bias, 1e-5, width)
    else:
        rows.emit_rms_norm(builder, x, out, weight, 1e-5, width)


@pytest.mark.parametrize(("groups", "width"), [(1, 37), (4, 16), (2, 1)])
def test_amax(library, groups, width):
    x = random(5, groups * width)
    x[3, 0] = float("nan")
    x[4, -1] = float("-inf")
    expected = meaning("amax", x.reshape(5, groups, width), axis=2)[..., 0]
    torch.testing.assert_close(
        apply(library, rows.emit_amax, [x], (5, groups)), expected, rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("half", "width"), [(8, 16), (3, 10), (32, 80), (64, 128), (100, 200), (1, 2)])
@pytest.mark.parametrize("tokens", [1, 6])
def test_rotary(library, interleaved, half, width, tokens):
    heads, angles = 3, random(tokens, half, scale=3)
    x, cos, sin = random(tokens, heads * width), angles.cos(), angles.sin()
    folded = x.reshape(1, tokens, heads, width).transpose(1, 2)
    expected = meaning("rotary", folded, cos[None], sin[None], interleaved=interleaved).transpose(1, 2).reshape(x.shape)

    def emit(builder, x, cos, sin, out):
        rows.emit_rotary(builder, x, cos, sin, out, width, interleaved=interleaved)

    result = apply(library, emit, [x, cos, sin], x.shape)
    torch.testing.assert_close(result, expected, rtol=0, atol=4 * EPS * x.abs().max().item())
    changed = strided(x)
    run_op(library, lambda builder, x, cos, sin: emit(builder, x, cos, sin, x), [changed, cos, sin])
    assert torch.equal(changed, result)
    assert untouched_around(changed)


def emit_embedding(table, builder, ids, out):
    rows.emit_embedding(builder, ids, out, table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize("columns", [7, 1500])
def test_embedding(library, dtype, ids, columns):
    table, chosen = random(11, columns).to(dtype), torch.tensor([[3], [0], [10], [3], [5]], dtype=ids)
    for count in (5, 1):
        result = apply(
            library, lambda b, i, out: rows.emit_embedding(b, i, out, table), [chosen[:count]], (count, columns)
        )
        assert torch.equal(result, meaning("embedding", table.float(), chosen[:count, 0]))


def test_embedding_of_int8_with_scales(library):
    table = torch.arange(-128, 127, dtype=torch.int8).reshape(5, 51)
    scales = random(5).abs()
    ids = torch.tensor([[4], [2]], dtype=torch.int32)
    result = apply(library, lambda b, i, out: rows.emit_embedding(b, i, out, table, scales), [ids], (2, 51))
    assert torch.equal(result, meaning("dequantize", table, scales[:, None])[[4, 2]])


def test_an_id_that_the_table_has_not_gives_nan(library):
    ids = torch.tensor([[5], [-1], [2]], dtype=torch.int32)
    table = random(5, 20)
    result = apply(library, partial(emit_embedding, table), [ids], (3, 20))
    assert result[:2].isnan().all()
    assert torch.equal(result[2], table[2])


SCALES = {"tensor": (1, 1), "token": (9, 1), "column": (1, 96), "group": (1, 3), "token's group": (9, 4)}


@pytest.mark.parametrize("dtype", [DType.i8, DType.i4, DType.f8e4m3], ids=str)
@pytest.mark.parametrize("shape", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("with_zero", [False, True])
def test_quantization(library, dtype, shape, with_zero):
    low, high = RANGES[dtype]
    if with_zero and dtype is DType.f8e4m3:
        return
    x = random(9, 96, scale=3)
    scale = random(*shape).abs() / high * 6 + 1e-3
    x[2, :64] = (torch.arange(64) - 31.5) * scale[-1, 0]  # ties
    x[3, :3] = torch.tensor([1e30, float("-inf"), float("nan") if dtype is not DType.f8e4m3 else 0])
    zero = [torch.arange(scale.numel(), dtype=torch.int8).reshape(shape) % 8 - 3] if with_zero else []
    stored = torch.float8_e4m3fn if dtype is DType.f8e4m3 else torch.int8

    def emit_quantize(builder, x, scale, *rest):
        rows.emit_quantize(builder, x, scale, rest[0] if with_zero else None, rest[-1], low, high)

    def emit_dequantize(builder, q, scale, *rest):
        rows.emit_dequantize(builder, q, scale, rest[0] if with_zero else None, rest[-1])

    scales = scale.expand(9 if shape[0] > 1 else 1, -1)
    q = apply(library, emit_quantize, [x, scales, *zero], x.shape, stored)
    expected = meaning("quantize", x, scale, *zero, dtype=dtype)
    assert torch.equal(q.contiguous().view(torch.uint8), expected.view(torch.uint8))
    back = apply(library, emit_dequantize, [q, scales, *zero], x.shape)
    assert torch.equal(back, meaning("dequantize", expected, scale, *zero))
    one = apply(library, emit_quantize, [x[:1], scales[:1], *[z[:1] for z in zero]], (1, 96), stored)
    assert torch.equal(one.contiguous().view(torch.uint8), expected[:1].view(torch.uint8))


FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
INTEGERS = [torch.int8, torch.int32, torch.int64, torch.bool]


def numbers_of(dtype):
    """Numbers that every type can be converted from and to, with ties between neighbours in narrow types."""
    if dtype in FLOATS:
        return torch.cat([torch.linspace(-100, 100, 401), torch.linspace(-1, 1, 1025) / 64]).to(dtype)
    return torch.arange(-100, 101).to(dtype)


@pytest.mark.parametrize("source", FLOATS + INTEGERS, ids=str)
@pytest.mark.parametrize("target", FLOATS + INTEGERS, ids=str)
def test_copy_converts_as_torch_does(library, source, target):
    x = numbers_of(source)[None]
    result = torch.zeros(x.shape, dtype=target)
    run_op(library, rows.emit_copy, [x, result])
    assert torch.equal(result.view(torch.uint8), x.to(target).view(torch.uint8))


@pytest.mark.parametrize("target", FLOATS[1:], ids=str)
def test_copy_of_what_narrow_floats_have_at_their_ends(library, target):
    finfo = torch.finfo(target)
    ends = [finfo.max, finfo.tiny, finfo.smallest_normal, finfo.smallest_normal / 2**12, 0.0, -0.0]
    x = torch.tensor([[end * factor for end in ends for factor in (-1.0, 0.999, 1.0, 1.01, 1.2)]])
    x = torch.cat([x, torch.tensor([[float("inf"), -float("inf"), float("nan")]])], 1)
    result = torch.zeros(x.shape, dtype=target)
    run_op(library, rows.emit_copy, [x, result])
    expected = x.to(target)
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result.float().nan_to_num(), expected.float().nan_to_num())
    back = torch.zeros(x.shape)
    run_op(library, rows.emit_copy, [expected, back])
    torch.testing.assert_close(back, expected.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_copy_from_and_to_parts_of_rows(library, dtype, shape):
    x = random(*shape, scale=100).to(dtype)
    assert torch.equal(apply(library, rows.emit_copy, [x], shape, dtype), x)
    assert torch.equal(apply(library, rows.emit_copy, [x[:1]], shape, dtype), x[:1].expand(shape))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_gather_rows(library, dtype):
    x, index = random(6, 700), torch.tensor([[5], [0], [5]], dtype=dtype)
    for chosen in (index, index[:1]):
        result = apply(library, rows.emit_gather_rows, [x, chosen], (len(chosen), 700))
        assert torch.equal(result, meaning("gather_rows", x[None], chosen.T)[0])
