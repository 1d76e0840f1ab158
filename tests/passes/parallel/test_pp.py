"""Stages: balanced, cut where little passes, and right."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import GraphError, PassError
from compiler.ir.mesh import collectives, rank_graph
from compiler.ir.mesh_stages import value_stages
from compiler.ir.mesh_weights import weight_report
from compiler.ir.rewrite import sweep
from compiler.ir.trace import Trace
from compiler.passes import run_pipeline
from compiler.passes.parallel.stages import Line, cut_line, line_of
from compiler.store import stored_ranks
from llmc.compiling.emit import check_targets
from tests.passes.parallel.configs import noise_model
from tests.passes.parallel.meshes import AUTOMATIC, FAMILIES, lifted, logits, rewritten


@st.composite
def lines(draw, *, chain=True):
    """Lines of ops with weights, some of which are tied; of a chain each op reads the one before it."""
    count = draw(st.integers(2, 8))
    names = st.sampled_from(["tied", *map(str, range(count))])
    weights = [{draw(names): 40} for _ in range(count)]
    compute = [float(draw(st.integers(0, 50))) for _ in range(count)]
    reads = [max(i - 1, 0) if chain else draw(st.integers(0, i)) for i in range(count)]
    ops = tuple(lifted("opt").ops[:count])
    return Line(ops, tuple(weights), tuple(compute), (0, *[1] * (count - 1)), tuple(reads))


def cost(line, start, end):
    stored = {name: size for own in line.weights[start:end] for name, size in own.items()}
    return sum(stored.values()) + sum(line.compute[start:end])


@given(lines(), st.integers(1, 4))
def test_no_other_cuts_are_better(line, stages):
    count = len(line.ops)
    if stages > count:
        with pytest.raises(PassError):
            cut_line(line, stages)
        return

    def worst(cuts):
        return max(cost(line, start, end) for start, end in pairwise([0, *cuts, count]))

    cuts = cut_line(line, stages)
    assert len(cuts) == stages - 1 and sorted(set(cuts)) == cuts
    assert worst(cuts) == min(worst(every) for every in combinations(range(1, count), stages - 1))


@given(lines(chain=False), st.integers(2, 6))
def test_every_stage_reads_what_an_earlier_one_made(line, stages):
    """What reads nothing of the kind would be computed in the first stage."""
    count = len(line.ops)

    def is_filled(cuts):
        return all(any(line.reads[i] < start for i in range(start, end)) for start, end in pairwise([*cuts, count]))

    possible = [n for n in range(1, count + 1) if any(map(is_filled, combinations(range(1, count), n - 1)))]
    if stages in possible:
        assert is_filled(cut_line(line, stages))
        return
    with pytest.raises(PassError) as error:
        cut_line(line, stages)
    assert error.value.hint == f"pp={max(possible)} is the most that this model can be cut into"


@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_stages_as_can_be_filled(family):
    with pytest.raises(PassError) as error:
        run_pipeline(lifted(family), "pp=99")
    assert error.value.message.startswith("pp=99 needs 98 places to cut the graph, and there are ")
    most = int(str(error.value.hint).split()[0].removeprefix("pp="))
    for stages in (most // 3, most // 2, most):
        cut = rewritten(lifted(family), f"pp={stages},{AUTOMATIC}")
        for rank in range(stages):
            assert [op for op in rank_graph(cut, rank).ops if op.operands]
    with pytest.raises(PassError):
        run_pipeline(lifted(family), f"pp={most + 1}")


def without_transfer(stage):
    """A pass that takes away what carries values to a stage."""

    def takes_away(graph):
        def visit(op, b):
            return op.operands[0] if op.kind.name == "transfer" and op.attrs["stage"] == stage else None

        return sweep(graph, visit, pass_name="takes-away")

    return takes_away


@pytest.mark.parametrize("stage", [1, 2])
def test_a_pass_that_takes_a_transfer_away_is_named(stage):
    with pytest.raises(GraphError) as error:
        run_pipeline(rewritten(lifted("opt"), "pp=3"), [without_transfer(stage)])
    assert error.value.message == (
        f"the pass 'takes-away' left an invalid graph: stage {stage} has nothing to compute: no transfer goes to it"
    )


def test_a_pass_that_uses_what_another_stage_computes_is_named():
    cut = rewritten(lifted("gptneox"), "pp=3")

    def mixes(graph):
        early = graph.value("layers.1.mlp.down")  # of the second stage; the head is in the third
        assert value_stages(graph)[early.name] == 1

        def visit(op, b):
            if op.name != "final_norm.norm":
                return None
            rows = b.gather_rows(early, graph.value("logit_pos"))
            return b.layer_norm(b.add(op.operands[0], rows), *op.operands[1:], **op.attrs)

        return sweep(graph, visit, pass_name="mixes")

    with pytest.raises(GraphError) as error:
        run_pipeline(cut, [mixes])
    assert error.value.message == (
        "the pass 'mixes' left an invalid graph: "
        "add %final_norm.norm.add from gpt_neox.final_layer_norm (changed by mixes) "
        "is computed in stage 2, but %final_norm.norm.gather_rows is not there"
    )


def test_engines_of_graphs_that_cannot_be_cut_are_refused_before_they_are_written(tmp_path):
    """Not only by the pipeline, which verifies after each pass."""
    cut = without_transfer(1)(rewritten(lifted("opt"), "pp=2"))
    with pytest.raises(GraphError, match="stage 1 has nothing to compute"):
        check_targets(cut, stored_ranks(cut), {})


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_residual_passes(family):
    for stages in (2, 3, 4):
        graph = rewritten(lifted(family), f"pp={stages}")
        assert collectives(graph) == {"transfer": stages - 1}
        names = [op.operands[0].name for op in graph.find("transfer")]
        assert all(name.endswith(("after_attn", "after_mlp")) for name in names)


def test_embedding_and_head_weigh_as_much_as_layers():
    """Of ten layers the first and the last stage get fewer, because they have a table and a head."""
    graph = noise_model(
        {
            "model_type": "gpt_neox",
            "architectures": ["GPTNeoXForCausalLM"],
            "vocab_size": 24 * 64,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "num_hidden_layers": 10,
        }
    )
    split = rewritten(graph, "pp=4")
    caches = [len(rank_graph(split, rank).states()) // 2 for rank in range(4)]
    assert sum(caches) == 10
    assert caches[0] < caches[1] and caches[-1] < caches[-2]
    ranks = weight_report(split).ranks
    assert max(ranks) < 1.35 * min(ranks)


def test_a_tied_table_is_in_the_first_and_the_last_stage():
    report = weight_report(rewritten(lifted("mpt"), "pp=2"))
    assert report.repeated == {"embed.weight": 1024 * 128 * 4}
    untied = weight_report(rewritten(lifted("gptj"), "pp=3"))
    assert untied.repeated == {}


def test_masks_and_angles_are_computed_in_every_stage():
    graph = rewritten(lifted("gptneox"), "pp=2")
    line = {op.name for op in line_of(graph).ops}
    for rank in range(2):
        names = {op.name for op in rank_graph(graph, rank).ops}
        assert {"positions.mask", "positions.cos", "positions.sin"} <= names - line


def reusing(layers, *, back=-1):
    """An MPT model whose later layers read the caches of the first."""
    names = [{"name": "default"}, *[{"name": "reuse"}] * (layers - 1)]
    config = {
        "model_type": "mpt",
        "architectures": ["MPTForCausalLM"],
        "vocab_size": 7,
        "d_model": 8,
        "n_heads": 2,
        "n_layers": layers,
        "max_seq_len": 32,
        "block_overrides": {
            "order": names,
            "overrides": {"reuse": {"attn_config": {"reuse_kv_layer_idx": back}}},
        },
    }
    return noise_model(config)


def test_caches_travel_only_if_they_must():
    graph = reusing(2)
    cut = rewritten(graph, "pp=2")
    assert collectives(cut) == {"transfer": 1}
    torch.testing.assert_close(logits(cut, 7), logits(graph, 7), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ("pp=0", "pp=0 is no number of stages"),
        ("pp=2,pp=2", "the graph is cut into pp=2 stages already"),
    ],
)
def test_refused(passes, message):
    with pytest.raises(PassError) as error:
        run_pipeline(lifted("opt"), passes)
    assert error.value.message == message


def test_explained():
    trace = Trace()
    run_pipeline(lifted("opt"), "tp=2,pp=3", trace=trace)
    assert trace.text().endswith("pp\n  a step takes 8 all_reduce, 2 transfer\n")
