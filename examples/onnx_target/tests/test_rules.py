"""Every op: the model that it becomes is valid, and onnxruntime computes what the interpreter says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compiler.errors import TargetError
from compiler.ir.builder import Builder
from compiler.ir.collectives import COLLECTIVES
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange, Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import OPS as OP_KINDS
from compiler.store.constant_loader import constant_loader
from tests.op_graphs import OPS, B, S, literal, op_graph, op_inputs

onnx = pytest.importorskip("onnx", reason="the target needs the package onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the executor needs the package onnxruntime")

# Several roundings where the interpreter has one.
TOLERANCE = {DType.f32: 1e-5, DType.f16: 4e-3}


def model_of(graph: Graph, folder: Path, **options: bool) -> Path:
    """The model of a graph, and its own weights beside it; it is valid."""
    from llmc_onnx.data_file import DataFile
    from llmc_onnx.model import make_model

    data = DataFile("model.onnx.data")
    path = folder / "model.onnx"
    path.write_bytes(make_model(graph, constant_loader(graph), data, **options).SerializeToString())
    data.write(folder, lambda done, total: None)
    onnx.checker.check_model(str(path))
    return path


def computed(graph: Graph, folder: Path, given: Mapping[str, Tensor], **options: bool) -> dict[str, Tensor]:
    session = onnxruntime.InferenceSession(str(model_of(graph, folder, **options)))
    wanted = {value.name for value in session.get_inputs()}
    found = session.run(None, {name: tensor.numpy() for name, tensor in given.items() if name in wanted})
    return {role: torch.from_numpy(array) for role, array in zip(graph.outputs, found, strict=True)}


def assert_same(graph: Graph, folder: Path, given: Mapping[str, Tensor], tolerance: float, **options: bool) -> None:
    found = computed(graph, folder, given, **options)
    for role, wanted in Interpreter(graph)(given).items():
        assert (found[role].dtype, found[role].shape) == (wanted.dtype, wanted.shape)
        torch.testing.assert_close(found[role].double(), wanted.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_op(name: str, dtype: DType, tmp_path: Path) -> None:
    graph = op_graph(name, dtype)
    assert_same(graph, tmp_path, op_inputs(graph), TOLERANCE[dtype])


def test_every_op_that_an_engine_runs_has_a_rule_or_is_refused_by_name() -> None:
    from llmc_onnx.emission import RULES
    from llmc_onnx.model import make_model  # noqa: F401 - registers the rules

    evaluated = {"const", "random", "shard", "unpack", "group_order"}  # when an engine's weights are written
    paged = {"paged_attention", "paged_kv_update", "decode_blocks"}
    own = {kind for kind in OP_KINDS if OP_KINDS.is_own(kind)}
    assert own - set(RULES) - evaluated - paged == COLLECTIVES


@pytest.mark.parametrize("dtype", [DType.f32, DType.f16, DType.i8], ids=str)
def test_a_cache_is_written_where_the_interpreter_writes_it(dtype: DType, tmp_path: Path) -> None:
    """Also where padding does not fit into what is left of a row."""
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4), "S": DimRange(1, 3, 8)}
    cache = b.input("cache", dtype, B, 2, 16, 4)
    new, at, count = b.input("new", dtype, B, 2, S, 4), b.input("at", DType.i32, B), b.input("count", DType.i32, B)
    b.output("cache", b.kv_update(cache, new, at, count, name="next"))
    graph = b.build()
    given = op_inputs(graph)
    given |= {"at": torch.tensor([13, 0], dtype=torch.int32), "count": torch.tensor([2, 5], dtype=torch.int32)}
    assert_same(graph, tmp_path, given, 0)


@pytest.mark.parametrize("zero", [False, True], ids=["symmetric", "zero points"])
@pytest.mark.parametrize(
    ("dtype", "group", "exact", "rounded"),
    [
        (DType.i4, 16, "MatMulNBits", "MatMulNBits"),
        (DType.i4, 48, "MatMulNBits", "MatMulNBits"),  # blocks of 16 that share scales
        (DType.i4, 96, "MatMulNBits", "MatMulNBits"),
        (DType.i4, 8, "Gemm", "Gemm"),
        (DType.i8, 32, "Gemm", "MatMulNBits"),
        (DType.i8, 96, "Gemm", "MatMulNBits"),
        (DType.i8, 12, "Gemm", "Gemm"),
    ],
)  # fmt: skip
def test_a_quantized_linear(dtype: DType, group: int, exact: str, rounded: str, zero: bool, tmp_path: Path) -> None:
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4), "S": DimRange(1, 3, 8)}
    x, out, groups = b.input("x", DType.f32, B, S, 96), 5, 96 // group
    generator = torch.Generator().manual_seed(group)
    low, high = (-8, 8) if dtype is DType.i4 else (-128, 128)

    def integers(*shape: int):
        values = torch.randint(low, high, shape, generator=generator).flatten().tolist()
        return b.literal(dtype=dtype, shape=shape, values=tuple(map(float, values)))

    scales = (torch.rand(out * groups, generator=generator) / high + 0.1 / high).tolist()
    scale = b.literal(dtype=DType.f32, shape=(out, groups), values=tuple(scales))
    zeros = (integers(out, groups),) if zero else ()
    weight = b.dequantize(integers(out, 96), scale, *zeros, dtype=DType.f32)
    b.output("y", b.linear(x, weight, literal(b, DType.f32, out), name="y"))
    graph = b.build()
    # Inputs rounded to 8 bits are off by 1/254 of the largest at most, and 96 of them, times weights up to 2, add up.
    for product, tolerance, options in ((exact, 1e-4, {}), (rounded, 96 * 2 / 254, {"round_inputs": True})):
        assert_same(graph, tmp_path, op_inputs(graph), tolerance, **options)
        nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
        assert {"Gemm", "MatMulNBits"} & set(nodes) == {product}


@pytest.mark.parametrize("dtype", [DType.i8, DType.f8e4m3], ids=str)
def test_activations_are_quantized_as_the_interpreter_does(dtype: DType, tmp_path: Path) -> None:
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4), "S": DimRange(1, 3, 8)}
    x = b.input("x", DType.f32, B, S, 8)
    scale = b.scale(b.amax(x, axis=-1), factor=1 / 100)
    b.output("y", b.dequantize(b.quantize(x, scale, dtype=dtype), scale, dtype=DType.f32, name="y"))
    graph = b.build()
    assert_same(graph, tmp_path, op_inputs(graph), 1e-6)


def test_an_op_without_a_rule_is_named(tmp_path: Path) -> None:
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4)}
    b.output("y", b.all_reduce(b.input("x", DType.f32, B), parts=2, name="sum"))
    with pytest.raises(TargetError, match="all_reduce %sum: onnxruntime has no operator by which ranks compute"):
        model_of(b.build(), tmp_path)
