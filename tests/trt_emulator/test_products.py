"""The plug-in layer of products beside products in float64, over weights in the order in which kernels read them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compiler.errors import TargetError
from compiler.ir.int4 import chunk_int4, chunk_of, unchunk_int4
from compiler.trt_network.products import PRODUCT, ProductSpec
from tests.trt_emulator.networks import evaluate

ROWS, COLUMNS = 24, 128


def given(spec: ProductSpec) -> tuple[list[Tensor], Tensor]:
    """The inputs of a layer, and its weight in float64."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, COLUMNS, generator=g)
    groups = COLUMNS // spec.group
    scale = torch.rand(groups, ROWS, generator=g) + 0.1
    zero = torch.randint(-7, 8, (groups, ROWS), generator=g, dtype=torch.int8)
    values = torch.randint(-8, 8, (ROWS, COLUMNS), generator=g, dtype=torch.int8)
    codes = values
    if spec.form == "int4":
        codes = chunk_int4(values, spec.chunk).contiguous().view(torch.int8)
    elif spec.form == "float8":
        values = torch.randn(ROWS, COLUMNS, generator=g).to(torch.float8_e4m3fn)
        codes = values.view(torch.int8)
    spread = [each.t().double().repeat_interleave(spec.group, 1) for each in (scale, zero)]
    wide = (values.double() - (spread[1] if spec.zero else 0)) * spread[0]
    return [x, codes, scale * spec.factor, *([zero] if spec.zero else [])], wide


SPECS = [
    ProductSpec("int4", ROWS, COLUMNS, 32, 32, zero=True),
    ProductSpec("int4", ROWS, COLUMNS, 128, 128),
    ProductSpec("int8", ROWS, COLUMNS, 128, zero=True),
    ProductSpec("float8", ROWS, COLUMNS, 64, factor=256.0),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.form}-{spec.group}")
def test_a_weight_is_dequantized(spec: ProductSpec) -> None:
    inputs, weight = given(spec)
    found = evaluate(PRODUCT, inputs, "FLOAT", (2, 3, ROWS), **spec.params)
    torch.testing.assert_close(found.double(), inputs[0].double() @ weight.T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("each", [True, False], ids=["a scale for each", "one scale"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=["int8", "float8"])
def test_activations_may_be_rounded(dtype: torch.dtype, each: bool) -> None:
    spec = ProductSpec("int8" if dtype is torch.int8 else "float8", ROWS, COLUMNS, COLUMNS, rounded="HALF")
    (x, codes, scale), weight = given(spec)
    codes = codes if dtype is torch.int8 else codes.view(dtype)
    x = (x * 30).to(dtype)
    x_scale = torch.rand((2, 3, 1) if each else (1,), generator=torch.Generator().manual_seed(2)) / 50
    found = evaluate(PRODUCT, [x, x_scale, codes, scale], "HALF", (2, 3, ROWS), **spec.params)
    expected = (x.double() * x_scale.double()) @ weight.T
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": "2"}, "version = 2, which the emulator lacks"),
        ({"form": "int3"}, "form = int3, which the emulator lacks"),
        ({"activation": "tanh"}, "activation = tanh, which the emulator lacks"),
        ({"bias": True}, "reads 4 tensors, not x, codes, scale, zero, bias"),
        ({"axis": 1}, "axis = 1, a property that the emulator does not know"),
    ],
)
def test_what_the_emulator_does_not_know_is_refused(changed: dict[str, Any], message: str) -> None:
    inputs, _ = given(SPECS[0])
    with pytest.raises(TargetError, match=message):
        evaluate(PRODUCT, inputs, "FLOAT", (2, 3, ROWS), **SPECS[0].params | changed)


def test_what_a_plan_keeps_of_a_product_is_read_back() -> None:
    for spec in SPECS:
        assert ProductSpec.read(spec.text) == spec == ProductSpec.of(spec.params)


@pytest.mark.parametrize("chunk", [32, 64, 128])
def test_chunks_of_int4_are_undone(chunk: int) -> None:
    values = torch.randint(-8, 8, (5, 256), dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    data = chunk_int4(values, chunk)
    assert data.shape == (256 // chunk, 5, chunk // 2) and data.dtype is torch.uint8
    assert torch.equal(unchunk_int4(data), values)


def test_chunks_share_scales_where_they_can() -> None:
    assert [chunk_of((256,), group) for group in (256, 128, 64, 32)] == [128, 128, 64, 32]
    assert chunk_of((96, 32), 32) == 32 and chunk_of((160,), 160) == 32 and chunk_of((48,), 48) is None
