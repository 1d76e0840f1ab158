"""Ranks as threads of this process: their communicators, and one executor over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from compiler.ir.step import Step
from runtime.collectives.communicator import joined
from runtime.executors.interface import Executor, Session

_SECONDS = 30.0


class ThreadGroup:
    """What the ranks of a group share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = Barrier(size, timeout=_SECONDS)
        self.places: list[Any] = [None] * size
        self.queues: dict[tuple[int, int], Queue[Tensor]] = {(a, b): Queue() for a in range(size) for b in range(size)}

    def ranks(self) -> list[ThreadCommunicator]:
        return [ThreadCommunicator(self, rank) for rank in range(self.size)]


class ThreadCommunicator:
    """See `runtime.collectives.communicator.Communicator`."""

    def __init__(self, group: ThreadGroup, rank: int) -> None:
        self.group, self.rank, self.size = group, rank, group.size
        self.sums = 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        self.sums += 1
        return tensor.copy_(torch.stack([part.float() for part in self._gather(tensor)]).sum(0))

    def all_max(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self._gather(tensor)).amax(0))

    def all_gather(self, tensor: Tensor, axis: int) -> Tensor:
        return joined(torch.stack(self._gather(tensor)), axis)

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        return tensor.copy_(self._gather(tensor)[root])

    def send(self, tensor: Tensor, to: int) -> None:
        self.group.queues[self.rank, to].put(tensor.clone())

    def recv(self, tensor: Tensor, source: int) -> Tensor:
        return tensor.copy_(self.group.queues[source, self.rank].get(timeout=_SECONDS))

    def barrier(self) -> None:
        self.group.barrier.wait()

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        self.group.places[self.rank] = tensor.clone()
        self.barrier()
        found = list(self.group.places)
        self.barrier()
        return found


class ThreadExecutor:
    """An executor over ranks, each in a thread of its own for the time of a step. See `interface.Executor`."""

    name = "threads"

    def __init__(self, ranks: Sequence[Executor]) -> None:
        self.ranks, self.pool = ranks, ThreadPoolExecutor(len(ranks))

    def open(self, batch: int, capacity: int) -> ThreadSession:
        return ThreadSession(self, [rank.open(batch, capacity) for rank in self.ranks], batch, capacity)


class ThreadSession:
    """See `runtime.executors.interface.Session`."""

    def __init__(self, executor: ThreadExecutor, sessions: Sequence[Session], batch: int, capacity: int) -> None:
        self.executor, self.sessions, self.batch, self.capacity = executor, sessions, batch, capacity

    def step(self, step: Step, first_row: int = 0) -> Tensor:
        results: list[Tensor] = list(
            self.executor.pool.map(lambda session: session.step(step, first_row), self.sessions)
        )
        return results[0]

    def copy_rows(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        for session in self.sessions:
            session.copy_rows(sources, destinations)
