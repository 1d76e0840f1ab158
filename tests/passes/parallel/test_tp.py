"""Tensor parallelism: what is split, how, and what is said where it cannot be."""

import re
from itertools import pairwise

import pytest
import torch

from compiler.errors import PassError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.mesh import collectives, rank_graph
from compiler.ir.printer import format_op
from compiler.ir.rewrite import sweep
from compiler.ir.trace import Trace
from compiler.passes import TensorParallel, run_pipeline
from compiler.passes.parallel import sharding_rule
from tests.passes.checks import assert_golden, graph_of
from tests.passes.parallel.configs import noise_model
from tests.passes.parallel.meshes import AUTOMATIC, FAMILIES, greedy, lifted, logits, rewritten
from tests.registrations import forgotten

MLP = """
    input x: f32[B,4]

    mlp from h.0.mlp:
      %.up.weight: f32[6,4] = random(key="up", dtype=f32, shape=[6,4])
      %.up.bias: f32[6] = random(key="up.bias", dtype=f32, shape=[6])
      %.up: f32[B,6] = linear(%x, %.up.weight, %.up.bias)
      %.act: f32[B,6] = gelu(%.up)
      %.down.weight: f32[4,6] = random(key="down", dtype=f32, shape=[4,6])
      %.down.bias: f32[4] = random(key="down.bias", dtype=f32, shape=[4])
      %.down: f32[B,4] = linear(%.act, %.down.weight, %.down.bias)
      %.norm: f32[B,4] = layer_norm(%.down)

    output y = %mlp.norm
"""


def test_columns_then_rows():
    assert_golden(
        TensorParallel(2),
        MLP,
        """
        fact tp = 2
        input x: f32[B,4]

        mlp from h.0.mlp:
          %.up.weight: f32[6,4] = random(key="up", dtype=f32, shape=[6,4])
          %.up.bias: f32[6] = random(key="up.bias", dtype=f32, shape=[6])
          %.up.weight.shard: f32[3,4] = shard(%.up.weight, axis=0, parts=2)  !tp
          %.up.bias.shard: f32[3] = shard(%.up.bias, axis=0, parts=2)  !tp
          %.up: f32[B,3] = linear(%x, %.up.weight.shard, %.up.bias.shard)  !tp
          %.act: f32[B,3] = gelu(%.up)  !tp
          %.down.weight: f32[4,6] = random(key="down", dtype=f32, shape=[4,6])
          %.down.bias: f32[4] = random(key="down.bias", dtype=f32, shape=[4])
          %.down.weight.shard: f32[4,3] = shard(%.down.weight, axis=1, parts=2)  !tp
          %.down.partial: f32[B,4] = linear(%.act, %.down.weight.shard)  !tp
          %.down.reduced: f32[B,4] = all_reduce(%.down.partial, parts=2)  !tp
          %.down: f32[B,4] = add(%.down.reduced, %.down.bias)  !tp
          %.norm: f32[B,4] = layer_norm(%.down)

        output y = %mlp.norm
        """,
    )


def test_the_scale_of_a_token_is_over_all_ranks():
    """The input of the second linear is quantized by the largest value of each row, of which each rank has a part."""
    assert_golden(
        TensorParallel(2),
        """
        input x: f32[B,4]
        mlp from h.0.mlp:
          %.up.weight: f32[6,4] = random(key="up", dtype=f32, shape=[6,4])
          %.up: f32[B,6] = linear(%x, %.up.weight)
          %.amax: f32[B,1] = amax(%.up, axis=-1)
          %.scale: f32[B,1] = scale(%.amax, factor=0.0078125)
          %.packed: i8[B,6] = quantize(%.up, %.scale, dtype=i8)
          %.rounded: f32[B,6] = dequantize(%.packed, %.scale, dtype=f32)
          %.down.weight: f32[4,6] = random(key="down", dtype=f32, shape=[4,6])
          %.down: f32[B,4] = linear(%.rounded, %.down.weight)
          %.norm: f32[B,4] = layer_norm(%.down)
        output y = %mlp.norm
        """,
        """
        fact tp = 2
        input x: f32[B,4]

        mlp from h.0.mlp:
          %.up.weight: f32[6,4] = random(key="up", dtype=f32, shape=[6,4])
          %.up.weight.shard: f32[3,4] = shard(%.up.weight, axis=0, parts=2)  !tp
          %.up: f32[B,3] = linear(%x, %.up.weight.shard)  !tp
          %.amax.own: f32[B,1] = amax(%.up, axis=-1)  !tp
          %.amax: f32[B,1] = all_max(%.amax.own, parts=2)  !tp
          %.scale: f32[B,1] = scale(%.amax, factor=0.0078125)
          %.packed: i8[B,3] = quantize(%.up, %.scale, dtype=i8)  !tp
          %.rounded: f32[B,3] = dequantize(%.packed, %.scale, dtype=f32)  !tp
          %.down.weight: f32[4,6] = random(key="down", dtype=f32, shape=[4,6])
          %.down.weight.shard: f32[4,3] = shard(%.down.weight, axis=1, parts=2)  !tp
          %.down.partial: f32[B,4] = linear(%.rounded, %.down.weight.shard)  !tp
          %.down: f32[B,4] = all_reduce(%.down.partial, parts=2)  !tp
          %.norm: f32[B,4] = layer_norm(%.down)

        output y = %mlp.norm
        """,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mesh", ["tp=2", "tp=4"])
def test_activations_quantized_by_token_are_split_as_others_are(family, mesh):
    """As many linears as without quantization, and the same scales as on one rank."""
    graph = rewritten(lifted(family), "quant=int8:act=token")
    split, plain = rewritten(graph, mesh), collectives(rewritten(lifted(family), mesh))
    counts = collectives(split)
    assert counts["all_max"] == 8  # two linears in each of four layers are split by their inputs
    assert counts["all_reduce"] == plain["all_reduce"]
    assert greedy(split) == greedy(graph)


REDUCTIONS = {"gptneox": 1, "gptj": 1, "opt": 2, "mpt": 2}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("embed", "more"), [("off", {}), ("vocab", {"all_reduce": 1}), ("hidden", {"all_gather": 1})])
def test_as_few_collectives_as_possible(family, embed, more):
    """One all-reduce a layer with a parallel residual, else two; one collective for the table, one for the logits."""
    graph = rewritten(lifted(family), f"tp=2,embed={embed},{AUTOMATIC}")
    counts = {"all_reduce": 4 * REDUCTIONS[family], "all_gather": int(embed != "off")}
    expected = {kind: count + more.get(kind, 0) for kind, count in counts.items()}
    assert collectives(graph) == {kind: count for kind, count in expected.items() if count}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_large_weights_of_the_layers_are_split(family):
    graph = rank_graph(rewritten(lifted(family), f"tp=4,{AUTOMATIC}"), 3)
    widths = {op.operands[1].type.shape for op in graph.find("linear")}
    assert widths - {(1024, 128)} == {(96, 128), (128, 32), (128, 128)}  # q, k and v merged; out, and down; up
    assert {value.type.shape[1] for value, _ in graph.states().values()} == {1}


def mpt(heads=4, kv_heads=4, **attn):
    return noise_model(
        {
            "model_type": "mpt",
            "architectures": ["MPTForCausalLM"],
            "vocab_size": 7,
            "d_model": heads * 4,
            "n_heads": heads,
            "n_layers": 2,
            "max_seq_len": 32,
            "attn_config": {"attn_type": "grouped_query_attention", "kv_n_heads": kv_heads, "rope": True, **attn},
        }
    )


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tp", "kept", "key_rows"),
    [
        (8, 4, 2, 2, "axis=0, parts=2"),
        (8, 2, 4, 1, "axis=0, parts=2, each=2"),
        (8, 2, 8, 1, "axis=0, parts=2, each=4"),
        (6, 2, 3, 2, None),
        (8, 1, 4, 1, None),
    ],
)
def test_key_heads_are_replicated_where_they_are_too_few(heads, kv_heads, tp, kept, key_rows):
    """Each rank keeps the key heads that its query heads read, and no others than it must."""
    graph = mpt(heads, kv_heads)
    split = rewritten(graph, f"tp={tp}")
    assert {value.type.shape[1] for value, _ in split.states().values()} == {kept}
    spelt = [
        format_op(op).partition("= ")[2] for op in split.find("shard") if op.name == "layers.0.attn.k.weight.shard"
    ]
    assert spelt == ([f"shard(%layers.0.attn.k.weight, {key_rows})  !tp"] if key_rows else [])
    torch.testing.assert_close(logits(split, 7), logits(graph, 7), rtol=1e-5, atol=1e-6)


def test_a_norm_over_all_heads_keeps_its_linear_whole():
    trace = Trace()
    graph = mpt(qk_ln=True)
    split = run_pipeline(graph, "tp=2", trace=trace).graph
    widths = {op.name: op.operands[1].type.shape for op in split.find("linear") if op.name.startswith("layers.0.attn")}
    assert widths == {
        "layers.0.attn.q": (16, 16),
        "layers.0.attn.k": (16, 16),
        "layers.0.attn.v": (8, 16),
        "layers.0.attn.out.partial": (16, 8),
    }
    assert (
        "declined %layers.0..1.attn.q from transformer.blocks.0.attn: layer_norm %layers.0.attn.q_ln.norm"
        in trace.text()
    )
    assert collectives(split) == {"all_reduce": 4}


def test_slopes_of_alibi_are_those_of_the_ranks_heads():
    graph = rewritten(lifted("mpt"), "tp=2,cleanup")
    slopes = [
        op.attrs["values"]
        for rank in (0, 1)
        for op in rank_graph(graph, rank).find("literal")
        if op.result.type.rank == 3
    ]
    assert slopes == [(0.25, 0.0625), (0.015625, 0.00390625)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("first", ["merge-linears", "fuse-attention", "merge-linears,fuse-attention,cleanup"])
def test_before_and_after_other_passes(family, first):
    """What merged and fused graphs become is as good as what they become when they are split first."""
    late = rewritten(lifted(family), f"{first},tp=2,{AUTOMATIC}")
    early = rewritten(lifted(family), f"tp=2,{AUTOMATIC}")
    assert collectives(late) == collectives(early)
    kinds = [
        sorted(op.kind.name for op in graph.ops if op.kind.name in ("linear", "attention")) for graph in (late, early)
    ]
    assert kinds[0] == kinds[1]
    torch.testing.assert_close(logits(late, 1024), logits(lifted(family), 1024), rtol=1e-5, atol=1e-5)


def test_merged_linears_are_merged_again():
    graph = rewritten(lifted("opt"), "merge-linears,tp=2")
    assert [op.operands[1].type.shape for op in graph.find("linear")][:2] == [(192, 128), (128, 64)]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_precision(family, dtype):
    """A mesh is as near to real numbers as one rank is, within a factor that the order of additions explains."""
    whole = lifted(family, dtype)
    split = rewritten(whole, f"tp=2,embed=vocab,pp=2,{AUTOMATIC}")
    truth = logits(whole, 1024)
    errors = [float((logits(graph, 1024, exact=False).double() - truth).abs().max()) for graph in (whole, split)]
    assert 0 < errors[1] < 2 * errors[0]
    torch.testing.assert_close(logits(split, 1024), truth, rtol=1e-2, atol=1e-2)


def test_the_type_can_be_changed_afterwards():
    before, after = (lifted("mpt"), rewritten(lifted("mpt"), "tp=2,embed=vocab,pp=2,dtype=float16"))
    assert {value.type.dtype for value, _ in after.states().values()} == {DType.f16}
    torch.testing.assert_close(logits(after, 1024), logits(before, 1024), rtol=1e-2, atol=1e-2)


def test_a_graph_that_a_users_pass_has_changed():
    """Heads are scaled by learned gates, names are the user's, and the MLP's norm sits in the middle of it."""

    def visit(op, b):
        if op.name.endswith("attn.context.rows"):
            gate = b.random(key=f"{op.name}.gate", dtype=DType.f32, shape=(4, 1), std=1.0, name="gate")
            return b.mul(b.transpose(op.operands[0], perm=op.attrs["perm"], name="plain"), b.sigmoid(gate))
        if op.name.endswith("0.mlp.act"):
            return b.layer_norm(b.gelu(op.operands[0], name="plain"), name="normed")
        return None

    changed = sweep(lifted("opt"), visit, pass_name="mine")
    split = rewritten(changed, "tp=2")
    torch.testing.assert_close(logits(split, 1024), logits(changed, 1024), rtol=1e-5, atol=1e-5)
    assert collectives(split) == {"all_reduce": 7}  # layer 0's MLP stays whole
    assert sum(op.result.type.shape == (2, 1) for op in split.find("shard")) == 4  # the gates of each rank's heads


@pytest.mark.parametrize("taught", [False, True])
def test_an_op_that_the_pass_does_not_know(taught):
    """It needs all of its operands, until someone says otherwise."""
    from compiler.ir import op as ops

    def visit(op, b):
        return b.op("halved", op.operands[0]) if op.kind.name == "gelu" else None

    with forgotten():

        @ops.op
        def halved(x):
            """Half of it."""
            return x

        if taught:
            sharding_rule("halved")(lambda factors: factors.aligned(factors.operands[0], factors.results[0]))
        graph = sweep(graph_of(MLP), visit, pass_name="mine")
        if taught:
            assert collectives(TensorParallel(2)(graph)) == {"all_reduce": 1}
            return
        with pytest.raises(PassError) as error:
            TensorParallel(2)(graph)
        assert error.value.message.startswith("tp finds nothing to split")


def test_sharding_rules_are_not_overwritten():
    with pytest.raises(PassError) as error:
        sharding_rule("softmax")(lambda factors: None)
    assert re.fullmatch(
        r"the op 'softmax' has a sharding rule already, in compiler\.passes\.parallel\.sharding_rules, line \d+; "
        r"the new one is in .*test_tp\.py, line \d+",
        error.value.message,
    )


def chain(*widths):
    b = Builder("chain")
    b.dims["B"] = DimRange(1, 2, 4)
    x = b.input("x", DType.f32, symbol("B"), widths[0])
    for i, (k, n) in enumerate(pairwise(widths)):
        x = b.linear(x, b.random(key=str(i), dtype=DType.f32, shape=(n, k)), name=f"l{i}")
    b.output("y", b.layer_norm(x))
    return b.build()


def test_of_pairs_that_exclude_each_other_the_one_that_saves_most_is_taken():
    split = run_pipeline(chain(4, 6, 32, 4), [TensorParallel(2)]).graph
    assert {op.name: op.operands[1].type.shape for op in split.find("linear")} == {
        "l0": (6, 4),
        "l1": (16, 6),
        "l2.partial": (4, 16),
    }


MISFITS = [
    (
        lambda: lifted("gptneox"),
        3,
        "tp=3 cannot split the 128 inputs of %layers.0.attn.out from gpt_neox.layers.0.attention, which are 4 blocks",
        "this model can be split by tp=2, tp=4",
    ),
    (lambda: lifted("opt"), 8, "which are 4 blocks of 32, evenly", "tp=2, tp=4"),
    (lambda: chain(4, 6, 4), 4, "tp=4 cannot split the 6 inputs of %l1 from the graph evenly", "tp=2, tp=3, tp=6"),
    (lambda: chain(4, 7, 4), 2, "the 7 inputs of %l1", "tp=7"),
    (
        lambda: chain(4, 360, 4),
        7,
        "the 360 inputs of %l1",
        "this model can be split by tp=2, tp=3, tp=4, tp=5, ..., tp=360",
    ),
    (lambda: chain(4, 4), 2, "tp finds nothing to split: no linear sums over", "leave tp out of --passes"),
    (lambda: lifted("opt"), 0, "tp=0 is no number of ranks", "tp=1 leaves the model on one rank"),
    (lambda: rewritten(lifted("opt"), "tp=2"), 2, "the graph is split over tp=2 ranks already", "name tp once"),
]


@pytest.mark.parametrize(("graph", "ranks", "message", "hint"), MISFITS)
def test_misfits_say_what_would_work(graph, ranks, message, hint):
    with pytest.raises(PassError) as error:
        run_pipeline(graph(), [TensorParallel(ranks)])
    assert message in error.value.message
    assert hint in str(error.value.hint)


def test_one_rank_is_a_mesh_too():
    graph = run_pipeline(lifted("opt"), "tp=1,embed=vocab,pp=1").graph
    assert graph.ops == lifted("opt").ops
    assert (graph.facts["tp"], graph.facts["pp"]) == (1, 1)


def test_explained():
    trace = Trace()
    run_pipeline(lifted("gptj"), "tp=2", trace=trace)
    assert trace.text() == (
        "tp\n"
        "  split by outputs: applied to 16 of 25\n"
        "    at %layers.0..3.attn.q, %layers.0..3.attn.k, %layers.0..3.attn.v, %layers.0..3.mlp.up\n"
        "  split by inputs: applied to 8 of 25\n"
        "    at %layers.0..3.attn.out, %layers.0..3.mlp.down\n"
        "  whole: applied to 0 of 25\n"
        "    declined %lm_head.logits from lm_head: its results are an output of the graph; "
        "embed=vocab or embed=hidden splits the output head\n"
        "  a step takes 4 all_reduce\n"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_noted_where_all_layers_are_split(family):
    """The output head stays whole, too: that is for embed."""
    assert run_pipeline(lifted(family), "tp=2").notes == ()


def test_linears_that_stay_whole_are_noted():
    graph = noise_model(
        {
            "model_type": "opt",
            "architectures": ["OPTForCausalLM"],
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "ffn_dim": 8,
            "vocab_size": 32,
            "word_embed_proj_dim": 12,
            "max_position_embeddings": 32,
        }
    )
    [note] = run_pipeline(graph, "tp=2").notes
    assert note == (
        "tp=2: 2 of 9 linears stay whole on every rank: %embed.project_in from model.decoder (layer_norm "
        "%layers.0.ln1.norm needs all of its outputs), and 1 more; --explain lists them"
    )
