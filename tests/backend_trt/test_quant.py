"""Quantized linears: TensorRT builds them with constant weights, and what was built means what the graph says."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from compiler.backend_trt import BuildOptions, build_plans
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Value
from compiler.ir.tensor_data import view_bytes
from compiler.ir.torch_types import to_torch
from compiler.passes import run_pipeline
from compiler.store import write_ranks
from compiler.store.constant_loader import constant_loader
from compiler.trt_emulator.engine import open_emulated
from compiler.trt_network.library import load_library
from compiler.trt_network.plans import read_plans
from compiler.trt_network.record import NetworkRecord, Weight, read_record
from runtime.executors.tensorrt.weight_memory import map_weights
from tests.backend_trt.networks import run

TOLERANCE = {DType.f32: 1e-5, DType.f16: 6e-3, DType.bf16: 3e-2}


def built(graph: Graph, folder: Path, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, NetworkRecord, int]:
    """The output `y` emulated and interpreted, the network, and the bytes of the plan."""
    write_ranks(graph, folder)
    stored = read_graph(folder / "rank0.ir")
    options = BuildOptions(reuse=False)
    load = constant_loader(stored)
    file = build_plans(load_library("tensorrt-rtx"), stored, load, folder, "rank0.safetensors", options=options)
    (plan,) = read_plans(folder / file).plans
    record = read_record(folder / plan.network)
    found = run(open_emulated(folder, plan.network, "rank0.safetensors"), inputs | weights(record, folder))["y"].float()
    expected = Interpreter(stored)(inputs)["y"].float()
    return found, expected, record, (folder / plan.engine).stat().st_size


def weights(record: NetworkRecord, folder: Path) -> dict[str, Tensor]:
    """The inputs that are weights, as the runtime loads them."""
    loaded = map_weights(folder / "rank0.safetensors", record.weights.values())
    types = {name: record.tensors[name].type for name in record.weights}
    return {
        name: view_bytes(loaded.view(weight.source, types[name].nbytes, weight.offset), types[name])
        for name, weight in record.weights.items()
    }


def linears(dtype: DType) -> Graph:
    b = Builder("linears")
    x = b.input("x", dtype, 2, 3, 256)
    bias = b.random(key="b", dtype=dtype, shape=(192,), name="b")
    hidden = b.linear(x, b.random(key="w", dtype=dtype, shape=(192, 256), std=1.0, name="w"), bias, name="hidden")
    b.output("y", b.linear(hidden, b.random(key="v", dtype=dtype, shape=(32, 192), std=1.0, name="v"), name="y"))
    return b.build()


@pytest.mark.parametrize("dtype", [DType.f32, DType.f16, DType.bf16])
@pytest.mark.parametrize(
    "options",
    ["int8", "int8:group=64", "int4", "int4:group=64", "int8:act=token", "fp8:act=token", "fp8:act=off",
     "fp8:act=off:weights=channel"],
)  # fmt: skip
def test_plans_mean_what_the_graph_says(options: str, dtype: DType, tmp_path: Path) -> None:
    graph = run_pipeline(linears(dtype), f"quant={options}").graph
    x = torch.randn(2, 3, 256, generator=torch.Generator().manual_seed(0)).to(to_torch(dtype))
    found, expected, record, _ = built(graph, tmp_path, {"x": x})
    assert (found - expected).norm() / expected.norm() < TOLERANCE[dtype] * (3 if "fp8" in options else 1)
    narrow = {"INT8", "INT4", "FP8"}
    matrices = [
        record.constants[layer.name]
        for layer in record.layers
        if layer.kind == "CONSTANT" and record.tensors[layer.outputs[0]].dtype in narrow
    ]
    assert matrices or record.weights
    assert all(isinstance(constant, Weight) for constant in matrices), "stored a second time"


@pytest.mark.parametrize(
    ("options", "bytes_"),
    [("int8", 0), ("int8:act=token", 0), ("int8:group=128", 0), ("fp8:act=token", 0), ("int4:group=128", 0.5)],
)
def test_what_a_plan_holds_of_a_weight(options: str, bytes_: float, tmp_path: Path) -> None:
    b = Builder("wide")
    x = b.input("x", DType.f16, 1, 1, 2048)
    b.output("y", b.linear(x, b.random(key="w", dtype=DType.f16, shape=(2048, 2048), name="w"), name="y"))
    graph = run_pipeline(b.build(), f"quant={options}:only=y").graph
    *_, size = built(graph, tmp_path, {"x": torch.ones(1, 1, 2048, dtype=torch.float16)})
    assert size < 2048 * 2048 * bytes_ * 1.2 + 2**20


def weight(b: Builder, dtype: DType, scale: tuple[int, int], *, zero: bool, to: DType = DType.f16) -> Value:
    """A stored weight `[64, 128]`, with zero points or without."""
    wide = b.random(key="w", dtype=DType.f32, shape=(64, 128), std=1.0, name="wide")
    scales = b.random(key="s", dtype=DType.f32, shape=scale, mean=0.2, std=0.01, name="scales")
    unit = b.literal(dtype=DType.f32, shape=(1, 1), values=(1.0,), name="unit")
    zeros = b.quantize(
        b.random(key="z", dtype=DType.f32, shape=scale, std=2.0, name="z"), unit, dtype=dtype, name="zeros"
    )
    parameters = [scales, *([zeros] if zero else [])]
    return b.dequantize(b.quantize(wide, *parameters, dtype=dtype), *parameters, dtype=to)


@pytest.mark.parametrize("dtype", [DType.i8, DType.i4, DType.f8e4m3])
@pytest.mark.parametrize("scale", [(1, 1), (64, 1), (16, 1), (64, 4), (64, 64), (2, 2)])
@pytest.mark.parametrize("zero", [False, True])
def test_every_kind_of_scale(dtype: DType, scale: tuple[int, int], zero: bool, tmp_path: Path) -> None:
    if zero and dtype is DType.f8e4m3:
        return
    b = Builder("scales")
    x = b.input("x", DType.f16, 5, 128)
    b.output("y", b.linear(x, weight(b, dtype, scale, zero=zero), name="y"))
    inputs = {"x": torch.randn(5, 128, generator=torch.Generator().manual_seed(0)).half()}
    found, expected, *_ = built(b.build(), tmp_path, inputs)
    assert (found - expected).norm() / expected.norm() < 2e-3


def test_a_weight_that_something_else_reads(tmp_path: Path) -> None:
    b = Builder("table")
    ids = b.input("ids", DType.i32, 2, 3)
    table = weight(b, DType.i8, (64, 1), zero=False)
    b.output("y", b.linear(b.embedding(table, ids), table, name="y"))
    inputs = {"ids": torch.tensor([[0, 5, 63], [1, 1, 2]], dtype=torch.int32)}
    found, expected, *_ = built(b.build(), tmp_path, inputs)
    assert (found - expected).norm() / expected.norm() < 2e-3


def test_static_scales_of_activations(tmp_path: Path) -> None:
    b = Builder("static")
    x = b.input("x", DType.f16, 2, 3, 128)
    scale = b.literal(dtype=DType.f32, shape=(1, 1, 1), values=(0.03,), name="scale")
    rounded = b.dequantize(b.quantize(x, scale, dtype=DType.i8), scale, dtype=DType.f16)
    b.output("y", b.linear(rounded, weight(b, DType.i8, (64, 1), zero=False), name="y"))
    inputs = {"x": torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(0)).half()}
    found, expected, record, _ = built(b.build(), tmp_path, inputs)
    assert (found - expected).norm() / expected.norm() < 2e-3
    assert sum(layer.kind == "QUANTIZE" for layer in record.layers) == 1


@pytest.mark.parametrize("dtype", [DType.f32, DType.f16, DType.bf16])
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_digits_are_as_exact_as_they_claim(dtype: DType, rows: int, tmp_path: Path) -> None:
    b = Builder("limbs")
    b.output("w", weight(b, DType.i8, (64, 1), zero=False, to=DType.f32))
    exact = Interpreter(b.build())({})["w"].double()
    b = Builder("limbs")
    x = b.input("x", dtype, rows, 1, 128)
    b.output("y", b.linear(x, weight(b, DType.i8, (64, 1), zero=False, to=dtype), name="y"))
    given = (
        torch.randn(rows, 1, 128, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-3, 2, rows)[:, None, None]
    )
    given[0, 0, 0] = 300  # an outlier leaves the others fewer limbs
    given = given.to(to_torch(dtype))
    found, _, record, _ = built(b.build(), tmp_path, {"x": given})
    # A limb is off by half of its worth at most; sums are float32's; the result is rounded once.
    largest = given.double().abs().amax(-1, keepdim=True)
    limb = largest / 127 / 254 ** (2 if dtype is DType.f32 else 1) / 2
    expected = given.double() @ exact.T
    rounding = torch.finfo(to_torch(dtype)).eps * expected.abs()
    summing = 128 * torch.finfo(torch.float32).eps * largest
    assert ((found.double() - expected).abs() <= (limb + summing) * exact.abs().sum(1) + rounding).all()
    products = [layer for layer in record.layers if layer.kind == "MATRIX_MULTIPLY"]
    assert [record.tensors[str(product.inputs[0])].shape[0] for product in products] == [
        max(16, rows * (3 if dtype is DType.f32 else 2))
    ]


def test_a_row_of_zeros_stays_zero(tmp_path: Path) -> None:
    b = Builder("zeros")
    x = b.input("x", DType.f16, 2, 128)
    b.output("y", b.linear(x, weight(b, DType.i8, (64, 1), zero=False), name="y"))
    found, *_ = built(b.build(), tmp_path, {"x": torch.zeros(2, 128, dtype=torch.float16)})
    assert not found.any()


@pytest.mark.parametrize("zero", [False, True])
def test_four_bits_stay_packed_whatever_their_zero_points(zero: bool, tmp_path: Path) -> None:
    b = Builder("packed")
    x = b.input("x", DType.f16, 5, 128)
    b.output("y", b.linear(x, weight(b, DType.i4, (64, 4), zero=zero), name="y"))
    *_, record, _ = built(b.build(), tmp_path, {"x": torch.zeros(5, 128, dtype=torch.float16)})
    assert not record.weights
    assert "INT4" in {record.tensors[layer.outputs[0]].dtype for layer in record.layers if layer.kind == "CONSTANT"}


def test_one_row_of_integers_is_padded(tmp_path: Path) -> None:
    b = Builder("one")
    b.output(
        "y", b.linear(b.input("x", DType.f16, 1, 1, 256), b.random(key="w", dtype=DType.f16, shape=(64, 256)), name="y")
    )
    graph = run_pipeline(b.build(), "quant=int8:act=token:only=y").graph
    given = torch.randn(1, 1, 256, generator=torch.Generator().manual_seed(0)).half()
    found, expected, record, _ = built(graph, tmp_path, {"x": given})
    assert (found - expected).norm() / expected.norm() < TOLERANCE[DType.f16]
    (product,) = [layer for layer in record.layers if layer.kind == "MATRIX_MULTIPLY"]
    assert record.tensors[str(product.inputs[0])].shape == (16, 256)
