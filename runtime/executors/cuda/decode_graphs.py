"""Steps in which every sequence gets one token, captured as CUDA graphs.

A graph is for so many tokens, and tables of so many blocks; a step runs in the smallest that holds it. What a step
brings (tokens, positions, tables) is copied into the memory that the graph reads, as one piece. Tokens beyond those of
the step are padding, which writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from runtime.executors.cuda.kernels.addresses import PADDING, Addresses

Run = Callable[[PackedStep, Addresses], Tensor]
"""Runs the program over a step whose tensors are on the device; gives the logits."""

_SMALL = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_APART = 64
"""Beyond the small ones, there are graphs for multiples of so many tokens."""
_LEAST_BLOCKS = 4


def graph_tokens(tokens: int) -> int:
    """For how many tokens the smallest graph is that holds so many."""
    return next((size for size in _SMALL if size >= tokens), -(-tokens // _APART) * _APART)


def graph_blocks(blocks: int, most: int) -> int:
    """For how many blocks of a sequence the smallest graph is that holds so many; `most` is the widest table."""
    size = _LEAST_BLOCKS
    while size < blocks:
        size *= 2
    return max(blocks, min(size, most))


@dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    logits: Tensor


class StaticStep:
    """The memory that a step of one token each is read from: one piece, of which each tensor is a view.

    Attributes:
        tokens: how many tokens there are, with padding.
        width: how many blocks a table has.
        step: the tensors, on the device.
    """

    def __init__(self, tokens: int, width: int, device: torch.device) -> None:
        self.tokens, self.width = tokens, width
        pinned = device.type == "cuda"
        self._host = torch.zeros(tokens * (4 + width), dtype=torch.int32, pin_memory=pinned)
        self._device = torch.zeros_like(self._host, device=device)
        self._fields = self._views(self._host)
        self.step = PackedStep(*self._views(self._device))
        self._sent = torch.cuda.Event() if pinned else None

    def _views(self, memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        ids, positions, rows, wanted, tables = memory.split([self.tokens] * 4 + [self.tokens * self.width])
        return ids, positions, rows, tables.view(self.tokens, self.width), wanted

    def fill(self, step: PackedStep) -> None:
        """Take up a step that has one token a sequence and wants the logits of all tokens, in order."""
        if self._sent is not None:
            self._sent.synchronize()  # the memory may still be read by the copy of the step before
        count = step.tokens
        ids, positions, rows, tables, wanted = (field.numpy() for field in self._fields)
        ids[:count], positions[:count] = step.token_ids.numpy(), step.token_positions.numpy()
        ids[count:] = positions[count:] = 0
        rows[:count], rows[count:] = range(count), PADDING
        wanted[:count], wanted[count:] = range(count), 0
        width = min(self.width, step.block_tables.shape[1])
        tables[:count, :width] = step.block_tables.numpy()[step.token_rows.numpy(), :width]
        self._device.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

    def addresses(self, block: int) -> Addresses:
        """Where the tokens are."""
        _, positions, rows, tables, _ = self.step
        return Addresses(positions, rows, tables, block, self.width * block, decodes=True)


class DecodeGraphs:
    """The graphs of a session.

    The first step of a size runs op by op, which compiles kernels and sets libraries up; the second is captured.
    """

    def __init__(self, run: Run, block: int, most_blocks: int, device: torch.device) -> None:
        self._run, self._block, self._most, self._device = run, block, most_blocks, device
        self._static: dict[tuple[int, int], StaticStep] = {}
        self._captured: dict[tuple[int, int], _Captured] = {}
        self._memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    @staticmethod
    def takes(step: PackedStep, decodes: bool) -> bool:
        """Whether a step gets one token a sequence, and wants the logits of all tokens in order."""
        wanted = step.logit_pos
        return decodes and len(wanted) == step.tokens and bool((wanted[1:] > wanted[:-1]).all())

    def step(self, step: PackedStep, longest: int) -> Tensor:
        """The logits `[R, vocabulary]` of a step that `takes` holds for; `longest` is the length of its sequences."""
        size = graph_tokens(step.tokens), graph_blocks(-(-longest // self._block), self._most)
        known = size in self._static
        if not known:
            self._static[size] = StaticStep(*size, self._device)
        static = self._static[size]
        static.fill(step)
        if size not in self._captured and known and self._memory is not None:
            self._captured[size] = self._capture(static)
        if (captured := self._captured.get(size)) is not None:
            captured.graph.replay()
            return captured.logits[: step.tokens]
        return self._run(static.step, static.addresses(self._block))[: step.tokens]

    def _capture(self, static: StaticStep) -> _Captured:
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            logits = self._run(static.step, static.addresses(self._block))
        return _Captured(graph, logits)
