"""Every op with a rule: TensorRT builds it, and what was built means what the interpreter says."""

from __future__ import annotations

import pytest
import torch

from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import OPS as KINDS
from llmc.inspection.op_facts import describe_ops
from tests.backend_trt.networks import emulate
from tests.op_graphs import OPS, B, S, op_graph, op_inputs

# The results of one rounding, against those of a few.
TOLERANCE = {DType.f32: 1e-5, DType.f16: 4e-3, DType.bf16: 3e-2}
# Their tests are below, in test_quant.py and in test_collectives.py.
ELSEWHERE = {"kv_update", "quantize", "dequantize", "all_reduce", "all_max", "all_gather"}


@pytest.mark.parametrize("dtype", [DType.f32, DType.f16, DType.bf16], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_op(name, dtype, tmp_path):
    graph = op_graph(name, dtype)
    given = op_inputs(graph)
    expected = Interpreter(graph)(given)
    got = emulate(graph, tmp_path, given)
    assert list(got) == list(expected)
    for role, wanted in expected.items():
        assert got[role].dtype is wanted.dtype
        assert got[role].shape == wanted.shape
        torch.testing.assert_close(got[role].double(), wanted.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_every_op_with_a_rule_has_a_row():
    own = (facts for facts in describe_ops() if KINDS.is_own(facts.kind.name))
    ruled = {facts.kind.name for facts in own if facts.tensorrt_takes is not None}
    assert ruled == {name.split()[0] for name in OPS} | ELSEWHERE, "give the op a row in tests/op_graphs.py"


def test_a_cache_is_updated_in_place(tmp_path):
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4), "S": DimRange(1, 3, 8)}
    cache = b.input("cache", DType.f16, B, 2, 16, 4)
    new, at, count = b.input("new", DType.f16, B, 2, S, 4), b.input("at", DType.i32, B), b.input("count", DType.i32, B)
    b.output("cache", b.kv_update(cache, new, at, count, name="next"))
    graph = b.build()
    given = op_inputs(graph)
    given |= {"at": torch.tensor([3, 0], dtype=torch.int32), "count": torch.tensor([5, 5], dtype=torch.int32)}
    got = emulate(graph, tmp_path, given)
    torch.testing.assert_close(got["next"], Interpreter(graph)(given)["cache"], rtol=0, atol=0)
