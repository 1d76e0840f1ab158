"""Tables and heads in shards: which are found, how they are padded, what is refused."""

import pytest
import torch

from compiler.errors import PassError
from compiler.ir.evaluators.core import evaluates
from compiler.ir.mesh import collectives, with_facts
from compiler.ir.mesh_weights import weight_report
from compiler.ir.op import op
from compiler.ir.rewrite import sweep
from compiler.ir.trace import Trace
from compiler.ir.types import TensorType
from compiler.passes import SplitEmbedding, run_pipeline
from compiler.passes.parallel.vocabulary import heads, token_lookups
from tests.passes.checks import assert_golden, graph_of
from tests.passes.parallel.meshes import AUTOMATIC, FAMILIES, lifted, logits, rewritten
from tests.registrations import forgotten

BEFORE = """
    fact tp = 2
    input ids: i32[B]

    .:
      %table: f32[5,4] = random(key="t", dtype=f32, shape=[5,4])
      %rows: f32[B,4] = embedding(%table, %ids)
      %logits: f32[B,5] = linear(%rows, %table)

    output logits = %logits
"""
HEAD = """
    logits:
      %.own: f32[B,3] = linear(%rows, %table.shard0)  !embed
      %.padded: f32[B,6] = all_gather(%.own, axis=1, parts=2)  !embed

    .:
      %logits: f32[B,5] = slice(%logits.padded, axis=1, start=0, size=5)  !embed

    output logits = %logits
"""
PADDED = """
      %.padding: f32[1,4] = literal(dtype=f32, shape=[1,4], values=[0.0])  !embed
      %.padded: f32[6,4] = concat(%table, %.padding, axis=0)  !embed
      %.shard0: f32[3,4] = shard(%.padded, axis=0, parts=2)  !embed
"""


def test_along_the_vocabulary():
    assert_golden(
        SplitEmbedding("vocab"),
        BEFORE,
        f"""
    fact tp = 2
    input ids: i32[B]

    .:
      %table: f32[5,4] = random(key="t", dtype=f32, shape=[5,4])

    table:{PADDED}
    rows:
      %.zero: i32[1] = literal(dtype=i32, shape=[1], values=[0])  !embed
      %.size: i32[1] = literal(dtype=i32, shape=[1], values=[3])  !embed
      %.first_rows: i32[2] = literal(dtype=i32, shape=[2], values=[0,3])  !embed
      %.first_row: i32[1] = shard(%.first_rows, axis=0, parts=2)  !embed
      %.own_ids: i32[B] = sub(%ids, %.first_row)  !embed
      %.from: bool[B] = less_equal(%.zero, %.own_ids)  !embed
      %.to: bool[B] = less(%.own_ids, %.size)  !embed
      %.inside: bool[B] = logical_and(%.from, %.to)  !embed
      %.safe_ids: i32[B] = where(%.inside, %.own_ids, %.zero)  !embed
      %.rows: f32[B,4] = embedding(%table.shard0, %.safe_ids)  !embed
      %.inside_rows: bool[B,1] = reshape(%.inside, shape=[B,1])  !embed
      %.nothing: f32[1] = literal(dtype=f32, shape=[1], values=[0.0])  !embed
      %.own_rows: f32[B,4] = where(%.inside_rows, %.rows, %.nothing)  !embed

    .:
      %rows: f32[B,4] = all_reduce(%rows.own_rows, parts=2)  !embed
{HEAD}""",
    )


def test_along_the_hidden_dimension():
    assert_golden(
        SplitEmbedding("hidden"),
        BEFORE,
        f"""
    fact tp = 2
    input ids: i32[B]

    .:
      %table: f32[5,4] = random(key="t", dtype=f32, shape=[5,4])

    table:
      %.shard1: f32[5,2] = shard(%table, axis=1, parts=2)  !embed

    rows:
      %.columns: f32[B,2] = embedding(%table.shard1, %ids)  !embed

    .:
      %rows: f32[B,4] = all_gather(%rows.columns, axis=1, parts=2)  !embed

    table:{PADDED}{HEAD}""",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_logits_are_found_by_what_they_are(family):
    graph = lifted(family)
    assert [op.name for op in token_lookups(graph)] == ["embed.tokens"]
    assert [op.name for op in heads(graph)] == ["lm_head.logits"]


def test_lookups_in_other_tables_are_none_of_tokens():
    """A table of fewer rows than the vocabulary has, and one that is a shard of a larger one already."""
    graph = graph_of("""
        fact tp = 2
        fact vocab_size = 5
        input ids: i32[B]

        .:
          %small: f32[4,4] = random(key="s", dtype=f32, shape=[4,4])
          %wide: f32[5,8] = random(key="w", dtype=f32, shape=[5,8])
          %half: f32[5,4] = shard(%wide, axis=1, parts=2)
          %table: f32[5,4] = random(key="t", dtype=f32, shape=[5,4])
          %a: f32[B,4] = embedding(%small, %ids)
          %b: f32[B,4] = embedding(%half, %ids)
          %c: f32[B,4] = embedding(%table, %ids)
          %ab: f32[B,4] = add(%a, %b)
          %abc: f32[B,4] = add(%ab, %c)

        output y = %abc
    """)
    assert [op.name for op in token_lookups(graph)] == ["c"]


def test_a_head_behind_elementwise_ops():
    """A bias of its own, a factor, a bound."""

    def visit(op, b):
        if op.name != "lm_head.logits":
            return None
        x, weight, bias = op.operands
        shifted = b.add(bias, b.linear(x, weight, name="product"), name="shifted")
        return b.tanh(b.scale(shifted, factor=0.5), name="bounded")

    changed = sweep(lifted("gptj"), visit, pass_name="mine")
    assert [op.name for op in heads(changed)] == ["lm_head.logits.product"]
    split = rewritten(changed, "tp=2,embed=vocab")
    torch.testing.assert_close(logits(split, 1024), logits(changed, 1024), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tp", [2, 3, 4, 7])
def test_any_vocabulary_on_any_number_of_ranks(family, tp):
    """The pass needs nothing of tp but the number of ranks."""
    graph = lifted(family)
    split = rewritten(with_facts(graph, tp=tp), "embed=vocab,cleanup")
    torch.testing.assert_close(logits(split, 1024), logits(graph, 1024), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_are_no_longer_repeated(family):
    split = rewritten(lifted(family), f"tp=4,embed=vocab,{AUTOMATIC}")
    large = {name for name, size in weight_report(split).repeated.items() if size > 3 * 128 * 128 * 4}
    # Learned positions stay whole.
    assert all("position" in name for name in large)
    assert len(large) == (1 if family == "opt" else 0)


def test_a_tied_table_is_stored_once_along_the_vocabulary():
    by_rows, by_columns = (
        weight_report(rewritten(lifted("opt"), f"tp=2,embed={along},cleanup")).ranks[0] for along in ("vocab", "hidden")
    )
    assert by_columns - by_rows == 1024 * 128 * 4 // 2


REFUSED = [
    ("embed=vocab", "embed=vocab splits over the ranks of tp, but the graph is for one rank", "tp=2,embed=vocab"),
    ("embed=rows", "'rows'", "vocab"),
]


@pytest.mark.parametrize(("passes", "message", "hint"), REFUSED)
def test_refused(passes, message, hint):
    with pytest.raises(PassError) as error:
        run_pipeline(lifted("opt"), passes)
    assert message in error.value.message
    assert hint in str(error.value)


def test_columns_that_do_not_split():
    with pytest.raises(PassError) as error:
        run_pipeline(graph_of(BEFORE.replace("tp = 2", "tp = 3")), "embed=hidden")
    assert error.value.message == "embed=hidden cannot split the 4 columns of %table evenly over tp=3"
    assert "embed=vocab pads" in str(error.value.hint)


def test_nothing_to_split():
    with pytest.raises(PassError) as error:
        run_pipeline(
            graph_of("fact tp = 2\ninput x: f32[B,4]\n\n.:\n  %y: f32[B,4] = relu(%x)\n\noutput y = %y"), "embed=vocab"
        )
    assert error.value.message == "embed finds neither a token embedding nor an output head"


def test_explained():
    trace = Trace()
    run_pipeline(lifted("opt"), "tp=2,embed=hidden", trace=trace)
    assert trace.text().endswith("embed\n  a step takes 2 all_gather, 8 all_reduce\n")


def with_logits_by(make):
    """OPT whose logits are made by something else from what the head gives."""
    graph = lifted("opt")
    head = graph.outputs["logits"].name

    def visit(op, b):
        return make(b, b.linear(*op.operands, name="raw")) if op.name == head else None

    return sweep(graph, visit, pass_name="mine")


def test_a_head_behind_an_op_of_a_plugin_is_split():
    with forgotten():

        @op
        def of_a_plugin(x: TensorType, scale: TensorType) -> TensorType:
            """The sine of `scale * x`."""
            return x

        evaluates("of_a_plugin")(lambda attrs, sizes, x, scale: torch.sin(scale * x))
        graph = with_logits_by(
            lambda b, x: b.of_a_plugin(x, b.literal(dtype=x.type.dtype, shape=(1,), values=(0.25,), name="scale"))
        )
        result = run_pipeline(graph, "tp=2,embed=vocab")
        assert result.notes == ()
        assert collectives(result.graph)["all_gather"] == 1
        torch.testing.assert_close(logits(result.graph, 1024), logits(graph, 1024), rtol=1e-5, atol=1e-5)


def test_a_head_that_cannot_be_found_is_noted():
    graph = with_logits_by(lambda b, x: b.softmax(x))
    result = run_pipeline(graph, "tp=2,embed=vocab")
    [note] = result.notes
    assert note == (
        "embed=vocab: the output head stays whole: softmax %lm_head.logits from model.decoder.embed_tokens "
        "(changed by mine) makes an output, and is no linear with constant weights"
    )
    assert collectives(result.graph) == {"all_reduce": 9}


@pytest.mark.parametrize("along", ["vocab", "hidden"])
def test_a_table_that_cannot_be_found_is_noted(along):
    """Rows that are computed from the tokens in another way than by a lookup."""
    graph = graph_of("""
        fact tp = 2
        input ids: i32[B]
        .:
          %table: f32[5,4] = random(key="t", dtype=f32, shape=[5,4])
          %numbers: f32[B] = cast(%ids, dtype=f32)
          %column: f32[B,1] = reshape(%numbers, shape=[B,1])
          %first: f32[1,4] = slice(%table, axis=0, start=0, size=1)
          %rows: f32[B,4] = mul(%column, %first)
          %logits: f32[B,5] = linear(%rows, %table)
        output logits = %logits
        """)
    assert run_pipeline(graph, f"embed={along}").notes == (
        f"embed={along}: there is no lookup of tokens in a constant table, so that no token embedding is split",
    )
