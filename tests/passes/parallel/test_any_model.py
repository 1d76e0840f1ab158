"""Random models of every family on random meshes compute what one rank computes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.parallel.configs import Case, cases, noise_model
from tests.passes.parallel.meshes import logits, rewritten

EMBED = st.sampled_from(["off", "vocab", "hidden"])
BEFORE = st.sampled_from(["", "merge-linears,", "fuse-attention,", "merge-linears,fuse-attention,cleanup,"])
AFTER = st.sampled_from(["", ",merge-linears,fuse-attention,cleanup"])


def assert_same(case: Case, passes: str) -> None:
    graph = noise_model(case.config)
    vocab = case.config["vocab_size"]
    expected = logits(graph, vocab)
    found = logits(rewritten(graph, passes), vocab)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@settings(max_examples=50)
@given(cases(), EMBED, BEFORE, AFTER)
def test_tensor_parallel(case, embed, before, after):
    assert_same(case, f"{before}tp={case.tp},embed={embed}{after}")


@settings(max_examples=25)
@given(cases(), st.integers(2, 3), BEFORE, AFTER)
def test_pipeline_parallel(case, stages, before, after):
    assert_same(case, f"{before}pp={stages}{after}")


@settings(max_examples=50)
@given(cases(), st.integers(2, 3), EMBED, st.permutations(["tp", "embed", "pp"]), AFTER)
def test_meshes_in_any_order(case, stages, embed, order, after):
    if order.index("embed") < order.index("tp"):
        order = ["tp", *[name for name in order if name != "tp"]]
    spelt = {"tp": f"tp={case.tp}", "embed": f"embed={embed}", "pp": f"pp={stages}"}
    assert_same(case, ",".join(spelt[name] for name in order) + after)
