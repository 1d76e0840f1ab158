"""What ops cost, counted by hand."""

import llmc
from compiler.ir.cost import graph_cost
from compiler.ir.drawing.work import Work, usual_sizes, work_of

TEXT = """
graph g
root "/nowhere"
dim S = 1..3..8
input x: f16[S,4]
input ids: i32[S]

.:
  %w: f16[5,4] = const(data=f16[5,4] "w" in "f" at 0)
  %q: i4[5,4] = const(data=i4[5,4] "q" in "f" at 40)
  %scale: f16[5,1] = const(data=f16[5,1] "s" in "f" at 50)
  %wide: f16[5,4] = dequantize(%q, %scale, dtype=f16)
  %a: f16[S,5] = linear(%x, %w)
  %b: f16[S,5] = linear(%x, %wide)
  %rows: f16[S,4] = embedding(%w, %ids)
  %sum: f16[S,5] = add(%a, %b)

output y = %sum
output z = %rows
"""


def costs() -> dict[str, Work]:
    graph = llmc.parse(TEXT)
    return dict(zip([op.name for op in graph.ops], work_of(graph), strict=True))


def test_a_linear_needs_its_weight():
    assert costs()["a"] == Work(weights=5 * 4 * 2, moved=5 * 4 * 2 + 3 * 4 * 2 + 3 * 5 * 2, flops=2 * 3 * 5 * 4)


def test_a_quantized_weight_counts_as_it_is_stored():
    packed = 5 * 4 // 2 + 5 * 2
    assert costs()["b"] == Work(weights=packed, moved=packed + 3 * 4 * 2 + 3 * 5 * 2, flops=2 * 3 * 5 * 4)


def test_a_table_is_whole_where_rows_of_it_are_read():
    assert costs()["rows"] == Work(weights=5 * 4 * 2, moved=2 * 3 * 4 * 2 + 3 * 4, flops=0)


def test_what_is_computed_before_the_first_step_costs_nothing():
    assert {costs()[name] for name in ("w", "q", "scale", "wide")} == {Work()}


def test_a_graph_that_is_no_step_has_its_usual_sizes():
    assert usual_sizes(llmc.parse(TEXT)) == {"S": 3}


def test_a_step_writes_one_more_token_of_each_sequence(lifted):
    sizes = usual_sizes(lifted)
    assert (sizes["B"], sizes["S"], sizes["C"], sizes["R"]) == (8, 1, 512, 1)


def test_costs_are_those_of_inspect(dumps):
    for shown in dumps:
        total = graph_cost(shown.graph, usual_sizes(shown.graph)).total
        works = work_of(shown.graph)
        assert sum(work.moved for work in works) == total.moved
        assert sum(work.flops for work in works) == total.flops
