"""Whole windows as the first step of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from compiler.errors import PassError, is_out_of_memory
from compiler.ir.chunks import elements_per_token
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.torch_types import to_torch

BATCH = 8

# How many elements a value may have that grows with the square of a window's length, and the logits of a batch.
_PRODUCT, _LOGITS = 2**26, 2**28


def batch_size(graph: Graph, length: int, *, logits: bool = False) -> int:
    """How many windows of `length` tokens run at once: 8, or as many as memory and the graph allow, and at least 1.

    Args:
        graph: the step graph.
        length: tokens of a window.
        logits: whether the logits after every token are wanted.
    """
    limit = min(BATCH, graph.dims["B"].max) if "B" in graph.dims else BATCH
    product = length * elements_per_token(graph, 1, length, holds_scores=lambda op: True)
    limit = min(limit, _PRODUCT // max(1, product))
    if logits:
        vocabulary = graph.outputs["logits"].type.sizes(dict.fromkeys(graph.dims, 1))[-1]
        limit = min(limit, _LOGITS // (length * vocabulary))
    return max(1, limit)


@contextmanager
def memory_for(windows: int, length: int) -> Iterator[None]:
    """PassError, with the mend, if there is no memory to run so many windows of so many tokens at once."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise PassError(
            f"there is no memory to calibrate with {windows} windows of {length} tokens at a time: {error}",
            hint="give a smaller --calib-length",
        ) from error


def step_inputs(graph: Graph, ids: Tensor) -> dict[str, Tensor]:
    """The inputs of a first step with token ids `[B, S]`: no past, empty caches of the length of the window."""
    count, length = ids.shape
    given = {
        "token_ids": ids,
        "past_len": torch.zeros(count, dtype=torch.int32),
        "new_len": torch.full((count,), length, dtype=torch.int32),
        "logit_pos": torch.full((count, 1), length - 1, dtype=torch.int32),
    }
    sizes = {"B": count, "S": length, "C": length, "R": 1}
    for value in graph.inputs:
        if value.name not in given:  # without memory of its own: every element is the same zero
            zero = torch.zeros((), dtype=to_torch(value.type.dtype))
            given[value.name] = zero.expand(value.type.sizes(sizes))
    return given


def window_logits(graph: Graph, windows: Tensor, device: torch.device) -> Iterator[Tensor]:
    """The logits after every token of windows `[samples, length]`, float32 `[B, length, vocabulary]` a batch."""
    run = Interpreter(graph.with_ops(graph.ops, {"logits": graph.outputs["logits"]}), device=device)
    for ids in windows.split(batch_size(graph, windows.shape[1], logits=True)):
        everywhere = torch.arange(ids.shape[1], dtype=torch.int32).expand(ids.shape)
        with memory_for(*ids.shape):
            logits = run({**step_inputs(graph, ids), "logit_pos": everywhere})["logits"].float()
        yield logits
