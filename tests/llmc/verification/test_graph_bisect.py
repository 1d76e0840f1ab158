"""The search for the first operation that differs."""

from dataclasses import replace

import pytest

import llmc
from compiler.ir.frozen import FrozenDict
from compiler.ir.paged import paged
from compiler.ir.specialize import bind_dims
from llmc.verification.graph_bisect import first_divergence
from llmc.verification.instrumented import WatchedInterpreter
from llmc.verification.padded import PaddedForm
from llmc.verification.test_cases import TestCase, random_prompts
from runtime.engine_dir.manifest import EngineLimits
from runtime.generation.requests import Request
from tests.paths import MODELS

MODEL = MODELS / "opt-tiny"


@pytest.fixture(scope="module")
def graph():
    return llmc.optimize(llmc.lift(MODEL, max_batch=3, max_seq=48), "dtype=float32,fuse-attention").graph


def changed(graph, name, **attrs):
    """The graph, in which one op has other attributes."""
    return graph.with_ops(
        tuple(replace(op, attrs=FrozenDict({**op.attrs, **attrs})) if op.name == name else op for op in graph.ops),
        graph.outputs,
    )


def search(found, expected, graph, *, batch=3, count=5):
    prompts = random_prompts(count, 1, EngineLimits(3, 48, 48), 1024)
    requests = tuple(Request(tuple(prompt), 4) for prompt in prompts)
    test_case = TestCase("batch", tuple(range(1, count + 1)), requests, batch)
    return first_divergence(
        WatchedInterpreter(found), WatchedInterpreter(expected), graph, test_case, what="two graphs", tolerance=1e-4
    )


def test_equal_graphs_do_not_diverge_in_ragged_batches(graph):
    assert search(graph, graph, graph) is None


def test_padding_and_the_ends_of_caches_do_not_count(graph):
    # The session of a symbolic capacity has caches just as long as the sequences, this one the longest possible.
    fixed = bind_dims(graph, {"C": 48})
    assert search(fixed, graph, fixed) is None
    assert search(graph, fixed, graph) is None


def test_the_first_operation_that_differs_is_named(graph):
    # Changes in two places: the earlier one is reported.
    other = changed(graph, "layers.2.ln1.norm", eps=1.0)
    other = changed(other, "layers.1.attn.context", scale=1.0)
    divergence = search(other, graph, graph)
    assert divergence is not None
    assert (divergence.op, divergence.kind) == ("layers.1.attn.context", "attention")
    assert divergence.origin == "model.decoder.layers.1.self_attn"
    assert divergence.step == 0
    assert divergence.error > 0.01
    assert divergence.operands_error < 1e-5
    assert divergence.shape == divergence.reference_shape
    assert divergence.found == "two graphs"


@pytest.mark.parametrize(
    ("model", "passes"),
    [("opt-tiny", ""), ("mpt-tiny", ""), ("gptneox-tiny", ",merge-linears"), ("gptj-tiny", ",tp=1")],
)
def test_packed_steps_are_compared_as_padded_ones(model, passes):
    linear = llmc.optimize(llmc.lift(MODELS / model, max_batch=3, max_seq=48), f"dtype=float32,fuse-attention{passes}")
    packed = paged(linear.graph, block=8)
    for found, expected in ((packed, linear.graph), (linear.graph, packed), (packed, packed)):
        assert search(found, expected, found) is None
    forms = PaddedForm(packed), PaddedForm(linear.graph)
    both = forms[0].types.keys() & forms[1].types.keys()
    assert {name: forms[0].types[name] for name in both} == {name: forms[1].types[name] for name in both}
    compared = {op.kind.name for op in packed.ops if op.name in both}
    assert {"linear", "layer_norm", "paged_kv_update", "paged_attention", "add"} <= compared


@pytest.mark.parametrize("reference", ["linear", "paged"])
def test_the_first_operation_of_a_packed_step_that_differs_is_named(graph, reference):
    packed = paged(graph, block=8)
    for name, attrs in (
        ("layers.1.attn.context", {"scale": 1.0}),
        ("layers.2.ln1.norm", {"eps": 1.0}),
        ("final_norm.norm", {"eps": 1.0}),  # of the tokens whose logits are wanted
    ):
        divergence = search(changed(packed, name, **attrs), packed if reference == "paged" else graph, packed)
        assert divergence is not None
        assert (divergence.op, divergence.step) == (name, 0)
        assert divergence.shape == divergence.reference_shape
        assert divergence.operands_error < 1e-5 < divergence.error


def test_constants_are_compared_too(graph, tmp_path):
    stored = "layers.1.mlp.up.weight.stored"
    ref = graph.producers[stored].attrs["data"]
    data = bytearray((MODEL / ref.file).read_bytes())
    data[ref.offset + 1] ^= 0x7C  # the exponent of the first element
    (tmp_path / ref.file).write_bytes(data)
    divergence = search(replace(graph, root=str(tmp_path)), graph, graph)
    assert divergence is not None
    assert (divergence.op, divergence.kind) == (stored, "const")
