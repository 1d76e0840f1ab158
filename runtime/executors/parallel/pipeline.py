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
from compiler.ir.step import LOGITS, Step
from runtime.collectives.communicator import Communicator
from runtime.executors.interface import PlannedExecutor, PlanSize, RowCopies, StageExecutor, StageSession

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

    def open(self, batch: int, capacity: int) -> PipelineSession:
        """See `runtime.executors.interface.Executor.open`."""
        session = self._stage.open_stage(batch, capacity)
        return PipelineSession(session, self._stages, self._logits, batch, capacity, tokens=self._tokens)


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
        first, last = self._stages.rank == 0, self._stages.rank == self._stages.size - 1
        for rows in parts(step.batch, step.length, self._stages.size, tokens=self._tokens):
            if not step.new_len[rows].any():
                continue
            received = self._receive(rows.stop - rows.start, step.length, step.wanted)
            own = slice(first_row + rows.start, first_row + rows.stop)
            results = self._stage.step(own, step.of(rows), received)
            self._send(results)
            if last:
                logits[rows] = results[LOGITS].to(logits.dtype)
        # Once all parts are through: over NCCL, a first stage that still sends could not receive.
        if last and not first:
            self._stages.send(logits, 0)
        if first and not last:
            self._stages.recv(logits, self._stages.size - 1)
        return logits

    def _receive(self, rows: int, length: int, positions: int) -> Mapping[str, Tensor]:
        buffers = self._stage.buffers(rows, length, positions)
        for name, tensor in buffers.items():
            self._stages.recv(tensor, peer_stage(name))
        return buffers

    def _send(self, results: Mapping[str, Tensor]) -> None:
        for name, tensor in results.items():
            if name.startswith(SEND):
                self._stages.send(tensor, peer_stage(name))


def parts(rows: int, length: int, stages: int, *, tokens: int) -> list[slice]:
    """How a step's rows are cut: into equal parts of `tokens` tokens or more, and no more than keep the stages busy."""
    count = max(1, min(rows, _BUSY * (stages - 1) + 1, rows * length // tokens))
    bounds = [rows * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
