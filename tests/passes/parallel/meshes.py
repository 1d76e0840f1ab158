"""Running graphs on meshes of virtual ranks, and what to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from compiler.frontends import Limits, lift, open_checkpoint
from compiler.ir.graph import Graph
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.torch_types import to_torch
from compiler.ir.verifier import verify
from compiler.ir.virtual_ranks import VirtualRanks
from compiler.passes import run_pipeline
from tests.paths import MODELS

FAMILIES = ("gptneox", "gptj", "opt", "mpt")
AUTOMATIC = "merge-linears,fuse-attention,cleanup"

# Three prompts of different lengths, and how many tokens each is continued by.
PROMPTS = ((72, 300, 5, 911, 40, 8), (17,), (600, 2, 2, 31))
STEPS = 6


@cache
def lifted(family: str, dtype: str = "float32") -> Graph:
    """A checkpoint's graph in a type, before any other pass."""
    graph = lift(open_checkpoint(MODELS / f"{family}-tiny"), limits=Limits(max_batch=4, max_input=16, max_seq=32))
    return run_pipeline(graph, f"dtype={dtype}").graph


def rewritten(graph: Graph, passes: str) -> Graph:
    """The graph after the passes; it survives printing and parsing."""
    result = run_pipeline(graph, passes).graph
    verify(result)
    assert parse_graph(print_graph(result)) == result
    return result


def greedy(graph: Graph, prompts: Sequence[Sequence[int]] = PROMPTS, steps: int = STEPS) -> list[list[int]]:
    """The likeliest continuation of each prompt, by all ranks of the graph's mesh."""
    ranks = VirtualRanks(graph)
    rows = len(prompts)
    states = ranks.empty_states(rows, 32)
    new = [list(prompt) for prompt in prompts]
    past = [0] * rows
    found: list[list[int]] = [[] for _ in prompts]
    for _ in range(steps):
        outputs, states = ranks(_step(new, past, last_only=True), states)
        past = [length + len(tokens) for length, tokens in zip(past, new, strict=True)]
        new = [[int(row)] for row in outputs["logits"][:, 0].argmax(-1)]
        for tokens, token in zip(found, new, strict=True):
            tokens += token
    return found


def logits(graph: Graph, vocab: int, *, exact: bool = True) -> Tensor:
    """The logits of two ragged steps, one after the other; with `exact` in real numbers (float64)."""
    generator = torch.Generator().manual_seed(vocab)
    options = {"accumulate": torch.float64, "exact": True} if exact else {}
    ranks = VirtualRanks(graph, **options)
    states = ranks.empty_states(2, 32)
    past, found = [0, 0], []
    for counts in ((5, 3), (1, 2)):
        new = [torch.randint(vocab, (count,), generator=generator).tolist() for count in counts]
        outputs, states = ranks(_step(new, past, last_only=False), states)
        found += [row[:count] for row, count in zip(outputs["logits"], counts, strict=True)]
        past = [before + count for before, count in zip(past, counts, strict=True)]
        # Caches are declared in the graph's type; nothing that matters is lost by going through it.
        kinds = [{name: state[0].type.dtype for name, state in own.states().items()} for own in ranks.graphs]
        states = [
            {name: tensor.to(to_torch(kind[name])) for name, tensor in state.items()}
            for state, kind in zip(states, kinds, strict=True)
        ]
    return torch.cat(found)


def _step(new: Sequence[Sequence[int]], past: Sequence[int], *, last_only: bool) -> dict[str, Tensor]:
    """The inputs of a step that gives each row its new tokens."""
    width = max(map(len, new))
    rows = [[len(tokens) - 1] if last_only else list(range(width)) for tokens in new]
    inputs = {
        "token_ids": [[*tokens, *[0] * (width - len(tokens))] for tokens in new],
        "past_len": past,
        "new_len": [len(tokens) for tokens in new],
        "logit_pos": rows,
    }
    return {name: torch.tensor(values, dtype=torch.int32) for name, values in inputs.items()}
