"""Whole windows as the first step of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from compiler.errors import PassError, is_out_of_memory
from compiler.ir.chunks import elements_per_token
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Value
from compiler.ir.step import LOGITS, Step, StepDim, all_positions, dim_sizes
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
    limit = min(BATCH, graph.dims[StepDim.BATCH].max) if StepDim.BATCH in graph.dims else BATCH
    product = length * elements_per_token(graph, 1, length, holds_scores=lambda op: True)
    limit = min(limit, _PRODUCT // max(1, product))
    if logits:
        vocabulary = graph.outputs[LOGITS].type.sizes(dict.fromkeys(graph.dims, 1))[-1]
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


def step_inputs(graph: Graph, ids: Tensor, logit_pos: Tensor | None = None) -> dict[str, Tensor]:
    """The inputs of a first step of a graph: no past, and empty caches of the length of the window.

    Args:
        graph: the step graph.
        ids: token ids, `i32[B, S]`, without padding.
        logit_pos: the positions whose logits are wanted, `i32[B, R]`; the last if None.
    """
    step = Step.prefill(ids, logit_pos=logit_pos)
    sizes = dim_sizes(batch=step.batch, length=step.length, capacity=step.length, wanted=step.wanted)
    given = step._asdict()
    return {value.name: given[value.name] if value.name in given else _zeros(value, sizes) for value in graph.inputs}


def _zeros(value: Value, sizes: Mapping[str, int]) -> Tensor:
    """A tensor of zeros without memory of its own: every element is the same zero."""
    return torch.zeros((), dtype=to_torch(value.type.dtype)).expand(value.type.sizes(sizes))


def window_logits(graph: Graph, windows: Tensor, device: torch.device) -> Iterator[Tensor]:
    """The logits after every token of windows `[samples, length]`, float32 `[B, length, vocabulary]` a batch."""
    run = Interpreter(graph.with_ops(graph.ops, {LOGITS: graph.outputs[LOGITS]}), device=device)
    for ids in windows.split(batch_size(graph, windows.shape[1], logits=True)):
        with memory_for(*ids.shape):
            logits = run(step_inputs(graph, ids, all_positions(*ids.shape)))[LOGITS].float()
        yield logits
