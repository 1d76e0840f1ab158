"""What one rank of a mesh runs, and what all of them compute together."""

from textwrap import dedent

import pytest
import torch

from compiler.errors import GraphError
from compiler.ir.constants import needed_constants, stream_constants
from compiler.ir.mesh import Mesh, collectives, mesh_of, rank_graph, received, sent
from compiler.ir.mesh_weights import weight_report
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.verifier import verify
from compiler.ir.virtual_ranks import VirtualRanks


def graph_of(facts: str, body: str):
    lines = [f"fact {fact}" for fact in facts.split(", ") if fact]
    graph = parse_graph("\n".join(['graph test\nroot "."', *lines, dedent(body)]))
    verify(graph)
    return graph


def body_of(graph):
    return print_graph(graph).partition('root "."\n')[2]


SUM = """
    input x: f32[2]

    .:
      %w: f32[6,2] = random(key="w", dtype=f32, shape=[6,2], std=1.0)
      %b: f32[6] = literal(dtype=f32, shape=[6], values=[0.0,1.0,2.0,3.0,4.0,5.0])
      %w_piece: f32[3,2] = shard(%w, axis=0, parts=2)
      %b_piece: f32[3] = shard(%b, axis=-1, parts=2)
      %own: f32[3] = linear(%x, %w_piece, %b_piece)
      %all: f32[6] = all_gather(%own, axis=0, parts=2)
      %sum: f32[3] = all_reduce(%own, parts=2)

    output all = %all
    output sum = %sum
"""


def test_a_rank_has_its_pieces():
    assert body_of(rank_graph(graph_of("tp = 2", SUM), 1)) == dedent("""\
        fact tp = 2
        fact rank = 1
        input x: f32[2]

        .:
          %w: f32[6,2] = random(key="w", dtype=f32, shape=[6,2], std=1.0)
          %w_piece: f32[3,2] = slice(%w, axis=0, start=3, size=3)
          %b_piece: f32[3] = literal(dtype=f32, shape=[3], values=[3.0,4.0,5.0])
          %own: f32[3] = linear(%x, %w_piece, %b_piece)
          %all: f32[6] = all_gather(%own, axis=0, parts=2)
          %sum: f32[3] = all_reduce(%own, parts=2)

        output all = %all
        output sum = %sum
        """)


def test_ranks_together():
    graph = graph_of("tp = 2", SUM)
    x = torch.tensor([2.0, -1.0])
    outputs, states = VirtualRanks(graph)({"x": x}, [{}, {}])
    assert states == [{}, {}]
    pieces = [next(iter(stream_constants(rank_graph(graph, rank))))[1] for rank in (0, 1)]
    expected = torch.cat(pieces) @ x + torch.arange(6.0)
    torch.testing.assert_close(outputs["all"], expected)
    torch.testing.assert_close(outputs["sum"], expected[:3] + expected[3:])


@pytest.mark.parametrize(("axis", "each", "expected"), [(0, 1, [[0, 1, 2], [3, 4, 5]]), (1, 2, [[0, 3], [0, 3]])])
def test_pieces_of_literals_are_literals(axis, each, expected):
    parts = 2 if axis == 0 else 3
    shape = "[1,3]" if axis == 0 else "[2,1]"
    graph = graph_of(
        f"tp = {6 if each == 2 else 2}",
        f"""
        .:
          %b: i32[2,3] = literal(dtype=i32, shape=[2,3], values=[0,1,2,3,4,5])
          %piece: i32{shape} = shard(%b, axis={axis}, parts={parts}, each={each})

        output y = %piece
        """,
    )
    for rank, values in enumerate(expected):
        bound = rank_graph(graph, rank)
        assert [op.kind.name for op in bound.ops] == ["literal"]
        assert list(bound.ops[0].attrs["values"]) == values
        assert needed_constants(bound) == []


STAGES = """
    dim B = 1..2..4
    input ids: i32[B]
    input cache: f32[B,2]
    input late: f32[B,2]

    .:
      %table: f32[5,2] = random(key="t", dtype=f32, shape=[5,2], std=1.0)
      %flag: bool[B] = less_equal(%ids, %ids)
      %rows: f32[B,2] = embedding(%table, %ids)
      %first: f32[B,2] = add(%cache, %rows)
      %there: f32[B,2] = transfer(%first, stage=1)
      %column: bool[B,1] = reshape(%flag, shape=[B,1])
      %second: f32[B,2] = where(%column, %there, %late)
      %last: f32[B,2] = transfer(%second, stage=2)
      %again: f32[B,2] = transfer(%first, stage=2)
      %w: f32[5,2] = random(key="w", dtype=f32, shape=[5,2], std=1.0)
      %h: f32[B,2] = add(%last, %again)
      %head: f32[B,5] = linear(%h, %table)

    output logits = %head
    output cache = %first
    output late = %second
"""


def test_stages_have_what_is_theirs():
    graph = graph_of("pp = 3", STAGES)
    first, second, third = (rank_graph(graph, rank) for rank in range(3))
    for each in (first, second, third):
        verify(each)
        assert parse_graph(print_graph(each)) == each
    assert [value.name for value in first.inputs] == ["ids", "cache"]
    assert list(first.outputs) == ["cache", "send.1.first", "send.2.first"]
    assert [value.name for value in second.inputs] == ["ids", "late", "recv.0.first"]
    assert list(second.outputs) == ["late", "send.2.second"]
    assert [value.name for value in third.inputs] == ["recv.1.second", "recv.0.first"]
    assert list(third.outputs) == ["logits"]
    assert [op.name for op in second.ops] == ["flag", "column", "second"]
    assert [(link.name, link.stage) for link in received(third)] == [("recv.1.second", 1), ("recv.0.first", 0)]
    assert [(link.name, link.stage, link.value.name) for link in sent(second)] == [("send.2.second", 2, "second")]


def test_stages_compute_what_the_whole_does():
    graph = graph_of("pp = 3", STAGES)
    ids = torch.tensor([4, 0], dtype=torch.int32)
    cache, late = torch.randn(2, 2), torch.randn(2, 2)
    outputs, states = VirtualRanks(graph)({"ids": ids}, [{"cache": cache}, {"late": late}, {}])
    table = next(iter(stream_constants(rank_graph(graph, 0))))[1]
    first = cache + table[ids.long()]
    torch.testing.assert_close(outputs["logits"], (first + first) @ table.T)
    torch.testing.assert_close(states[0]["cache"], first)
    torch.testing.assert_close(states[1]["late"], first)
    assert collectives(graph) == {"transfer": 3}


def test_what_is_tied_over_stages_is_counted():
    report = weight_report(graph_of("pp = 3", STAGES))
    assert report.ranks == (40, 0, 40)
    assert (report.once, report.repeated, report.total) == (40, {"table": 40}, 80)


def test_what_ranks_share_is_counted():
    report = weight_report(graph_of("tp = 2", SUM))
    assert (report.ranks, report.once, report.repeated) == ((24, 24), 48, {})
    shared = graph_of(
        "tp = 4",
        """
        input x: f32[2]

        .:
          %w: f32[6,2] = random(key="w", dtype=f32, shape=[6,2])
          %w_piece: f32[3,2] = shard(%w, axis=0, parts=2, each=2)
          %y: f32[3] = linear(%x, %w_piece)

        output y = %y
        """,
    )
    report = weight_report(shared)
    assert (report.ranks, report.once, report.repeated) == ((24,) * 4, 48, {"w_piece": 48})


MISTAKES = [
    ("tp = 3", SUM, "makes 2 shards for 1 ranks each, in a graph for tp=3, pp=1"),
    ("tp = 4", SUM, "all_gather %all from the graph is for 2 ranks, in a graph for tp=4, pp=1"),
    ("pp = 2", STAGES, "transfer %last from the graph goes to stage 2, in a graph for tp=1, pp=2"),
    ("tp = 0", SUM, "the fact 'tp' is 0; it must be a number of ranks"),
    ("tp = 2, rank = 1", SUM, "the graph is that of rank 1 already"),
]


@pytest.mark.parametrize(("facts", "body", "message"), MISTAKES)
def test_graphs_that_do_not_fit_their_mesh(facts, body, message):
    with pytest.raises(GraphError) as error:
        rank_graph(graph_of(facts, body), 0)
    assert error.value.message.endswith(message)


def test_a_value_of_another_stage_needs_a_transfer():
    skipping = STAGES.replace("add(%last, %again)", "add(%last, %there)")
    with pytest.raises(GraphError) as error:
        rank_graph(graph_of("pp = 3", skipping), 2)
    assert error.value.message == "add %h from the graph is computed in stage 2, but %there is not there"
    with pytest.raises(GraphError) as error:
        rank_graph(graph_of("pp = 3", STAGES.replace("add(%last, %again)", "add(%last, %first)")), 2)
    assert error.value.message == "add %first from the graph is computed in stage 2, but %cache is not there"


def test_there_are_only_so_many_ranks():
    mesh = Mesh(2, 3)
    assert [mesh.place(rank) for rank in range(6)] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert [mesh.rank(*mesh.place(rank)) for rank in range(6)] == list(range(6))
    with pytest.raises(GraphError) as error:
        mesh.place(6)
    assert error.value.message == "there is no rank 6 among the 6 of tp=2, pp=3"


def test_one_rank_runs_the_graph_itself():
    graph = graph_of("", "input x: f32[2]\noutput y = %x")
    assert mesh_of(graph) == Mesh(1, 1)
    assert rank_graph(graph, 0) is graph


def test_ranks_that_disagree_are_noticed():
    graph = graph_of("tp = 2", SUM.replace("output sum = %sum", "output sum = %own"))
    with pytest.raises(GraphError) as error:
        VirtualRanks(graph)({"x": torch.ones(2)}, [{}, {}])
    assert error.value.message == "rank 1 computes another 'sum' than the other ranks of its stage"
