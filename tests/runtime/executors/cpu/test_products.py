"""Products of few and of many rows with weights in every stored form, against float64."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import dequantize
from compiler.ir.int4 import pack_int4
from runtime.executors.cpu.library import Library
from runtime.executors.cpu.products import Product, takes_integers
from runtime.executors.cpu.program import NativeProgram, ProgramBuilder, Size
from runtime.executors.torch.packed import PackedWeight

EPS = torch.finfo(torch.float32).eps
QUANTIZED = {"i8": DType.i8, "i4": DType.i4, "f8": DType.f8e4m3}
DENSE = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """A weight `[n, k]`: `groups` scales along k; `scaled` rows of scales, one for each output by default."""

    form: str
    n: int
    k: int
    groups: int = 1
    zero: bool = False
    scaled: int = 0
    bias: bool = True

    def __str__(self) -> str:
        return "-".join(str(value) for value in vars(self).values())


CASES = [
    *(Case(form, n, k) for form in (*DENSE, "i8", "f8", "i4") for n, k in ((64, 96), (37, 29), (5, 520))),
    Case("f32", 33, 1100, bias=False),
    Case("i8", 48, 96, groups=3),
    Case("i8", 40, 51, groups=17, zero=True),
    Case("i8", 32, 600, scaled=1),
    Case("i4", 48, 256, groups=8),
    Case("i4", 50, 256, groups=2, zero=True),
    Case("i4", 17, 45, zero=True),
    Case("i4", 16, 60, groups=5, zero=True),
    Case("i4", 24, 64, groups=2, scaled=4),
    Case("f8", 32, 64, scaled=1),
]


def weight_of(case: Case, g: torch.Generator) -> tuple[Tensor | PackedWeight, Tensor]:
    """A random weight, and its values in float64."""
    n, k = case.n, case.k
    if case.form in DENSE:
        dense = torch.randn(n, k, generator=g).to(DENSE[case.form])
        return dense, dense.double()
    shape = (case.scaled or n, case.groups)
    scale = torch.rand(shape, generator=g) * 0.1 + 0.01
    zero = torch.randint(-8, 8, shape, generator=g, dtype=torch.int8) if case.zero else None
    dtype = QUANTIZED[case.form]
    if dtype is DType.f8e4m3:
        values = torch.randn(n, k, generator=g) * 3.0 ** torch.randint(-6, 5, (n, k), generator=g)
        q = values.clamp(-448, 448).to(torch.float8_e4m3fn)
        return PackedWeight(q, scale, zero, (n, k), dtype), dequantize(q.double(), scale.double(), zero)
    low = -8 if dtype is DType.i4 else -128
    q = torch.randint(low, -low, (n, k), generator=g, dtype=torch.int8)
    stored = pack_int4(q) if dtype is DType.i4 else q
    return PackedWeight(stored, scale, zero, (n, k), dtype), dequantize(q, scale.double(), zero)


def program_of(product: Product, library: Library, *, one_scale: bool = False) -> NativeProgram:
    """A program that multiplies rows `x`, some columns of wider ones, into some columns of `out`."""
    builder = ProgramBuilder(library)
    dtype = torch.int8 if product.integers else torch.float32
    x = builder.external("x", Size.TOKENS, product.k + 8, dtype).narrow(4, product.k)
    scale = (
        builder.external("scale", Size.ONE if one_scale else Size.TOKENS, 1, torch.float32)
        if product.integers
        else None
    )
    out = builder.external("out", Size.TOKENS, product.n + 6, torch.float32).narrow(3, product.n)
    product.emit(builder, x, out, scale)
    return builder.build()


def run(program: NativeProgram, product: Product, x: Tensor, threads: int, scale: Tensor | None = None) -> Tensor:
    """The result; what lies beside it must not change."""
    rows = len(x)
    wide = torch.nn.functional.pad(x, (4, 4), value=100)
    out = torch.full((rows, product.n + 6), -7.0)
    memory = {"x": wide, "out": out} | ({} if scale is None else {"scale": scale})
    program.run({Size.TOKENS: rows}, memory, threads)
    assert (out[:, :3] == -7).all() and (out[:, -3:] == -7).all()
    return out[:, 3:-3]


def sizes_of_terms(case: Case, weight: Tensor | PackedWeight, x: Tensor, exact: Tensor) -> Tensor:
    """The sum of the sizes of what a kernel adds up: with zero points and offsets of int4, more than the products."""
    sizes = exact.abs()
    if isinstance(weight, PackedWeight) and (case.form == "i4" or case.zero):
        shape = torch.Size((case.n, case.k))
        scale = dequantize(torch.ones(shape), weight.scale, None).double()
        sizes = sizes + 2 * 16 * scale
    return x.double().abs() @ sizes.T


@pytest.mark.parametrize("case", CASES, ids=str)
def test_product_of_floats_is_that_of_the_dequantized_weight(library: Library, case: Case) -> None:
    g = torch.Generator().manual_seed(3)
    weight, exact = weight_of(case, g)
    bias = torch.randn(case.n, generator=g) if case.bias else None
    product = Product(library, weight, bias, threads=2)
    program = program_of(product, library)
    for rows in (1, 2, 3, 4, 5, 7, 8, 11, 12, 30):
        x = torch.randn(rows, case.k, generator=g)
        result = run(program, product, x, 1 + rows % 3)
        expected = x.double() @ exact.T + (0 if bias is None else bias.double())
        bound = 2 * EPS * case.k**0.5 * sizes_of_terms(case, weight, x, exact) + EPS * expected.abs()
        assert ((result.double() - expected).abs() <= bound).all()


@pytest.mark.parametrize("one_scale", [False, True])
@pytest.mark.parametrize(("n", "k"), [(64, 96), (37, 29), (5, 520), (16, 3)])
def test_product_of_integers_is_exact(library: Library, n: int, k: int, one_scale: bool) -> None:
    g = torch.Generator().manual_seed(5)
    q = torch.randint(-128, 128, (n, k), generator=g, dtype=torch.int8)
    q[0], q[-1] = -128, 127
    weight = PackedWeight(q, torch.rand(n, 1, generator=g), None, (n, k), DType.i8)
    assert takes_integers(weight)
    bias = torch.randn(n, generator=g)
    product = Product(library, weight, bias, integers=True)
    program = program_of(product, library, one_scale=one_scale)
    for rows in (1, 2, 3, 5, 8, 12, 30):
        x = torch.randint(-128, 128, (rows, k), generator=g, dtype=torch.int8)
        x[0], x[-1] = 127, -128
        scale = torch.rand(1 if one_scale else rows, 1, generator=g)
        result = run(program, product, x, 1 + rows % 3, scale)
        expected = (x.double() @ q.double().T).float() * weight.scale.reshape(-1) * scale
        torch.testing.assert_close(result, expected + bias, rtol=2 * EPS, atol=EPS * float(expected.abs().max()))


def test_kernel_for_few_rows_takes_as_many_as_it_is_told(library: Library) -> None:
    g = torch.Generator().manual_seed(7)
    weight, exact = weight_of(Case("f32", 40, 64), g)
    product = Product(library, weight)
    x = torch.randn(25, 64, generator=g)
    for few in (0, 24, 32):
        product.few = few
        result = run(program_of(product, library), product, x, 2)
        torch.testing.assert_close(result, (x.double() @ exact.T).float(), rtol=1e-5, atol=1e-4)


def test_weight_of_other_scales_or_zero_points_does_not_take_integers() -> None:
    q = torch.zeros(16, 32, dtype=torch.int8)
    assert not takes_integers(PackedWeight(q, torch.ones(16, 2), None, (16, 32), DType.i8))
    assert not takes_integers(PackedWeight(q, torch.ones(16, 1), torch.ones(16, 1).to(torch.int8), (16, 32), DType.i8))
    assert not takes_integers(torch.zeros(16, 32))


def test_memory_of_weights_is_counted(library: Library) -> None:
    assert Product(library, torch.zeros(16, 8)).nbytes == 16 * 8 * 4
    weight = PackedWeight(torch.zeros(16 * 4, dtype=torch.uint8), torch.ones(16, 1), None, (16, 8), DType.i4)
    assert Product(library, weight, torch.zeros(16)).nbytes == 16 * 8 // 2 + 2 * 16 * 4
