"""Products with random weights, and what they are in float64."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import dequantize
from compiler.ir.int4 import pack_int4
from runtime.executors.cuda.kernels.products import Product, Rounded, Section
from runtime.executors.cuda.kernels.tuning import BUCKETS, Config, Tuning
from runtime.executors.cuda.kernels.weights import WeightPart
from runtime.executors.torch.packed import PackedWeight

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": partial(torch.nn.functional.gelu, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}
FORMS = {"int8": DType.i8, "int4": DType.i4, "float8": DType.f8e4m3}
LAUNCHES = {"dot": Config("dot", 32, 64, 4, 3, 1), "gemv": Config("gemv", 16, 128, 4, 3, 1)}
SLICED = Config("sliced", 32, 256, 2, 3, 1)
WIDE = Config("wide", 32, 128, 4, 3, 1, 16)


class Case(NamedTuple):
    """A product to test: `group` columns share a scale, 0 if all of a row do, -1 if all of a tensor do.

    Activations may be `rounded` to the type of the weight, with `one_scale` for all rows or one for each.
    """

    form: str
    group: int = 0
    zero: bool = False
    dtype: torch.dtype = torch.float16
    rows: int = 3
    sections: Sequence[Section] = (Section(57, None),)
    columns: Sequence[int] = (256,)
    bias: bool = False
    config: Config = LAUNCHES["dot"]
    seed: int = 0
    rounded: bool = False
    one_scale: bool = False


class Built(NamedTuple):
    """A product, activations for it, and float64: what it gives, its linear part, and a bound of both's errors."""

    product: Product
    xs: list[Tensor | Rounded]
    expected: Tensor
    linear: Tensor
    sums: Tensor


def part(case: Case, n: int, k: int, g: torch.Generator) -> tuple[WeightPart, Tensor]:
    """A random weight `[n, k]`, and its float64 values."""
    if case.form == "dense":
        dense = torch.randn(n, k, generator=g).to(case.dtype)
        return dense, dense.double()
    scale = torch.rand(1 if case.group < 0 else n, k // case.group if case.group > 0 else 1, generator=g) * 0.1 + 0.01
    zero = torch.randint(-8, 8, scale.shape, generator=g, dtype=torch.int8) if case.zero else None
    dtype = FORMS[case.form]
    if case.form == "float8":
        q = (torch.randn(n, k, generator=g) * 3 ** torch.randint(-6, 5, (n, k), generator=g)).to(torch.float8_e4m3fn)
        return PackedWeight(q, scale, zero, (n, k), dtype), dequantize(q.double(), scale.double(), zero)
    low = -8 if case.form == "int4" else -128
    q = torch.randint(low, -low, (n, k), generator=g, dtype=torch.int8)
    values = pack_int4(q) if case.form == "int4" else q
    return PackedWeight(values, scale, zero, (n, k), dtype), dequantize(q, scale.double(), zero)


def grid(case: Case, g: torch.Generator) -> tuple[list[list[WeightPart]], Tensor]:
    """The parts of a case's weight, and its float64 values."""
    rows = [[part(case, section.size, k, g) for k in case.columns] for section in case.sections]
    return [[p for p, _ in row] for row in rows], torch.cat([torch.cat([v for _, v in row], 1) for row in rows])


def rounded_rows(case: Case, k: int, g: torch.Generator) -> Rounded:
    """Random 8-bit rows `[rows, k]`, and their scales."""
    scale = torch.rand((1,) if case.one_scale else (case.rows, 1), generator=g) * 0.1 + 0.01
    if case.form == "float8":
        exponents = torch.randint(-6, 5, (case.rows, k), generator=g)
        return Rounded((torch.randn(case.rows, k, generator=g) * 3**exponents).to(torch.float8_e4m3fn), scale)
    return Rounded(torch.randint(-128, 128, (case.rows, k), generator=g, dtype=torch.int8), scale)


def build(case: Case, device: torch.device) -> Built:
    """A case's product; its activations are rows of wider ones."""
    g = torch.Generator().manual_seed(case.seed)
    parts, weight = grid(case, g)
    n = len(weight)
    bias = torch.randn(n, generator=g).to(case.dtype) if case.bias else None
    table = Tuning(None, 4, 1 << 17)
    product = Product(parts, case.sections, bias, case.dtype, device, table)
    table.known = {
        product.case(rows, p, r).key: case.config for rows in BUCKETS for p in (False, True) for r in (False, True)
    }
    wide = [torch.randn(case.rows, k + 16, generator=g).to(case.dtype) for k in case.columns]
    xs: list[Tensor | Rounded] = [x.to(device)[:, :k] for x, k in zip(wide, case.columns, strict=True)]
    values = [x[:, :k].double() for x, k in zip(wide, case.columns, strict=True)]
    if case.rounded:
        narrow = [rounded_rows(case, k, g) for k in case.columns]
        xs = [Rounded(x.q.to(device), x.scale.to(device)) for x in narrow]
        values = [x.q.double() * x.scale.double() for x in narrow]
    x = torch.cat(values, 1)
    linear = x @ weight.T
    sums = x.abs() @ weight.abs().T
    expected = linear if bias is None else linear + bias.double()
    pieces = expected.split([section.size for section in case.sections], 1)
    finished = [
        piece if section.activation is None else ACTIVATIONS[section.activation](piece)
        for piece, section in zip(pieces, case.sections, strict=True)
    ]
    return Built(product, xs, torch.cat(finished, 1), linear, sums)


def rounding(dtype: torch.dtype, device: torch.device) -> float:
    """The largest relative error of rounding to a type; Triton's interpreter cuts bfloat16 off instead."""
    cut = dtype is torch.bfloat16 and device.type == "cpu"
    return torch.finfo(dtype).eps / (1 if cut else 2)


def assert_right(y: Tensor, expected: Tensor, sums: Tensor, dtype: torch.dtype, *, sides: int = 0) -> None:
    """Whether values are what they should be, as far as a sum in float32 and one rounding to `dtype` allow.

    An error of a float32 sum of `k` products is at most about `k` float32 roundings of the sum of their sizes, and in
    practice far less than 64. Activations have slopes below 1.2. Where the factors of products are rounded to `dtype`,
    on one of the `sides` or on both, so is each product, by half a unit for each side.
    """
    unit = rounding(dtype, y.device)
    error = 64 * torch.finfo(torch.float32).eps * sums + unit * expected.abs() + sides * unit * sums
    excess = ((y.double().cpu() - expected).abs() - 1.2 * error - torch.finfo(dtype).smallest_normal).max()
    assert excess <= 0, f"off by {float(excess)} more than rounding allows"
