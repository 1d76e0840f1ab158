"""The pass `cache`: paged caches as a part of a pipeline."""

import pytest

import llmc
from compiler.backend_trt.target import TensorRTRTX
from compiler.errors import GraphError, PassError, TargetError
from compiler.ir.paged import paged
from compiler.ir.virtual_ranks import VirtualRanks
from compiler.passes import run_pipeline, spell
from llmc.inspection.op_facts import NOT_NEEDED
from llmc.pipeline import compose
from tests.passes.parallel.meshes import AUTOMATIC, FAMILIES, lifted, rewritten
from tests.paths import MODELS


def names(passes):
    return [spell(step) for step in compose(passes, None)]


def test_the_automatic_passes_come_before_it():
    assert names("tp=2,cache=paged") == ["tp=2", *AUTOMATIC.split(","), "cache=paged"]
    assert names("cache=paged:block=16,tp=2") == [*AUTOMATIC.split(","), "cache=paged:block=16", "tp=2"]
    assert names("cache=paged,cleanup") == [*AUTOMATIC.split(",")[:2], "cache=paged", "cleanup"]
    assert names("tp=2") == ["tp=2", *AUTOMATIC.split(",")]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_pages_the_caches(family):
    graph = run_pipeline(lifted(family), AUTOMATIC).graph
    assert rewritten(graph, "cache=paged:block=16") == paged(graph, 16)
    assert rewritten(graph, "cache=linear") == graph


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mesh", ["tp=2", "pp=2", "tp=2,pp=2"])
def test_a_paged_graph_is_split_as_a_linear_one(family, mesh):
    before = rewritten(lifted(family), f"{AUTOMATIC},cache=paged,{mesh}")
    after = rewritten(lifted(family), f"{mesh},{AUTOMATIC},cache=paged")
    pools = [[str(value) for name, value in rank.states().items()] for rank in VirtualRanks(before).graphs]
    assert pools == [[str(value) for name, value in rank.states().items()] for rank in VirtualRanks(after).graphs]


@pytest.mark.parametrize("later", ["kv=int8", "quant=awq", "quant=gptq"])
def test_what_calibrates_comes_before_it(later):
    graph = run_pipeline(lifted("opt"), f"{AUTOMATIC},cache=paged").graph
    with pytest.raises(PassError, match="calibrates, for which caches must be linear; they are paged") as caught:
        run_pipeline(graph, later, dry_run=True)
    assert caught.value.hint == "put cache=paged behind it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache=paged:block=0", "block=0 holds no token"),
        ("cache=pages", "did you mean 'paged'"),
        ("cache", "needs a value: cache=linear[|]paged"),
    ],
)
def test_options_that_mean_nothing_are_refused(text, message):
    with pytest.raises(PassError, match=message):
        run_pipeline(lifted("opt"), text)


def test_it_needs_fused_attention():
    with pytest.raises(GraphError, match="the pass 'cache' fails: caches cannot be paged") as caught:
        llmc.optimize(lifted("opt"), "cache=paged")
    assert "fuse-attention" in str(caught.value.hint)


def test_tensorrt_says_that_it_runs_linear_caches():
    graph = run_pipeline(lifted("opt"), f"{AUTOMATIC},cache=paged").graph
    with pytest.raises(TargetError, match="runs linear caches, one row for each sequence; those of opt are paged"):
        TensorRTRTX().check(graph)
    assert {"paged_attention", "paged_kv_update"} <= NOT_NEEDED["TensorRT rule"].keys()


def test_an_engine_with_paged_caches_generates_what_a_linear_one_does(tmp_path):
    prompts = ["The function returns", "Once upon a time there was a", "A"]
    found: list[list[list[int]]] = []
    for passes in ("", "cache=paged:block=8"):
        compiled = llmc.compile(
            MODELS / "gptj-tiny", tmp_path / f"engine{len(found)}", passes=passes, dtype="float32", target="torch"
        )
        engine = llmc.load(compiled.path, device="cpu")
        found.append([each.token_ids for each in engine.generate(prompts, max_new_tokens=12, ignore_eos=True)])
    assert found[0] == found[1]
    assert llmc.verify(compiled.path, MODELS / "gptj-tiny", random=2, max_new_tokens=4, device="cpu").holds
