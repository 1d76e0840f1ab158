"""Collectives of the torch executor and the interpreter executor; the ranks are threads."""

import pytest
import torch

from compiler.errors import TargetError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.interpreter import Interpreter
from compiler.ir.torch_types import to_torch
from runtime.executors.interpreter import InterpreterExecutor, over
from runtime.executors.torch import kernels
from runtime.executors.torch.executor import TorchExecutor
from tests.runtime.executors.torch.lowered import lowered
from tests.runtime.executors.torch.thread_ranks import run_ranks


def collective_graph(dtype, parts):
    """Sums and gathers of an input that is used again afterwards."""
    b = Builder()
    b.dims = {"B": DimRange(1, 2, 4)}
    x = b.input("x", dtype, symbol("B"), 6)
    turned = b.transpose(x, perm=(1, 0))
    b.output("sum", b.all_reduce(x, parts=parts))
    b.output("turned", b.all_reduce(turned, parts=parts))
    b.output("largest", b.all_max(turned, parts=parts))
    b.output("all", b.all_gather(x, axis=1, parts=parts))
    b.output("twice", b.add(x, x))
    return b.build()


def by_torch(graph, group, x):
    return dict(zip(graph.outputs, lowered(graph, upcast=False, group=group).run(x, None), strict=True))


def by_interpreter(graph, group, x):
    return Interpreter(graph, communicate=over(group))({"x": x})


@pytest.mark.parametrize("run", [by_torch, by_interpreter])
@pytest.mark.parametrize("dtype", [DType.f32, DType.f16, DType.bf16, DType.i32])
def test_sums_are_rounded_once_and_leave_the_operand(run, dtype):
    graph = collective_graph(dtype, 4)
    torch.manual_seed(0)
    every = [(100 * torch.randn(3, 6)).to(to_torch(dtype)) for _ in range(4)]
    given = [x.clone() for x in every]
    found = run_ranks(4, 1, lambda world, tp, pp: run(graph, tp, given[world.rank]))
    wide = [x.float() if x.is_floating_point() else x for x in every]
    total = sum(wide[1:], wide[0]).to(to_torch(dtype))
    for rank, outputs in enumerate(found):
        assert torch.equal(given[rank], every[rank])
        assert torch.equal(outputs["sum"], total)
        assert torch.equal(outputs["turned"], total.T)
        assert torch.equal(outputs["largest"], torch.stack(every).amax(0).T)
        assert torch.equal(outputs["all"], torch.cat(every, 1))
        assert torch.equal(outputs["twice"], every[rank] + every[rank])
        assert {each.dtype for each in outputs.values()} == {to_torch(dtype)}


def test_rounding_more_often_would_be_noticed():
    torch.manual_seed(0)
    every = [torch.randn(1000).to(torch.bfloat16) for _ in range(4)]
    found = run_ranks(4, 1, lambda world, tp, pp: kernels.all_reduce(every[world.rank], tp))
    assert not torch.equal(found[0], sum(every[1:], every[0]))


def test_values_held_as_float32_are_not_rounded():
    graph = collective_graph(DType.f16, 2)
    every = [torch.randn(2, 6), torch.randn(2, 6)]
    found = run_ranks(2, 1, lambda world, tp, pp: lowered(graph, group=tp).run(every[world.rank], None)[0])
    assert torch.equal(found[1], every[0] + every[1])
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("executor", [lambda graph: TorchExecutor(graph, device="cpu"), InterpreterExecutor])
def test_another_number_of_ranks_is_refused(executor):
    b = Builder()
    b.dims = {"B": DimRange(1, 2, 4)}
    with b.scope("mlp", "model.layers.0.mlp"):
        b.output("y", b.all_reduce(b.input("x", DType.f32, symbol("B")), parts=2, name="sum"))
    message = "all_reduce %mlp.sum from model.layers.0.mlp is for 2 ranks; the group has 1"
    with pytest.raises(TargetError, match=message):
        executor(b.build())
