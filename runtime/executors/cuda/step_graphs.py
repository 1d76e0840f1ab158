"""Steps captured as CUDA graphs, which run ahead of the tokens that they choose.

A graph is for steps of a size; a step runs in the smallest that holds it (see `static_steps`). It leaves the logits in
memory that all graphs share, and the most likely next tokens where the next step finds them, which need not wait for
the host so.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence

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
        self, block: int, most_blocks: int, most_sequences: int, most_tokens: int, device: torch.device
    ) -> None:
        """Prepare for steps.

        Args:
            block: how many tokens a block holds.
            most_blocks: how many blocks a sequence has at most.
            most_sequences: how many sequences a step has at most.
            most_tokens: steps with prompts that have more tokens are not captured.
            device: where the program runs.
        """
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

    def step(self, step: PackedStep, static: StaticStep, run: Run) -> Tensor:
        """The logits `[R, vocabulary]` of a step.

        Args:
            step: the step.
            static: what `takes` gave for it.
            run: runs the program.
        """
        size = static.size
        captures = size not in self._captured and size in self._seen and self._memory is not None
        if captures and not size.decodes:
            self._prepare_larger(size, run)
        static.fill(step)
        if captures and size not in self._captured:
            self._captured[size] = self._capture(static, run)
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

    def prepare(self, size: GraphSize, run: Run) -> None:
        """Compile and capture what steps of a size need, by steps of padding alone."""
        static = self._memory_of(size)
        static.clear()
        if size not in self._seen:
            self._run(static, run)
            self._seen.add(size)
        if size not in self._captured and self._memory is not None:
            self._captured[size] = self._capture(static, run)

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

    def _prepare_larger(self, size: GraphSize, run: Run) -> None:
        """Capture the largest size of those up to the next power of two first."""
        tokens = min(1 << (size.tokens - 1).bit_length(), self._most_tokens)
        largest = size_with_prompts(tokens, size.blocks, self._most_blocks, self._most_sequences)
        if largest not in self._captured:
            chosen = self._chosen.clone()
            self.prepare(largest, run)
            self._chosen.copy_(chosen)

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
