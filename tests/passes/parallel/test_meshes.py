"""The checkpoints write the same tokens on every mesh."""

import pytest

from tests.passes.parallel.meshes import AUTOMATIC, FAMILIES, greedy, lifted, rewritten

MESHES = [(2, 1), (4, 1), (1, 2), (1, 3), (2, 2), (1, 4)]
CASES = [(tp, pp, embed) for tp, pp in MESHES for embed in ("off", "vocab", "hidden") if tp > 1 or embed == "off"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("tp", "pp", "embed"), CASES)
def test_greedy_tokens(family, tp, pp, embed):
    graph = rewritten(lifted(family), f"tp={tp},embed={embed},pp={pp},{AUTOMATIC}")
    assert greedy(graph) == greedy(lifted(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_depend_on_the_prompts(family):
    """Or the test above would not say much."""
    found = greedy(lifted(family))
    assert len({tuple(tokens) for tokens in found}) == len(found)
