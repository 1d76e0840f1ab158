"""What ops cost, counted by hand."""

import llmc
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


def test_a_linear_reads_its_weight_and_writes_its_result():
    assert costs()["a"] == Work(weights=5 * 4 * 2, moved=5 * 4 * 2 + 3 * 4 * 2 + 3 * 5 * 2, flops=2 * 3 * 5 * 4)


def test_a_quantized_weight_counts_as_it_is_stored():
    packed = 5 * 4 // 2 + 5 * 2
    assert costs()["b"] == Work(weights=packed, moved=packed + 3 * 4 * 2 + 3 * 5 * 2, flops=2 * 3 * 5 * 4)


def test_an_embedding_reads_rows_only():
    assert costs()["rows"] == Work(weights=5 * 4 * 2, moved=2 * 3 * 4 * 2 + 3 * 4, flops=0)


def test_an_op_without_weights_moves_operands_and_result():
    assert costs()["sum"] == Work(moved=3 * 3 * 5 * 2)


def test_what_is_computed_before_the_first_step_costs_nothing():
    assert {costs()[name] for name in ("w", "q", "scale", "wide")} == {Work()}


def test_usual_sizes_are_those_of_the_graph():
    assert usual_sizes(llmc.parse(TEXT)) == {"S": 3}


def test_attention_costs_what_its_primitives_cost(dumps):
    by_label = {shown.label.partition("-")[2]: shown.graph for shown in dumps}
    apart, fused = (sum(work.flops for work in work_of(by_label[name])) for name in ("merge-linears", "fuse-attention"))
    assert fused == apart > 0
