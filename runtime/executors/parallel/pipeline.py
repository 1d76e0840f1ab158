"""Stages of layers: each rank runs its own, and sends the activations on, one part of the batch after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from compiler.ir.chunks import in_chunks
from compiler.ir.mesh_stages import SEND, peer_stage
from compiler.ir.packed_step import PackedStep
from compiler.ir.step import LOGITS, Step
from runtime.collectives.communicator import Communicator
from runtime.executors.interface import PlannedExecutor, PlanSize, RowCopies, Session, StageExecutor, StageSession
from runtime.executors.memory import BlockMemory
from runtime.executors.paged import (
    STEP_TOKENS,
    PagedRows,
    PagedStageExecutor,
    PagedStageSession,
    blocks_of_rows,
    paged_executor,
)

# With so many parts for each stage after the first, a stage waits for others a fifth of the time.
_BUSY = 4


@dataclass(frozen=True)
class LogitsType:
    """What the last stage gives: logits of `vocabulary` entries of `dtype`, on `device`."""

    vocabulary: int
    dtype: torch.dtype
    device: str = "cpu"


class PipelineExecutor:
    """This rank's part of a pipeline; every rank of it runs the same steps. See `runtime.executors.interface.Executor`.

    The first stage's step returns the logits; those of the others return what is not to be used.
    """

    def __init__(self, stage: StageExecutor, stages: Communicator, logits: LogitsType, *, tokens: int = 256) -> None:
        """Join the stages.

        Args:
            stage: this rank's stage.
            stages: the ranks of the pipeline; the number of a rank is that of its stage.
            logits: what the last stage gives.
            tokens: how many tokens a part of a batch should have at least: with fewer, a stage reads its weights more
                often than it saves time.
        """
        self.name = stage.name
        self._stage, self._stages, self._logits, self._tokens = stage, stages, logits, tokens

    @property
    def plan_sizes(self) -> Sequence[PlanSize]:
        """See `runtime.executors.interface.PlannedExecutor`: those of this rank's stage."""
        return self._stage.plan_sizes if isinstance(self._stage, PlannedExecutor) else ()

    def limited_to(self, names: Collection[str]) -> PipelineExecutor:
        """See `runtime.executors.interface.PlannedExecutor`; a TypeError if the stage runs no plans."""
        if not isinstance(self._stage, PlannedExecutor):
            raise TypeError(f"{self.name} runs no plans")
        stage = cast("StageExecutor", self._stage.limited_to(names))
        return PipelineExecutor(stage, self._stages, self._logits, tokens=self._tokens)

    @property
    def block(self) -> int | None:
        """See `runtime.executors.paged.PagedExecutor.block`."""
        return self._stage.block if isinstance(self._stage, PagedStageExecutor) else None

    def open(self, batch: int, capacity: int) -> Session:
        """See `runtime.executors.interface.Executor.open`."""
        if isinstance(self._stage, PagedStageExecutor) and self._stage.block is not None:
            self._stage.check_rows(batch, capacity)
            return PagedRows(self.open_paged(blocks_of_rows(batch, capacity, self._stage.block)), batch, capacity)
        session = self._stage.open_stage(batch, capacity)
        return PipelineSession(session, self._stages, self._logits, batch, capacity, tokens=self._tokens)

    def block_memory(self) -> list[BlockMemory]:
        """See `runtime.executors.paged.PagedExecutor.block_memory`: that of this rank's stage."""
        paged_executor(self)
        assert isinstance(self._stage, PagedStageExecutor)
        return self._stage.block_memory()

    def open_paged(self, blocks: int) -> PagedPipelineSession:
        """See `runtime.executors.paged.PagedExecutor.open_paged`."""
        block = paged_executor(self).block
        assert block is not None and isinstance(self._stage, PagedStageExecutor)
        session = self._stage.open_paged_stage(blocks)
        return PagedPipelineSession(session, self._stages, self._logits, block, blocks, tokens=self._tokens)


class PipelineSession:
    """Sequences in progress in a pipeline. See `runtime.executors.interface.Session`.

    The rows of a step are cut into parts. A stage works on one part while the next stage works on the part before.
    """

    def __init__(
        self,
        stage: StageSession,
        stages: Communicator,
        logits: LogitsType,
        batch: int,
        capacity: int,
        *,
        tokens: int,
    ) -> None:
        self.batch, self.capacity = batch, capacity
        self._stage, self._stages, self._logits, self._tokens = stage, stages, logits, tokens
        self._chunk: int | None = None

    def step(self, step: Step, first_row: int = 0) -> Tensor:
        """See `runtime.executors.interface.Session.step`."""
        longest = self._longest() if step.length > 1 else 1
        return in_chunks(step, longest, lambda chunk: self._run(chunk, first_row))

    def copy_rows(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """See `runtime.executors.interface.Session.copy_rows`: each rank copies those of its stage."""
        copies = RowCopies.checked(sources, destinations, self.batch)
        if copies.sources:
            self._stage.copy_rows(copies)

    def _longest(self) -> int:
        """How many tokens of a row a step may have in every stage; the stages agree when they first need to know."""
        if self._chunk is None:
            shortest = torch.tensor([-self._stage.chunk], dtype=torch.int32, device=self._logits.device)
            self._chunk = -int(self._stages.all_max(shortest))
        return self._chunk

    def _run(self, step: Step, first_row: int) -> Tensor:
        size = (step.batch, step.wanted, self._logits.vocabulary)
        logits = torch.zeros(size, dtype=self._logits.dtype, device=self._logits.device)
        last = self._stages.rank == self._stages.size - 1
        for rows in parts(step.batch, step.length, self._stages.size, tokens=self._tokens):
            if not step.new_len[rows].any():
                continue
            buffers = self._stage.buffers(rows.stop - rows.start, step.length, step.wanted)
            own = slice(first_row + rows.start, first_row + rows.stop)
            results = self._stage.step(own, step.of(rows), _received(buffers, self._stages))
            _send(results, self._stages)
            if last:
                logits[rows] = results[LOGITS].to(logits.dtype)
        return _shared_with_first(logits, self._stages)


class PagedPipelineSession:
    """Pools of blocks in a pipeline. See `runtime.executors.paged.PagedSession`.

    The tokens of a step are cut into parts. A stage works on one part while the next stage works on the part before.
    """

    step_tokens = STEP_TOKENS

    def __init__(
        self,
        stage: PagedStageSession,
        stages: Communicator,
        logits: LogitsType,
        block: int,
        blocks: int,
        *,
        tokens: int,
    ) -> None:
        self.block, self.blocks = block, blocks
        self._stage, self._stages, self._logits, self._tokens = stage, stages, logits, tokens

    def step(self, step: PackedStep) -> Tensor:
        """See `runtime.executors.paged.PagedSession.step`."""
        step.check(self.block, self.blocks)
        logits = torch.zeros(
            (step.wanted, self._logits.vocabulary), dtype=self._logits.dtype, device=self._logits.device
        )
        for tokens in parts(step.tokens, 1, self._stages.size, tokens=self._tokens):
            part, asked = step.part(tokens.start, tokens.stop)
            results = self._stage.step(part, _received(self._stage.buffers(part), self._stages))
            _send(results, self._stages)
            if LOGITS in results and len(asked):
                logits[asked.to(logits.device)] = results[LOGITS].to(logits.dtype)
        return _shared_with_first(logits, self._stages) if step.wanted else logits

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """See `runtime.executors.paged.PagedSession.copy_blocks`: each rank copies those of its stage."""
        copies = RowCopies.checked(sources, destinations, self.blocks, "block")
        if copies.sources:
            self._stage.copy_blocks(copies)


def _received(buffers: Mapping[str, Tensor], stages: Communicator) -> Mapping[str, Tensor]:
    """The buffers, filled with what other stages send."""
    for name, tensor in buffers.items():
        stages.recv(tensor, peer_stage(name))
    return buffers


def _send(results: Mapping[str, Tensor], stages: Communicator) -> None:
    for name, tensor in results.items():
        if name.startswith(SEND):
            stages.send(tensor, peer_stage(name))


def _shared_with_first(logits: Tensor, stages: Communicator) -> Tensor:
    """The last stage's logits, on the first stage too; those of other stages are not to be used.

    Once all parts are through: over NCCL, a first stage that still sends could not receive.
    """
    first, last = stages.rank == 0, stages.rank == stages.size - 1
    if last and not first:
        stages.send(logits, 0)
    if first and not last:
        stages.recv(logits, stages.size - 1)
    return logits


def parts(rows: int, length: int, stages: int, *, tokens: int) -> list[slice]:
    """How a step's rows are cut: into equal parts of `tokens` tokens or more, and no more than keep the stages busy."""
    count = max(1, min(rows, _BUSY * (stages - 1) + 1, rows * length // tokens))
    bounds = [rows * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
