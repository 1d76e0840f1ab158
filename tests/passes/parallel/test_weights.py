"""The ranks' weights are the model's, and what several ranks need, again for each."""

from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.analysis import constant_values
from compiler.ir.constants import needed_constants, stream_constants
from compiler.ir.mesh import rank_graph
from compiler.ir.mesh_weights import weight_report
from tests.passes.parallel.configs import cases, noise_model
from tests.passes.parallel.meshes import AUTOMATIC, lifted, rewritten


def model_bytes(graph):
    return sum(value.type.nbytes for value in needed_constants(graph))


def whole(graph, split, tp):
    """The bytes of the weights that each rank of a stage has all of, by a count of its own."""
    cut: set[str] = set()
    constant = constant_values(split)
    for op in reversed([op for op in split.ops if op.name in constant]):
        if op.kind.name == "shard" or any(value.name in cut for value in op.results):
            cut.update(value.name for value in op.operands)
    return {value.name: value.type.nbytes * (tp - 1) for value in needed_constants(graph) if value.name not in cut}


@settings(max_examples=60)
@given(cases())
def test_tensor_parallel(case):
    graph = noise_model(case.config)
    split = rewritten(graph, f"tp={case.tp}")
    report = weight_report(split)
    assert report.once == model_bytes(graph)
    assert report.total == model_bytes(graph) + sum(report.repeated.values())
    repeated = {name: size for name, size in report.repeated.items() if not name.endswith(".shard")}
    assert repeated == whole(graph, split, case.tp)


@settings(max_examples=60)
@given(cases(), st.integers(2, 3), st.sampled_from(["", AUTOMATIC]))
def test_meshes(case, stages, after):
    graph = noise_model(case.config)
    split = rewritten(graph, f"tp={case.tp},pp={stages},{after}".rstrip(","))
    report = weight_report(split)
    assert report.once == model_bytes(graph)
    assert report.total == model_bytes(graph) + sum(report.repeated.values())
    mesh = range(case.tp * stages)
    assert list(report.ranks) == [model_bytes(rank_graph(split, rank)) for rank in mesh]


@settings(max_examples=60)
@given(cases())
def test_padding_is_all_that_a_split_vocabulary_adds(case):
    graph = noise_model(case.config)
    report = weight_report(rewritten(graph, f"tp={case.tp},embed=vocab"))
    missing = -case.config["vocab_size"] % case.tp
    added = report.once - model_bytes(graph)
    tables = [
        value
        for value in needed_constants(graph)
        if value.type.shape[0] == case.config["vocab_size"] and ("embed" in value.name or "lm_head" in value.name)
    ]
    assert added == sum(missing * value.type.nbytes // case.config["vocab_size"] for value in tables)


def test_what_is_counted_is_what_is_written():
    split = rewritten(lifted("opt", "float16"), f"tp=2,embed=vocab,pp=2,{AUTOMATIC}")
    written = [
        sum(tensor.numel() * tensor.element_size() for _, tensor in stream_constants(rank_graph(split, rank)))
        for rank in range(4)
    ]
    assert tuple(written) == weight_report(split).ranks
