"""Running lifted graphs as a runtime would: a ragged prefill, then ragged steps over the caches."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compiler.frontends import Limits, lift, open_checkpoint
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.torch_types import to_torch
from compiler.ir.verifier import verify

MAX_SEQ = 24
LIMITS = Limits(max_batch=4, max_input=16, max_seq=MAX_SEQ)

# How many tokens each of three rows is given in each step: a prefill, a row that only waits, single tokens, a few.
PLAN = ((7, 1, 4), (1, 1, 1), (1, 3, 0), (2, 1, 5))


def lift_folder(folder: Path, limits: Limits = LIMITS) -> Graph:
    """The graph of the checkpoint, verified, and proven to survive printing and parsing."""
    graph = lift(open_checkpoint(folder), limits=limits)
    verify(graph)
    assert parse_graph(print_graph(graph)) == graph
    return graph


def random_rows(vocab: int, seed: int) -> list[list[int]]:
    """Enough tokens for each row of the plan."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab, (sum(counts),), generator=generator).tolist() for counts in zip(*PLAN, strict=True)]


def run_rows(graph: Graph, rows: Sequence[list[int]], plan: Sequence[Sequence[int]] = PLAN) -> list[Tensor]:
    """The logits of every token of every row, computed step by step, in real numbers (float64)."""
    interpreter = Interpreter(graph, accumulate=torch.float64, exact=True)
    sizes = {"B": len(rows), "C": MAX_SEQ}
    state = {
        value.name: torch.zeros(value.type.sizes(sizes), dtype=to_torch(value.type.dtype))
        for value in graph.inputs
        if value.name.startswith("cache.")
    }
    past = [0] * len(rows)
    logits: list[list[Tensor]] = [[] for _ in rows]
    for counts in plan:
        width = max(counts)
        ids = torch.zeros(len(rows), width, dtype=torch.int32)
        for b, (row, count) in enumerate(zip(rows, counts, strict=True)):
            ids[b, :count] = torch.tensor(row[past[b] : past[b] + count], dtype=torch.int32)
        every = torch.arange(width, dtype=torch.int32).expand(len(rows), width).contiguous()
        outputs = interpreter(
            {
                "token_ids": ids,
                "past_len": torch.tensor(past, dtype=torch.int32),
                "new_len": torch.tensor(counts, dtype=torch.int32),
                "logit_pos": every,
                **state,
            }
        )
        for b, count in enumerate(counts):
            logits[b].append(outputs["logits"][b, :count])
            past[b] += count
        # A cache is declared in the graph's type; real numbers lose nothing that matters by going through float32.
        state = {name: outputs[name].to(tensor.dtype) for name, tensor in state.items()}
    return [torch.cat(parts) for parts in logits]


def assert_same_logits(
    graph: Graph, reference: Callable[[list[int]], Tensor], *, vocab: int, seed: int, tolerance: float = 1e-5
) -> None:
    """The graph's logits equal the reference's, which is given whole rows and returns `[tokens, vocab]`."""
    rows = random_rows(vocab, seed)
    for row, found in zip(rows, run_rows(graph, rows), strict=True):
        expected = reference(row)
        error = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
        assert error < tolerance, f"relative error {error:.2e}"


def edit_config(folder: Path, drop: Sequence[str] = (), **keys: Any) -> None:
    """Change keys of the checkpoint's config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in drop:
        config.pop(key, None)
    path.write_text(json.dumps({**config, **keys}))
