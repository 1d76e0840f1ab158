"""What the torch target writes."""

import torch
from hypothesis import given
from safetensors.torch import load_file

from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.files import read_graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.mesh import with_facts
from compiler.ir.torch_types import to_torch
from compiler.ir.verifier import verify
from compiler.store import write_ranks
from tests.strategies import graphs


def sample_inputs(graph):
    """Inputs of batch 2 and length 3, from a fixed seed."""
    torch.manual_seed(0)
    return {v.name: torch.randn(v.type.sizes({"B": 2, "S": 3})).to(to_torch(v.type.dtype)) for v in graph.inputs}


def test_the_files_are_plain_safetensors_and_readable_text(tmp_path):
    b = Builder()
    x = b.input("x", DType.f32, 1, 4)
    whole = b.random(key="qkv", dtype=DType.f16, shape=(6, 4), name="qkv")
    q, k = b.split(whole, axis=0, sizes=(2, 4), names=("q", "k"))
    b.output("y", b.linear(b.cast(x, dtype=DType.f16), q))
    b.output("z", b.linear(b.cast(x, dtype=DType.f16), k))
    seen = []
    (emitted,) = write_ranks(b.build(), tmp_path, progress=lambda done, total: seen.append((done, total)))
    stored = load_file(tmp_path / emitted.weights_file)
    assert {name: (t.dtype, list(t.shape)) for name, t in stored.items()} == {
        "q": (torch.float16, [2, 4]),
        "k": (torch.float16, [4, 4]),
    }
    assert seen[-1] == (48, 48)
    graph = read_graph(tmp_path / emitted.graph_file)
    assert [op.kind.name for op in graph.ops] == ["const", "const", "cast", "linear", "cast", "linear"]
    assert all(op.attrs["data"].offset % 8 == 0 for op in graph.find("const"))


@given(graphs())
def test_the_stored_graph_means_the_same(tmp_path_factory, graph):
    folder = tmp_path_factory.mktemp("engine")
    (emitted,) = write_ranks(graph, folder)
    stored = read_graph(folder / emitted.graph_file)
    verify(stored)
    inputs = sample_inputs(graph)
    expected, found = Interpreter(graph)(inputs), Interpreter(stored)(inputs)
    for role, tensor in expected.items():
        torch.testing.assert_close(found[role], tensor, rtol=0, atol=0, equal_nan=True)


def test_ranks_share_what_is_read_and_store_their_pieces(tmp_path, monkeypatch):
    evaluated, evaluate = [], Interpreter.evaluate

    def watched(self, op, *rest):
        evaluated.append(op.kind.name)
        return evaluate(self, op, *rest)

    monkeypatch.setattr("compiler.ir.constants.Interpreter.evaluate", watched)
    b = Builder()
    x = b.input("x", DType.f32, 1, 4)
    whole = b.random(key="w", dtype=DType.f32, shape=(6, 4), name="whole")
    common = b.random(key="c", dtype=DType.f32, shape=(4,), name="common")
    b.output("y", b.linear(b.add(x, common), b.shard(whole, axis=0, parts=2, name="shard")))
    first, second = write_ranks(with_facts(b.build(), tp=2), tmp_path)
    assert evaluated.count("random") == 2
    shards = [load_file(tmp_path / rank.weights_file) for rank in (first, second)]
    assert torch.equal(shards[0]["common"], shards[1]["common"])
    graph = Builder()
    graph.output("whole", graph.random(key="w", dtype=DType.f32, shape=(6, 4)))
    assert torch.equal(torch.cat([shard["shard"] for shard in shards]), Interpreter(graph.build())({})["whole"])
