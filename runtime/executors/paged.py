"""Sessions of packed steps over pools of blocks, and the rows of a batch on top of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from compiler.errors import EngineError, RequestError
from compiler.ir.graph import Graph
from compiler.ir.packed_step import PackedStep
from compiler.ir.paged import DEFAULT_BLOCK
from compiler.ir.paged_layout import CACHE_BLOCK, PagedLayout
from compiler.ir.step import LOGITS, Step
from runtime.executors.interface import RowCopies
from runtime.executors.memory import BlockMemory

STEP_TOKENS = 512
"""How many tokens a step takes at most on a CPU, and on a GPU whose steps are not fused."""


class PagedSession(Protocol):
    """Pools of blocks, which whoever holds the session gives to sequences and takes back.

    Attributes:
        block: how many tokens a block holds.
        blocks: how many blocks there are; they are numbered from 0.
        step_tokens: how many tokens a step should have at most: longer ones only keep those waiting who get one token.
    """

    block: int
    blocks: int
    step_tokens: int

    def step(self, step: PackedStep) -> Tensor:
        """Run the model over the next tokens of some sequences, and write their keys and values into their blocks.

        Returns:
            The logits `[R, vocabulary]`, floating-point, on the CPU or the executor's device. The memory may be used
            again by the next step.

        Raises:
            RequestError: if a sequence has more tokens than its blocks hold, a block does not exist, or two sequences
                would write to one; before anything is changed.
        """
        ...

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Make block `destinations[i]` of every pool what block `sources[i]` was before the call, for all i at once.

        Sequences that share a block, as beams or prompts with one beginning do, can so part before one writes to it.

        Args:
            sources: blocks; a block may be there several times.
            destinations: as many blocks, each once.

        Raises:
            RequestError: if these are no such blocks; before anything is changed.
        """
        ...


class Chosen(Protocol):
    """The most likely tokens by the logits of a step that may still be running."""

    def wait(self) -> tuple[list[int], list[float]]:
        """The token by each of the step's logits, in order, and its logit; waits until the step has run."""
        ...


@runtime_checkable
class StepsAhead(Protocol):
    """A paged session that need not wait for the tokens of a step to begin with the next one."""

    def step_ahead(self, step: PackedStep) -> Chosen:
        """Begin a step, and choose the most likely next tokens.

        Args:
            step: the step; it wants one logit a sequence at most, and at least one in all. The token id `-1 - i` stands
                for what was chosen by logit `i` of the step before, which this method has begun, too.

        Raises:
            RequestError: as of `PagedSession.step`.
        """
        ...


@runtime_checkable
class WarmsUp(Protocol):
    """A paged session that can do beforehand what the first steps of each size take long for."""

    def warm_up(self, sequences: int, longest: int, done: Callable[[int, int], None]) -> None:
        """Compile, and capture, what steps take. No sequence may be in progress.

        Args:
            sequences: how many sequences steps have at most.
            longest: how many tokens a sequence has at most.
            done: called with how many sizes of steps are ready, and of how many.

        Raises:
            RequestError: if the memory does not suffice.
        """
        ...


@runtime_checkable
class Prepares(Protocol):
    """A paged session that captures steps, each rank at the same time: what is captured, the first rank decides.

    Attributes:
        leads: whether the session decides by itself, when it is given a step.
    """

    leads: bool

    def due(self, step: PackedStep) -> list[int]:
        """What is to be prepared before a step, as numbers for `prepare`; empty if nothing is."""
        ...

    def all_due(self, sequences: int, longest: int) -> list[list[int]]:
        """The same for all steps of so many sequences, of so many tokens each, at most: of one size after the other."""
        ...

    def prepare(self, numbers: Sequence[int]) -> None:
        """Do what `due` of the first rank said. Every rank of a group calls it.

        Raises:
            RequestError: if the memory does not suffice.
        """
        ...


@runtime_checkable
class PagedExecutor(Protocol):
    """A loaded model whose caches may be paged."""

    @property
    def block(self) -> int | None:
        """How many tokens a block holds; None if the caches are linear, so that no paged session can be opened."""
        ...

    def block_memory(self) -> list[BlockMemory]:
        """What a block takes on each rank, and how much memory is free there now; EngineError if caches are linear."""
        ...

    def open_paged(self, blocks: int) -> PagedSession:
        """Allocate pools of so many blocks.

        Raises:
            EngineError: if the caches are linear.
            RequestError: if there would be no block, or the memory does not suffice.
        """
        ...


class PagedStageSession(Protocol):
    """One stage's part of pools of blocks."""

    def buffers(self, step: PackedStep) -> Mapping[str, Tensor]:
        """Where to put what the stage receives of a step; see `runtime.executors.interface.StageSession.buffers`."""
        ...

    def step(self, step: PackedStep, received: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Run the stage over the next tokens of some sequences.

        Args:
            step: a step that has been checked, and wants one logit or more.
            received: what `buffers` gave, filled.

        Returns:
            What goes to other stages, as `send.S.NAME` in the order of sending; and of the last stage `logits`, as
            `[R, vocabulary]`. The memory may be used again by the next step.
        """
        ...

    def copy_blocks(self, copies: RowCopies) -> None:
        """Copy blocks of the stage's pools; see `PagedSession.copy_blocks`."""
        ...


@runtime_checkable
class PagedStageExecutor(Protocol):
    """A loaded stage whose caches may be paged."""

    @property
    def block(self) -> int | None:
        """See `PagedExecutor.block`."""
        ...

    def check_rows(self, batch: int, capacity: int) -> None:
        """RequestError if the engine was not built for `batch` sequences, or for `capacity` tokens of each."""
        ...

    def block_memory(self) -> list[BlockMemory]:
        """See `PagedExecutor.block_memory`: that of this rank."""
        ...

    def open_paged_stage(self, blocks: int) -> PagedStageSession:
        """See `PagedExecutor.open_paged`."""
        ...


def paged_executor(executor: object) -> PagedExecutor:
    """The executor, if paged sessions can be opened on it; else an EngineError that says so."""
    if not isinstance(executor, PagedExecutor) or executor.block is None:
        raise EngineError(
            f"the caches of {getattr(executor, 'name', 'the executor')} are linear, so that it takes no packed steps",
            hint="compile the engine with --passes cache=paged, and run it with torch",
        )
    return executor


def block_to_page(graph: Graph, wanted: bool) -> int | None:
    """In blocks of how many tokens the caches of a graph are to be paged if that is wanted; None if they stay."""
    return DEFAULT_BLOCK if wanted and graph.facts.get(CACHE_BLOCK) is None else None


S = TypeVar("S", bound=PagedStageSession)


class WholePagedSession(Generic[S]):
    """Pools on a stage that is a whole model. See `PagedSession`.

    Attributes:
        stage: what runs the steps.
    """

    step_tokens = STEP_TOKENS

    def __init__(self, stage: S, block: int, blocks: int) -> None:
        self.stage, self.block, self.blocks = stage, block, blocks

    def step(self, step: PackedStep) -> Tensor:
        """See `PagedSession.step`."""
        step.check(self.block, self.blocks)
        if step.wanted:
            return self.stage.step(step, {})[LOGITS]
        whole, _ = step.part(0, step.tokens)
        return self.stage.step(whole, {})[LOGITS][:0]

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """See `PagedSession.copy_blocks`."""
        copies = RowCopies.checked(sources, destinations, self.blocks, "block")
        if copies.sources:
            self.stage.copy_blocks(copies)


def blocks_of_rows(batch: int, capacity: int, block: int) -> int:
    """How many blocks hold `batch` rows of `capacity` tokens each."""
    return batch * PagedLayout(block).blocks_for(capacity)


class PagedRows:
    """The rows of a batch, each of which owns consecutive blocks of the pools. See `interface.Session`.

    The tokens of a step are packed, so that its padding costs nothing.
    """

    def __init__(self, paged: PagedSession, batch: int, capacity: int) -> None:
        """Give the blocks of a session to rows.

        Args:
            paged: a session that has `blocks_of_rows` blocks, or more.
            batch: how many rows.
            capacity: how many tokens of each.
        """
        self.batch, self.capacity, self._paged = batch, capacity, paged
        self._each = PagedLayout(paged.block).blocks_for(capacity)
        self._tables = torch.arange(batch * self._each, dtype=torch.int32).view(batch, self._each)
        self._rows = torch.arange(batch, dtype=torch.int32)
        self._longest = 0  # as many tokens as any row has ever had

    def step(self, step: Step, first_row: int = 0) -> Tensor:
        """See `runtime.executors.interface.Session.step`; logits of padding are zeros."""
        longest = int((step.past_len + step.new_len).max())
        if longest > self.capacity:
            raise RequestError(f"a sequence grew to {longest} tokens; the caches hold {self.capacity}")
        self._longest = max(self._longest, longest)
        places = torch.arange(step.length, dtype=torch.int32)
        real = places < step.new_len[:, None]
        starts = step.new_len.cumsum(0, dtype=torch.int32) - step.new_len
        asked = step.logit_pos < step.new_len[:, None]
        packed = PackedStep(
            step.token_ids[real],
            (step.past_len[:, None] + places)[real],
            self._rows[: step.batch, None].expand_as(real)[real],
            self._tables[first_row : first_row + step.batch],
            (starts[:, None] + step.logit_pos)[asked],
        )
        logits = self._paged.step(packed)
        if logits.shape[0] == asked.numel():
            return logits.view(*asked.shape, -1)
        padded = logits.new_zeros(*asked.shape, logits.shape[-1])
        padded[asked.to(logits.device)] = logits
        return padded

    def copy_rows(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """See `interface.Session.copy_rows`: of each row those blocks are copied that any row has ever reached."""
        copies = RowCopies.checked(sources, destinations, self.batch)
        used = PagedLayout(self._paged.block).blocks_for(self._longest)
        sources, destinations = (self._tables[rows, :used].reshape(-1).tolist() for rows in copies)
        self._paged.copy_blocks(sources, destinations)
