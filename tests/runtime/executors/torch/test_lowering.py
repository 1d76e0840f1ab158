"""Lowered graphs compute what the interpreter computes."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from torch import Tensor

from compiler.errors import TargetError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.files import read_graph
from compiler.ir.graph import DimRange, Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import op
from compiler.ir.torch_types import to_torch
from compiler.ir.types import TensorType
from compiler.store import write_ranks
from tests.op_graphs import OPS, op_graph, op_inputs
from tests.registrations import forgotten
from tests.runtime.executors.torch.lowered import lowered
from tests.strategies import graphs


@given(graphs())
def test_random_graphs_mean_the_same(tmp_path_factory, graph):
    torch.manual_seed(0)
    inputs = {v.name: torch.randn(v.type.sizes({"B": 2, "S": 3})).to(to_torch(v.type.dtype)) for v in graph.inputs}
    compare(graph, inputs, tmp_path_factory.mktemp("engine"))


@pytest.mark.parametrize("name", OPS)
def test_each_op_means_the_same(tmp_path, name):
    graph = op_graph(name, DType.f32)
    compare(graph, op_inputs(graph), tmp_path)


def compare(graph: Graph, inputs: Mapping[str, Tensor], folder: Path) -> None:
    write_ranks(graph, folder)
    stored = read_graph(folder / "rank0.ir")
    # Half-precision values are held as float32, which is the interpreter without rounding; constants were rounded.
    expected = Interpreter(stored, exact=True)(inputs)
    wide = [x.float() if x.is_floating_point() else x for x in inputs.values()]
    found = lowered(stored).run(*wide, writes=None)
    for tensor, wanted in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_the_source_is_straight_line_and_frees_values():
    b = Builder()
    b.dims = {"B": DimRange(1, 1, 4)}
    x = b.input("x", DType.f32, symbol("B"), 4)
    with b.scope("mlp"):
        up = b.relu(b.scale(x, factor=2.0, name="up"), name="act")
    b.output("y", b.reshape(up, shape=(2, symbol("B") * 2), name="y"))
    program = lowered(b.build())
    assert program.source == (
        "def step(x, writes):\n"
        "    B = x.shape[0]\n"
        "    mlp_up = x * 2.0\n"
        "    del x\n"
        "    mlp_act = torch.relu(mlp_up)\n"
        "    del mlp_up\n"
        "    y = mlp_act.reshape((2, 2*B, ))\n"
        "    del mlp_act\n"
        "    return (y, )\n"
    )
    assert program.run(torch.ones(3, 4), None)[0].shape == (2, 6)


def test_names_that_python_would_confuse_stay_apart():
    b = Builder()
    b.dims = {"B": DimRange(1, 1, 4)}
    values = [b.input(name, DType.f32, symbol("B")) for name in ("B", "a.b", "a_b", "lambda", "0", "torch")]
    total = values[0]
    for i, value in enumerate(values[1:]):
        total = b.add(b.scale(total, factor=10.0, name=f"t{i}"), value, name="F")
    b.output("y", total)
    digits = [torch.full((1,), float(i)) for i in range(1, 7)]
    assert lowered(b.build()).run(*digits, None)[0].item() == 123456


def test_bounds_that_are_no_numbers():
    b = Builder()
    x = b.input("x", DType.f32, 3)
    b.output("y", b.clamp(x, min=-1.0, max=float("inf")))
    b.output("z", b.scale(x, factor=float("-inf")))
    y, z = lowered(b.build()).run(torch.tensor([-2.0, 1.0, 9.0]), None)
    assert y.tolist() == [-1, 1, 9]
    assert z.tolist() == [float("inf"), float("-inf"), float("-inf")]


def test_an_op_without_rule_is_named():
    with forgotten():

        @op
        def lowering_test_only(x: TensorType) -> TensorType:
            """Nothing."""
            return x

        b = Builder()
        x = b.input("x", DType.f32, 2)
        with b.scope("h", "transformer.h.0"):
            b.output("y", b.lowering_test_only(x, name="odd"))
        with pytest.raises(TargetError, match=r"cannot run lowering_test_only %h.odd from transformer.h.0"):
            lowered(b.build())


def test_a_cache_that_is_read_before_its_update_is_refused():
    b = Builder()
    cache = b.input("cache", DType.f32, 1, 1, 8, 4)
    new = b.input("new", DType.f32, 1, 1, 1, 4)
    at = [b.input(name, DType.i32, 1) for name in ("past_len", "new_len")]
    after = b.kv_update(cache, new, *at)
    b.output("before", b.scale(cache, factor=2.0))
    b.output("cache", after)
    with pytest.raises(TargetError, match="does not replace a cache of the step graph in place"):
        lowered(b.build())


def test_a_graph_without_inputs():
    b = Builder()
    b.output("y", b.literal(dtype=DType.f32, shape=(2,), values=(3.0,)))
    assert lowered(b.build()).run(None)[0].tolist() == [3, 3]
