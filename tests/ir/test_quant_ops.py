"""The ops of quantization: types, meaning, storage in four bits, and pieces of quantized constants."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from compiler.errors import GraphError
from compiler.ir.builder import Builder
from compiler.ir.constants import needed_constants, stream_constants
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.files import read_graph
from compiler.ir.graph import DimRange, Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Value
from compiler.ir.sinking import sink_slices
from compiler.store import write_ranks


def literal(b: Builder, values: Tensor, dtype: DType, name: str) -> Value:
    return b.literal(dtype=dtype, shape=tuple(values.shape), values=tuple(values.flatten().tolist()), name=name)


def quantized(x: Tensor, scale: Tensor, dtype: DType, zero: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What the interpreter makes of `x`, and what comes back."""
    b = Builder()
    given = b.input("x", DType.f32, *x.shape)
    parameters = [literal(b, scale, DType.f32, "scale")]
    parameters += [] if zero is None else [literal(b, zero, dtype, "zero")]
    q = b.quantize(given, *parameters, dtype=dtype)
    b.output("q", q)
    b.output("x", b.dequantize(q, *parameters, dtype=DType.f32))
    out = Interpreter(b.build())({"x": x})
    return out["q"], out["x"]


def test_integers_are_nearest_with_halves_to_even_and_cut() -> None:
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, 1000.0, -1000.0, float("nan"), float("inf")]])
    q, _ = quantized(x, torch.ones(1, 1), DType.i8)
    assert q.dtype is torch.int8 and q.tolist() == [[0, 2, 2, 0, 127, -128, 0, 127]]
    assert quantized(x, torch.ones(1, 1), DType.i4)[0].tolist() == [[0, 2, 2, 0, 7, -8, 0, 7]]


def test_floats_of_eight_bits_are_nearest_and_cut() -> None:
    x = torch.tensor([[17.0, 19.0, 1e6, float("-inf"), 0.1]])
    q, _ = quantized(x, torch.ones(1, 1), DType.f8e4m3)
    assert q.float().tolist() == [[16.0, 20.0, 448.0, -448.0, 0.1015625]]


@pytest.mark.parametrize(
    ("shape", "scale"), [((4, 6), (1, 1)), ((4, 6), (4, 1)), ((4, 6), (4, 3)), ((4, 6), (2, 2)), ((2, 3, 4), (2, 3, 1))]
)
@pytest.mark.parametrize("with_zero", [False, True])
def test_a_scale_serves_a_block(shape: tuple[int, ...], scale: tuple[int, ...], with_zero: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, scales = torch.randn(shape, generator=generator), torch.rand(scale, generator=generator) / 20 + 0.02
    zeros = torch.randint(-9, 9, scale, generator=generator) if with_zero else None
    q, back = quantized(x, scales, DType.i8, zeros)
    for index in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        place = tuple(i * blocks // size for i, size, blocks in zip(index, shape, scale, strict=True))
        zero = 0 if zeros is None else zeros[place].item()
        one = scales[place].item()
        expected = max(-128, min(127, round(x[tuple(index)].item() / one) + zero))
        assert q[tuple(index)].item() == expected
        assert back[tuple(index)].item() == pytest.approx((expected - zero) * one, rel=1e-6)


def test_real_numbers_are_rounded_to_quantized_values_too() -> None:
    b = Builder()
    x, one = b.input("x", DType.f32, 1), literal(b, torch.ones(1), DType.f32, "one")
    b.output("y", b.quantize(x, one, dtype=DType.f8e4m3))
    run = Interpreter(b.build(), accumulate=torch.float64, exact=True)
    assert run({"x": torch.tensor([17.0])})["y"].item() == 16.0


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_positive_number_is_named(bad: float) -> None:
    with pytest.raises(GraphError, match=r"quantize %quantize .* NaN or infinite"):
        quantized(torch.ones(1, 2), torch.tensor([[bad]]), DType.i8)


def test_the_largest_absolute_value() -> None:
    b = Builder()
    b.dims["B"] = DimRange(1, 2, 4)
    b.output("y", b.amax(b.input("x", DType.f32, symbol("B"), 3), axis=-1))
    graph = b.build()
    assert str(graph.outputs["y"].type) == "f32[B,1]"
    assert Interpreter(graph)({"x": torch.tensor([[1.0, -5, 2], [0, 0, 0]])})["y"].tolist() == [[5], [0]]


@pytest.mark.parametrize(
    ("scale", "zero", "dtype", "message"),
    [
        ((4, 4), None, DType.i8, "do not divide"),
        ((6,), None, DType.i8, "as many dims"),
        ((4, 1), (1, 1), DType.i8, "zero points are"),
        ((4, 1), (4, 1), DType.f8e4m3, "no zero points"),
        ((4, 1), None, DType.i32, "quantized types"),
    ],
)
def test_what_does_not_fit_is_refused(
    scale: tuple[int, ...], zero: tuple[int, ...] | None, dtype: DType, message: str
) -> None:
    b = Builder()
    parameters = [b.input("scale", DType.f32, *scale)] + ([b.input("zero", dtype, *zero)] if zero else [])
    with pytest.raises(GraphError, match=message):
        b.quantize(b.input("x", DType.f32, 4, 6), *parameters, dtype=dtype)


def weights(dtype: DType, scale: tuple[int, ...]) -> Graph:
    """Two quantized weights `[4, 6]`, joined, cut, and multiplied by."""
    b = Builder()
    x, parts = b.input("x", DType.f32, 2, 6), []
    for i in range(2):
        wide = b.random(key=f"w{i}", dtype=DType.f32, shape=(4, 6), std=1.0, name=f"w{i}")
        scales = b.random(key=f"s{i}", dtype=DType.f32, shape=scale, mean=0.3, std=0.01, name=f"s{i}")
        q = b.quantize(wide, scales, dtype=dtype, name=f"q{i}")
        parts.append(b.dequantize(q, scales, dtype=DType.f32, name=f"d{i}"))
    whole = b.concat(*parts, axis=0, name="whole")
    rows = b.slice(whole, axis=0, start=4, size=2, name="rows")
    left, _ = b.split(parts[0], axis=1, sizes=(2, 4), names=("left", "right"))
    b.output("whole", b.linear(x, whole))
    b.output("rows", b.linear(x, rows))
    b.output("left", b.linear(b.slice(x, axis=1, start=0, size=2), left))
    return b.build()


@pytest.mark.parametrize("dtype", [DType.i8, DType.i4, DType.f8e4m3])
@pytest.mark.parametrize("scale", [(1, 1), (4, 1), (4, 3), (2, 3)])
def test_pieces_of_weights_stay_quantized_where_they_are_stored(
    dtype: DType, scale: tuple[int, ...], tmp_path: Path
) -> None:
    graph = weights(dtype, scale)
    x = {"x": torch.randn(2, 6, generator=torch.Generator().manual_seed(1))}
    expected = Interpreter(graph)(x)
    (emitted,) = write_ranks(graph, tmp_path)
    stored = [value.type.dtype for value in needed_constants(emitted.graph)]
    assert set(stored) == {dtype, DType.f32} and stored.count(dtype) == 3
    assert all(op.operands[1].name in {d.name for d in emitted.graph.find("dequantize")} for op in
               emitted.graph.find("linear"))  # fmt: skip
    found = Interpreter(read_graph(tmp_path / emitted.graph_file))(x)
    assert all(torch.equal(found[role], expected[role]) for role in expected)


def test_a_cut_within_a_block_is_left_where_it_is() -> None:
    b = Builder()
    wide = b.random(key="w", dtype=DType.f32, shape=(4, 6))
    scales = b.random(key="s", dtype=DType.f32, shape=(4, 2), mean=0.3, std=0.01)
    weight = b.dequantize(b.quantize(wide, scales, dtype=DType.i8), scales, dtype=DType.f32)
    b.output("y", b.slice(weight, axis=1, start=2, size=3))
    graph = b.build()
    sunk = sink_slices(graph)
    assert [op.kind.name for op in sunk.ops][-1] == "slice"
    assert torch.equal(Interpreter(sunk)({})["y"], Interpreter(graph)({})["y"])


def test_only_what_is_stored_is_streamed() -> None:
    streamed = dict(stream_constants(sink_slices(weights(DType.i4, (4, 3)))))
    assert {value.type.dtype for value in streamed} == {DType.i4, DType.f32}
    assert {tensor.dtype for tensor in streamed.values()} == {torch.int8, torch.float32}
