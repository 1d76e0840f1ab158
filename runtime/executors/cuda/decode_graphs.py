"""Steps in which every sequence gets one token, captured as CUDA graphs.

A graph is for so many tokens, and tables of so many blocks; a step runs in the smallest that holds it. What a step
brings (tokens, positions, tables) is copied into the memory that the graph reads, as one piece. Tokens beyond those of
the step are padding, which writes nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
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


class _Size(NamedTuple):
    """What a graph is for: tokens, blocks of a table, and whether it chooses the next tokens."""

    tokens: int
    blocks: int
    ahead: bool


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
        places = np.arange(count, dtype=np.int32)
        rows[:count], rows[count:] = places, PADDING
        wanted[:count], wanted[count:] = places, 0
        width = min(self.width, step.block_tables.shape[1])
        tables[:count, :width] = step.block_tables.numpy()[step.token_rows.numpy(), :width]
        self._device.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

    def addresses(self, block: int) -> Addresses:
        """Where the tokens are."""
        _, positions, rows, tables, _ = self.step
        return Addresses(positions, rows, tables, block, self.width * block, decodes=True)


class ChosenTokens:
    """What was chosen in a step, on its way to the host. See `runtime.executors.paged.Chosen`."""

    def __init__(self, pairs: Tensor, sent: torch.cuda.Event | None) -> None:
        """Take what is being copied.

        Args:
            pairs: `i32[T, 2]` on the host: the token, and the bits of its logit as float32.
            sent: when the copy is through; None if it is.
        """
        self._pairs, self._sent = pairs, sent

    def wait(self) -> tuple[list[int], list[float]]:
        """See `Chosen.wait`."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._pairs[:, 0].tolist(), self._pairs[:, 1].contiguous().view(torch.float32).tolist()


class DecodeGraphs:
    """The graphs of a session.

    The first step of a size runs op by op, which compiles kernels and sets libraries up; the second is captured.
    """

    def __init__(self, run: Run, block: int, most_blocks: int, most_tokens: int, device: torch.device) -> None:
        """Prepare for steps.

        Args:
            run: runs the program.
            block: how many tokens a block holds.
            most_blocks: how many blocks a sequence has at most.
            most_tokens: how many sequences a step has at most.
            device: where the program runs.
        """
        self._run, self._block, self._most, self._device = run, block, most_blocks, device
        self._static: dict[tuple[int, int], StaticStep] = {}
        self._seen: set[_Size] = set()
        self._captured: dict[_Size, _Captured] = {}
        on_gpu = device.type == "cuda"
        self._memory = torch.cuda.graph_pool_handle() if on_gpu else None
        size = graph_tokens(most_tokens)
        self._chosen = torch.zeros(size, 2, dtype=torch.int32, device=device)
        self._host = [torch.zeros(size, 2, dtype=torch.int32, pin_memory=on_gpu) for _ in range(2)]

    def rehearse(self, sizes: Sequence[int]) -> None:
        """Run steps of so many tokens, all of them padding, over the narrowest tables and the widest."""
        for tokens in sizes:
            for blocks in sorted({graph_blocks(1, self._most), graph_blocks(self._most, self._most)}):
                static = StaticStep(tokens, blocks, self._device)
                static.step.token_rows.fill_(PADDING)
                self._run(static.step, static.addresses(self._block))

    @staticmethod
    def takes(step: PackedStep) -> bool:
        """Whether a step gets one token a sequence, and wants the logits of all tokens in order."""
        wanted = step.logit_pos.numpy()
        return step.decodes and len(wanted) == step.tokens and bool((wanted[1:] > wanted[:-1]).all())

    def step(self, step: PackedStep) -> Tensor:
        """The logits `[R, vocabulary]` of a step that `takes` holds for."""
        return self._compute(step, ahead=False)[: step.tokens]

    def step_ahead(self, step: PackedStep) -> ChosenTokens:
        """See `runtime.executors.paged.StepsAhead.step_ahead`; `takes` must hold for the step."""
        self._compute(step, ahead=True)
        self._host.reverse()  # whoever waits for the step before may still read the other one
        pairs = self._host[0][: step.tokens]
        pairs.copy_(self._chosen[: step.tokens], non_blocking=True)
        if self._memory is None:
            return ChosenTokens(pairs, None)
        sent = torch.cuda.Event()
        sent.record()
        return ChosenTokens(pairs, sent)

    def _compute(self, step: PackedStep, *, ahead: bool) -> Tensor:
        last = int(step.token_positions.numpy().max())
        shape = graph_tokens(step.tokens), graph_blocks(last // self._block + 1, self._most)
        if shape not in self._static:
            self._static[shape] = StaticStep(*shape, self._device)
        static, size = self._static[shape], _Size(*shape, ahead)
        static.fill(step)
        if size not in self._captured and size in self._seen and self._memory is not None:
            self._captured[size] = self._capture(static, ahead=ahead)
        self._seen.add(size)
        if (captured := self._captured.get(size)) is not None:
            captured.graph.replay()
            return captured.logits
        return self._logits(static, ahead=ahead)

    def _logits(self, static: StaticStep, *, ahead: bool) -> Tensor:
        step = static.step
        if ahead:
            step = step._replace(token_ids=resolved(step.token_ids, self._chosen))
        logits = self._run(step, static.addresses(self._block))
        if ahead:
            largest, tokens = logits.max(-1)
            self._chosen[: static.tokens, 0] = tokens
            self._chosen[: static.tokens, 1] = largest.float().view(torch.int32)
        return logits

    def _capture(self, static: StaticStep, *, ahead: bool) -> _Captured:
        torch.cuda.synchronize(self._device)
        gc.disable()  # a graph that is freed while another one is captured spoils it
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                logits = self._logits(static, ahead=ahead)
        finally:
            gc.enable()
        return _Captured(graph, logits)


def resolved(ids: Tensor, chosen: Tensor) -> Tensor:
    """Token ids in which `-1 - i` has become the token of row `i` of what was chosen."""
    return torch.where(ids < 0, chosen[(-1 - ids).clamp(min=0), 0], ids)
