"""Products of many rows, against float64."""

import ctypes

import pytest
import torch
from torch import Tensor

from runtime.executors.cpu.library import Library
from runtime.executors.cpu.program import ProgramBuilder, Size
from runtime.executors.cpu.wide import THREAD_SCRATCH, emit_pack_rows, row_form
from tests.runtime.executors.cpu.panels import BF16, Weight, random_weight

EPSILON = 2.0**-24
FLOAT_FORMS = [
    ("f32", 0, False),
    ("f16", 0, False),
    ("bf16", 0, False),
    ("f8", 0, False),
    ("f8", 1, False),
    ("i8", 1, False),
    ("i8", 4, True),
    ("i4", 1, False),
    ("i4", 3, False),
    ("i4", 4, True),
]
SHAPES = [(13, 40, 96), (25, 21, 312), (1, 16, 24), (40, 1, 1056)]
"""Rows, outputs, inputs: several blocks of rows and of words, and panels that are not full."""


def multiply(
    library: Library, x: Tensor, weight: Weight, *, row_scales: Tensor | None = None, threads: int = 2, margin: int = 0
) -> Tensor:
    """x [rows, k], of which rows are `margin` numbers apart, times the weight."""
    n, k = weight.values.shape
    builder = ProgramBuilder(library)
    room = torch.zeros(len(x), k + margin, dtype=x.dtype)
    room[:, :k] = x
    result = torch.full((len(x), n + margin), 7.0)
    memory = {"x": room, "result": result}
    rows = builder.external("x", Size.TOKENS, k, x.dtype, room.stride(0) * x.dtype.itemsize)
    out = builder.external("result", Size.TOKENS, n, torch.float32, result.stride(0) * 4)
    operands = [rows]
    if row_scales is not None:
        memory["scales"] = row_scales
        operands.append(builder.external("scales", Size.TOKENS, 1, torch.float32))
    packed = emit_pack_rows(builder, rows, row_form(library, weight.struct), 0)
    scratch = builder.temporary(Size.THREADS, THREAD_SCRATCH, torch.int8)
    builder.add("multiply_many", *operands, out, packed, scratch, attributes=weight.struct)
    builder.build().run({Size.TOKENS: len(x)}, memory, threads)
    assert (result[:, n:] == 7.0).all()
    return result[:, :n]


def assert_right(made: Tensor, x: Tensor, weight: Weight) -> None:
    """As near as a sum in float32, in any order, of products with weights rounded three times, must be."""
    exact = x.double() @ weight.values.T + weight.bias
    largest = x.double().abs() @ weight.values.abs().T + weight.bias.abs()
    assert ((made.double() - exact).abs() <= (x.shape[1] + 8) * EPSILON * largest + 1e-30).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FLOAT_FORMS, ids=str)
def test_float_rows_times_every_stored_form(
    library: Library, form: tuple[str, int, bool], shape: tuple[int, int, int]
) -> None:
    (stored, groups, zeros), (rows, n, k) = form, shape
    weight = random_weight(n, k, stored, groups=groups, zeros=zeros, seed=n)
    x = torch.randn(rows, k, generator=torch.Generator().manual_seed(k))
    assert_right(multiply(library, x, weight), x, weight)


@pytest.mark.parametrize("threads", [1, 3, 4])
@pytest.mark.parametrize("rows", [2, 7, 31, 400])
def test_rows_and_outputs_are_dealt_out_to_threads(library: Library, threads: int, rows: int) -> None:
    weight = random_weight(50, 33, "f32", bias=rows > 7)
    x = torch.randn(rows, 33, generator=torch.Generator().manual_seed(rows))
    assert_right(multiply(library, x, weight, threads=threads, margin=5), x, weight)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", [("bf16", 0, False), ("i8", 1, True), ("i8", 4, False), ("i4", 4, True)], ids=str)
def test_rows_that_the_graph_rounds_to_bfloat16(
    library: Library, form: tuple[str, int, bool], shape: tuple[int, int, int]
) -> None:
    (stored, groups, zeros), (rows, n, k) = form, shape
    weight = random_weight(n, k, stored, groups=groups, zeros=zeros, round_to=BF16, seed=n)
    x = torch.randn(rows, k, generator=torch.Generator().manual_seed(k)).bfloat16().float()
    assert_right(multiply(library, x, weight), x, weight)


@pytest.mark.parametrize("shape", [*SHAPES, (30, 35, 4003), (5, 3, 1)], ids=str)
def test_integers_are_summed_exactly(library: Library, shape: tuple[int, int, int]) -> None:
    rows, n, k = shape
    random = torch.Generator().manual_seed(k)
    weight = random_weight(n, k, "i8", integers=True, seed=n)
    x = torch.randint(-128, 128, (rows, k), generator=random, dtype=torch.int8)
    row_scales = torch.rand(rows, 1, generator=random)
    for extreme in (x, torch.full_like(x, -128), torch.full_like(x, 127)):
        made = multiply(library, extreme, weight, row_scales=row_scales, margin=3)
        product = extreme.double() @ weight.values.T * row_scales
        bound = 4 * EPSILON * (product.abs() + weight.bias.abs())
        assert ((made.double() - product - weight.bias).abs() <= bound).all()


def test_no_rows_are_packed_when_there_are_few(library: Library) -> None:
    builder = ProgramBuilder(library)
    x = builder.external("x", Size.TOKENS, 32, torch.float32)
    packed = emit_pack_rows(builder, x, 0, 4)
    builder.add("add", packed, packed, builder.external("packed", Size.TOKENS, 32, torch.float32))
    for rows, expected in ((4, 0.0), (5, 2.0)):
        result = torch.empty(rows, 32)
        program = builder.build()
        program._arena = torch.zeros(4096, dtype=torch.uint8)
        program.run({Size.TOKENS: rows}, {"x": torch.ones(rows, 32), "packed": result}, 1)
        assert (result == expected).all()


def test_scratch_is_as_large_as_the_kernel_takes(library: Library) -> None:
    assert library.function("thread_scratch_bytes", ctypes.c_int64)() == THREAD_SCRATCH
