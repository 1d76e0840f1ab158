"""Steps captured as CUDA graphs, which run ahead of the tokens that they choose.

A graph is for steps of a size; a step runs in the smallest that holds it (see `static_steps`). It leaves the logits in
memory that all graphs share, and the most likely next tokens where the next step finds them, which need not wait for
the host so.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from runtime.executors.cuda.kernels.addresses import Addresses
from runtime.executors.cuda.static_steps import (
    GraphSize,
    StaticStep,
    graph_tokens,
    size_of_decodes,
    size_with_prompts,
)

Run = Callable[[PackedStep, Addresses], Tensor]
"""Runs the program over a step whose tensors are on the device; gives the logits."""


class Due(NamedTuple):
    """What is done by a step of padding before steps of a size are one launch. All ranks of a group do it at once.

    Attributes:
        size: the size.
        runs: whether the step runs op by op, which compiles kernels and sets libraries up.
        captures: whether it is captured.
    """

    size: GraphSize
    runs: bool
    captures: bool

    @property
    def numbers(self) -> list[int]:
        """All of it as integers, as many each time."""
        return [*map(int, self.size), int(self.runs), int(self.captures)]

    @classmethod
    def of(cls, numbers: Sequence[int]) -> list[Due]:
        """What the `numbers` of some, one after the other, are of."""
        each = len(GraphSize._fields) + 2
        parts = [[*map(int, numbers[at : at + each])] for at in range(0, len(numbers), each)]
        return [
            cls(GraphSize(tokens, sequences, blocks, bool(decodes)), bool(runs), bool(captures))
            for tokens, sequences, blocks, decodes, runs, captures in parts
        ]


class ChosenTokens:
    """What was chosen in a step, on its way to the host. See `runtime.executors.paged.Chosen`."""

    def __init__(self, pairs: Tensor, sent: torch.cuda.Event | None) -> None:
        """Take what is being copied.

        Args:
            pairs: `i32[R, 2]` on the host: the token, and the bits of its logit as float32.
            sent: when the copy is through; None if it is.
        """
        self._pairs, self._sent = pairs, sent

    def wait(self) -> tuple[list[int], list[float]]:
        """See `Chosen.wait`."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._pairs[:, 0].tolist(), self._pairs[:, 1].contiguous().view(torch.float32).tolist()


class StepGraphs:
    """The graphs of a session.

    The first step of a size runs op by op, which compiles kernels and sets libraries up; the second is captured. Graphs
    share their memory, of which the first one of a few sizes is to be the largest: what it took, smaller ones find.
    """

    def __init__(
        self,
        block: int,
        most_blocks: int,
        most_sequences: int,
        most_tokens: int,
        device: torch.device,
        agree: Callable[[Tensor], object] | None = None,
    ) -> None:
        """Prepare for steps.

        Args:
            block: how many tokens a block holds.
            most_blocks: how many blocks a sequence has at most.
            most_sequences: how many sequences a step has at most.
            most_tokens: steps with prompts that have more tokens are not captured.
            device: where the program runs.
            agree: fills a tensor with that of the first rank of several; None for one rank.
        """
        self._agree = agree
        self._block, self._most_blocks, self._device = block, most_blocks, device
        self._most_sequences, self._most_tokens = most_sequences, most_tokens
        self._static: dict[GraphSize, StaticStep] = {}
        self._seen: set[GraphSize] = set()
        self._captured: dict[GraphSize, torch.cuda.CUDAGraph] = {}
        on_gpu = device.type == "cuda"
        self._memory = torch.cuda.graph_pool_handle() if on_gpu else None
        self._logits: dict[int, Tensor] = {}
        size = graph_tokens(most_sequences)
        self._chosen = torch.zeros(size, 2, dtype=torch.int32, device=device)
        self._host = [torch.zeros(size, 2, dtype=torch.int32, pin_memory=on_gpu) for _ in range(2)]

    def takes(self, step: PackedStep) -> StaticStep | None:
        """The memory that a step runs in; None if steps like it are not captured."""
        size = self._size(step)
        if size.tokens > self._most_tokens and not size.decodes:
            return None
        static = self._memory_of(size)
        return static if static.holds(step) else None

    def due(self, step: PackedStep) -> list[Due]:
        """What is to be prepared before a step that `takes` takes; nothing before the first step of a size."""
        size = self._size(step)
        if size in self._captured or size not in self._seen or self._memory is None:
            return []
        sizes = [size] if size.decodes else [*dict.fromkeys((self._larger(size), size))]
        return [each for each in map(self.due_of, sizes) if each.captures]

    def due_of(self, size: GraphSize) -> Due:
        """What is to be prepared for all steps of a size."""
        captures = size not in self._captured and self._memory is not None
        return Due(size, size not in self._seen, captures)

    def step(self, step: PackedStep, static: StaticStep, run: Run) -> Tensor:
        """The logits `[R, vocabulary]` of a step, for which all that is `due` has been prepared.

        Args:
            step: the step.
            static: what `takes` gave for it.
            run: runs the program.
        """
        size = static.size
        static.fill(step)
        self._seen.add(size)
        if (graph := self._captured.get(size)) is not None:
            graph.replay()
        else:
            self._run(static, run)
        return self._logits[_shared_rows(size.sequences)][: step.wanted]

    def choose(self, logits: Tensor) -> None:
        """Take the most likely tokens by logits `[R, vocabulary]`, for the next step."""
        largest, tokens = logits.max(-1)
        self._chosen[: len(logits), 0] = tokens
        self._chosen[: len(logits), 1] = largest.float().view(torch.int32)
        if self._agree is not None:
            self._agree(self._chosen[: len(logits)])

    def resolved(self, step: PackedStep) -> PackedStep:
        """A step on the device, with the tokens in it that the step before has chosen."""
        return step._replace(token_ids=resolved(step.token_ids, self._chosen))

    def sent(self, count: int) -> ChosenTokens:
        """The `count` tokens that the step just begun chooses, on their way to the host."""
        self._host.reverse()  # whoever waits for the step before may still read the other one
        pairs = self._host[0][:count]
        pairs.copy_(self._chosen[:count], non_blocking=True)
        if self._memory is None:
            return ChosenTokens(pairs, None)
        sent = torch.cuda.Event()
        sent.record()
        return ChosenTokens(pairs, sent)

    def sizes(self, sequences: int, longest: int) -> list[GraphSize]:
        """The sizes of the graphs that steps of at most so many sequences, of at most so many tokens each, run in.

        Those of most tokens come first.
        """
        return sorted(self._sizes(sequences, longest), reverse=True)

    def _sizes(self, sequences: int, longest: int) -> Iterator[GraphSize]:
        blocks = min(-(-longest // self._block), self._most_blocks)
        sequences = min(sequences, self._most_sequences)
        widest, most = self._most_blocks, self._most_sequences
        counts = {graph_tokens(count) for count in range(1, sequences + 1)}
        lengths = range(1, blocks + 1)
        yield from {size_of_decodes(min(n, sequences), blocks, widest) for n in counts for blocks in lengths}
        tokens = range(2, min(self._most_tokens, sequences * longest) + 1)
        widths = sorted({size_with_prompts(2, blocks, widest, most).blocks for blocks in lengths})
        yield from {size_with_prompts(n, blocks, widest, most) for n in tokens for blocks in widths}

    def prepare(self, due: Due, run: Run) -> None:
        """Compile and capture what steps of a size need, by steps of padding alone; what was chosen stays."""
        static = self._memory_of(due.size)
        static.clear()
        if due.runs:
            chosen = self._chosen.clone()
            self._run(static, run)
            self._chosen.copy_(chosen)
            self._seen.add(due.size)
        if due.captures:
            self._captured[due.size] = self._capture(static, run)

    def rehearse(self, counts: Sequence[int], run: Run) -> None:
        """Run decode steps of so many sequences, of padding alone, over the narrowest tables and the widest."""
        widest = self._most_blocks
        for size in sorted({size_of_decodes(count, blocks, widest) for count in counts for blocks in (1, widest)}):
            static = StaticStep(size, self._device)
            static.clear()
            self._run(static, run)

    def _memory_of(self, size: GraphSize) -> StaticStep:
        if size not in self._static:
            self._static[size] = StaticStep(size, self._device)
        return self._static[size]

    def _larger(self, size: GraphSize) -> GraphSize:
        """The largest size of those with prompts up to the next power of two, which is captured first."""
        tokens = min(1 << (size.tokens - 1).bit_length(), self._most_tokens)
        return size_with_prompts(tokens, size.blocks, self._most_blocks, self._most_sequences)

    def _size(self, step: PackedStep) -> GraphSize:
        blocks = int(step.token_positions.numpy().max()) // self._block + 1
        if step.decodes:
            return size_of_decodes(step.tokens, blocks, self._most_blocks)
        return size_with_prompts(step.tokens, blocks, self._most_blocks, self._most_sequences)

    def _run(self, static: StaticStep, run: Run) -> None:
        """Run the program over what a static step holds."""
        logits = run(self.resolved(static.step), static.addresses(self._block))
        rows = _shared_rows(static.size.sequences)
        if rows not in self._logits:
            self._logits[rows] = logits.new_empty(rows, logits.shape[-1])
        self._logits[rows][: len(logits)] = logits
        self.choose(logits)

    def _capture(self, static: StaticStep, run: Run) -> torch.cuda.CUDAGraph:
        torch.cuda.synchronize(self._device)
        gc.disable()  # a graph that is freed while another one is captured spoils it
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                self._run(static, run)
        finally:
            gc.enable()
        return graph


def resolved(ids: Tensor, chosen: Tensor) -> Tensor:
    """Token ids in which `-1 - i` has become the token of row `i` of what was chosen."""
    return torch.where(ids < 0, chosen[(-1 - ids).clamp(min=0), 0], ids)


def _shared_rows(sequences: int) -> int:
    """How many rows the memory has that steps of so many logits leave them in."""
    return 1 << (sequences - 1).bit_length()
