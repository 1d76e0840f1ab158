"""What steps cost, against counts by hand: from the sizes that configs give, op by op as models are written down."""

from dataclasses import dataclass

import pytest

import llmc
from compiler.errors import GraphError
from compiler.ir.builder import Builder
from compiler.ir.cost import Cost, graph_cost, step_sizes, weights_read
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.flops import FLOPS, costs, visible_pairs
from compiler.ir.graph import DimRange
from compiler.ir.layers import layer_number, layer_of
from compiler.ir.mesh import rank_graph
from tests.paths import MODELS

LAYERS, HIDDEN, WIDE, VOCABULARY = 4, 128, 512, 1024
BATCH, NEW, PAST = 3, 5, 20
FORM = "merge-linears,fuse-attention,cleanup"


@dataclass(frozen=True)
class Family:
    """What a family has in each layer, by hand: how many norms, residual sums, biases, turned dims of a head."""

    norms: int
    sums: int
    biased: tuple[bool, bool]  # the linears of attention, and of the feed-forward part
    norm_bias: bool
    head_bias: bool
    turned: int


FAMILIES = {
    "opt": Family(2, 2, (True, True), True, False, 0),
    "gptneox": Family(2, 2, (True, True), True, False, 8),
    "gptj": Family(1, 2, (False, True), True, True, 16),
    "mpt": Family(2, 2, (False, False), False, False, 0),
}


def graph_of(model, passes=FORM):
    return llmc.optimize(llmc.lift(MODELS / f"{model}-tiny"), passes).graph


def step(graph, **sizes):
    return graph_cost(graph, step_sizes(graph, **{"batch": BATCH, "new": NEW, "past": PAST, **sizes}))


@pytest.mark.parametrize("passes", [FORM, f"{FORM},cache=paged:block=8"])
@pytest.mark.parametrize("model", FAMILIES)
def test_operations_are_those_of_a_count_by_hand(model, passes):
    graph, family = graph_of(model, passes), FAMILIES[model]
    heads, tokens = graph.facts["heads"], BATCH * NEW
    pairs = sum(PAST + i + 1 for i in range(NEW)) * BATCH * heads
    products = 2 * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * WIDE)
    biases = family.biased[0] * 4 * HIDDEN + family.biased[1] * (WIDE + HIDDEN)
    norm = (7 if family.norm_bias else 6) * HIDDEN
    turned = 2 * heads * 6 * (family.turned // 2)  # queries and keys; two products and a sum for each of a pair
    layer = tokens * (products + biases + family.norms * norm + WIDE + family.sums * HIDDEN + turned)
    layer += pairs * (4 * HIDDEN // heads + 5)
    by_layer = step(graph).by_layer
    assert [by_layer[f"layers.{i}"].flops for i in range(LAYERS)] == [layer] * LAYERS
    head = BATCH * VOCABULARY * (2 * HIDDEN + family.head_bias)
    assert by_layer["lm_head"].flops == head


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize(
    ("passes", "bits", "group"), [("", 16, None), ("quant=int8,", 8, 0), ("quant=int4:group=32,", 4, 32)]
)
def test_weights_that_are_read_are_those_that_are_stored(model, passes, bits, group):
    family, graph = FAMILIES[model], graph_of(model, f"{passes}{FORM}")
    outputs = [3 * HIDDEN, HIDDEN, WIDE, HIDDEN]  # q, k and v; out; up; down
    inputs = [HIDDEN, HIDDEN, HIDDEN, WIDE]
    groups = [0 if group is None else size // group if group else 1 for size in inputs]
    weights = sum(n * k for n, k in zip(outputs, inputs, strict=True)) * bits // 8
    half, single = 2, 4
    scale_bytes = single * sum(n * g for n, g in zip(outputs, groups, strict=True))
    biases = half * (family.biased[0] * 4 * HIDDEN + family.biased[1] * (WIDE + HIDDEN))
    norms = half * family.norms * HIDDEN * (2 if family.norm_bias else 1)
    constants = sum(
        each.cost.weights
        for each in step(graph).ops
        if each.op.name.startswith("layers.1.") and each.op.kind.name in ("linear", "layer_norm")
    )
    assert constants == weights + scale_bytes + biases + norms


@pytest.mark.parametrize(("passes", "size"), [("", 2), (",cache=paged:block=8", 2)])
def test_caches_are_read_as_far_as_sequences_go_and_written_where_they_are_new(passes, size):
    total = step(graph_of("opt", FORM + passes)).total
    assert total.caches == 2 * LAYERS * HIDDEN * size * BATCH * (PAST + NEW)
    assert total.cached == 2 * LAYERS * HIDDEN * size * BATCH * NEW


def test_the_least_of_a_decode_step_is_what_the_bench_counts():
    from llmc.step_cost import step_bytes

    for model in FAMILIES:
        graph = graph_of(model)
        total, bound = step(graph, new=1, past=99).total, step_bytes(graph)
        rows = sum(each.cost.weights for each in step(graph, new=1, past=99).ops if each.op.kind.name == "embedding")
        assert bound.weights == weights_read(graph)
        assert total.caches == BATCH * 100 * bound.cache_per_token
        assert 0 <= total.weights - rows - bound.weights < 200  # a literal that several ops read is read each time


def test_a_window_hides_what_is_further_back():
    assert visible_pairs(1, 10) == 11
    assert visible_pairs(3, 2) == 3 + 4 + 5
    assert visible_pairs(3, 2, window=1) == 2 + 2 + 2
    assert visible_pairs(3, 0, window=1) == 1 + 2 + 2


def test_a_rank_computes_its_share_and_sends_its_sums():
    whole, split = graph_of("opt"), graph_of("opt", f"{FORM},tp=2")
    one = step(rank_graph(split, 0))
    linears = [sum(e.cost.flops for e in cost.ops if e.op.kind.name == "linear") for cost in (step(whole), one)]
    head = 2 * BATCH * VOCABULARY * HIDDEN
    tokens, ranks = BATCH * NEW, 2
    replicated = head + tokens * LAYERS * 2 * HIDDEN  # the biases of sums are added once, by their rank or behind
    assert linears[1] == pytest.approx(linears[0] / ranks, abs=replicated)
    assert one.total.caches * ranks == step(whole).total.caches
    # Two sums a layer; in a ring of two each rank sends each of them once.
    assert one.total.sent == LAYERS * 2 * tokens * HIDDEN * 2


def test_a_stage_sends_what_the_next_one_needs():
    first = step(rank_graph(graph_of("opt", f"{FORM},pp=2"), 0)).total
    assert first.sent >= BATCH * NEW * HIDDEN * 2


def test_products_of_quantized_operands_are_of_their_type():
    b = Builder()
    b.dims["B"] = DimRange(1, 2, 8)
    x, weight = b.input("x", DType.i8, symbol("B"), 4), b.input("w", DType.i8, 6, 4)
    one = b.literal(dtype=DType.f32, shape=(1, 1), values=(1.0,))
    wide = [b.dequantize(value, one, dtype=DType.f16) for value in (x, weight)]
    b.output("y", b.linear(*wide, name="y"))
    b.output("z", b.linear(wide[0], b.cast(wide[1], dtype=DType.f16), name="z"))
    cost = graph_cost(b.build(), {"B": 2}).by_op
    assert (cost["y"].precision, cost["z"].precision) == (DType.i8, DType.f16)
    assert cost["y"].cost == Cost(flops=2 * 2 * 6 * 4, weights=4 + 4, activations=2 * 4 + 6 * 4, written=2 * 6 * 2)


def test_an_op_of_ones_own_counts_each_element_unless_it_says_what_it_takes():
    b = Builder()
    b.output("y", b.tanh(b.input("x", DType.f32, 3, 4), name="y"))
    graph = b.build()
    assert graph_cost(graph, {}).total == Cost(flops=12, activations=48, written=48)
    assert graph_cost(graph, {}).total.intensity == 12 / 96
    with pytest.raises(GraphError, match="the cost of the op 'linear' is registered already"):
        costs("linear")(lambda op, sizes: 0)
    assert FLOPS["linear"](next(graph_of("opt").find("linear")), {"B": 1, "S": 1}) > 0


def test_a_layer_is_named_by_the_first_number_of_a_path():
    assert [layer_of(name) for name in ("layers.3.attn.q", "embed.tokens", "logit_rows", "a.b.0.c.1.d")] == [
        *("layers.3", "embed", "logit_rows", "a.b.0")
    ]
    assert (layer_number("layers.3"), layer_number("embed")) == (3, None)
