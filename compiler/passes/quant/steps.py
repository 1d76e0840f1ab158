"""Whole windows as the first step of a model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.torch_types import to_torch

BATCH = 8


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
    for ids in windows.split(BATCH):
        everywhere = torch.arange(ids.shape[1], dtype=torch.int32).expand(ids.shape)
        yield run({**step_inputs(graph, ids), "logit_pos": everywhere})["logits"].float()
