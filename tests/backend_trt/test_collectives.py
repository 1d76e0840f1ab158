"""Collectives as layers: what they mean on every rank, in which type they add, and what a stage's plans take."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
import torch

from compiler.backend_trt.plans import PlanSpec, plan_specs
from compiler.ir.builder import Builder
from compiler.ir.collectives import combine
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.torch_types import to_torch
from compiler.trt_emulator.engine import EmulatedEngine, open_emulated
from compiler.trt_network.record import read_record
from tests.backend_trt.networks import build

pytest.importorskip("tensorrt_rtx")


@dataclass
class Ranks:
    """The first of several ranks, of which each has twice what the one before has."""

    size: int
    dtypes: list[torch.dtype] = field(default_factory=list)

    def every(self, x):
        return [x * 2**rank for rank in range(self.size)]

    def all_reduce(self, x):
        self.dtypes.append(x.dtype)
        return sum(self.every(x))

    def all_max(self, x):
        self.dtypes.append(x.dtype)
        return torch.stack(self.every(x)).amax(0)

    def all_gather(self, x):
        self.dtypes.append(x.dtype)
        return torch.cat(self.every(x))


def graph_of(shape, dtype, make):
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4)} if any(not isinstance(dim, int) for dim in shape) else {}
    b.output("y", make(b, b.input("x", dtype, *shape)))
    return b.build()


def run(engine: EmulatedEngine, x, ranks):
    context = engine.create_execution_context()
    context.set_communicator(ranks)
    assert context.set_input_shape("x", tuple(x.shape))
    y = torch.empty(tuple(context.get_tensor_shape("y")), dtype=x.dtype)
    for name, tensor in (("x", x), ("y", y)):
        assert context.set_tensor_address(name, tensor.data_ptr())
    assert context.execute_async_v3(0)
    return y


def check(graph, folder, x, parts):
    """Compare with what the op means; returns the types that were sent, and the record."""
    (plan,) = build(graph, folder).plans
    ranks = Ranks(parts)
    (op,) = (op for op in graph.ops if op.kind.name.startswith("all_"))
    found = run(open_emulated(folder, plan.network, "none"), x, ranks)
    assert found.dtype == x.dtype
    wanted = combine(op, [each.float() for each in ranks.every(x)]).to(x.dtype)
    assert torch.equal(found, wanted)
    return ranks.dtypes, read_record(folder / plan.network)


@pytest.mark.parametrize("batch", [2, symbol("B")], ids=["static", "dynamic"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_pieces_are_put_together_along_any_axis(axis, batch, tmp_path):
    graph = graph_of((batch, 3, 5), DType.f16, lambda b, x: b.all_gather(x, axis=axis, parts=3))
    sent, _ = check(graph, tmp_path, torch.arange(30).view(2, 3, 5).half(), 3)
    assert sent == [torch.float16]


@pytest.mark.parametrize("dtype", [DType.f32, DType.f16, DType.bf16])
@pytest.mark.parametrize("parts", [2, 4])
def test_sums_are_rounded_once(parts, dtype, tmp_path):
    graph = graph_of((4, 6), dtype, lambda b, x: b.all_reduce(x, parts=parts))
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(to_torch(dtype))
    sent, _ = check(graph, tmp_path, x, parts)
    # Of two numbers of 16 bits the sum is rounded once, whatever type it is taken in.
    assert sent == [torch.float32 if parts > 2 else to_torch(dtype)]


@pytest.mark.parametrize("dtype", [DType.f32, DType.f16, DType.bf16])
@pytest.mark.parametrize("parts", [2, 4])
def test_the_largest_is_taken_as_it_is(parts, dtype, tmp_path):
    graph = graph_of((4, 6, 1), dtype, lambda b, x: b.all_max(x, parts=parts))
    x = torch.randn(4, 6, 1, generator=torch.Generator().manual_seed(0)).to(to_torch(dtype))
    sent, record = check(graph, tmp_path, x, parts)
    assert sent == [to_torch(dtype)]
    (layer,) = (layer for layer in record.layers if layer.kind == "DIST_COLLECTIVE")
    assert json.loads(layer.metadata)["collective"] == "all_reduce_max"


def test_the_record_says_which_collective_a_layer_is_and_over_how_many_ranks(tmp_path):
    graph = graph_of((2, 4), DType.f32, lambda b, x: b.all_reduce(x, parts=2, name="together"))
    _, record = check(graph, tmp_path, torch.ones(2, 4), 2)
    (layer,) = (layer for layer in record.layers if layer.kind == "DIST_COLLECTIVE")
    assert layer.params["num_ranks"] == 2
    assert json.loads(layer.metadata)["collective"] == "all_reduce_sum"
    assert json.loads(layer.metadata)["op"] == "together"


def test_plans_know_the_rows_of_their_tokens():
    dims = {name: DimRange(1, 1, most) for name, most in (("B", 8), ("S", 100), ("C", 100), ("R", 100))}
    rows = {spec.name: spec.rows for spec in plan_specs(dims)}
    assert rows == {"decode-b1-c128": 1, "decode-b8-c128": 8, "prefill-s100-c128": 100}
    assert PlanSpec("all").rows is None
