"""Ranks that are threads of one process: communicators, and a world in which `workers.drive` runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
SECONDS = 60.0


class Meeting:
    """Where the ranks of a group meet: a place for each, a barrier, and a queue for each pair."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.places: list[Tensor] = [torch.empty(0)] * size
        self.objects: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=SECONDS)
        self.queues: dict[tuple[int, int], Queue[Any]] = {(a, b): Queue() for a in range(size) for b in range(size)}


class ThreadCommunicator:
    """See `runtime.collectives.communicator.Communicator`; rank 0 can also `post` what the others `take`."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.rank, self.size, self._meeting = rank, meeting.size, meeting

    def all_reduce(self, tensor: Tensor) -> Tensor:
        every = self._exchange(tensor)
        return tensor.copy_(sum(every[1:], every[0]))

    def all_max(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self._exchange(tensor)).amax(0))

    def all_gather(self, tensor: Tensor, axis: int) -> Tensor:
        return torch.cat(self._exchange(tensor), axis)

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        return tensor.copy_(self._exchange(tensor)[root])

    def send(self, tensor: Tensor, to: int) -> None:
        self._meeting.queues[self.rank, to].put(tensor.clone())

    def recv(self, tensor: Tensor, source: int) -> Tensor:
        assert tensor.is_contiguous()
        arrived = self._meeting.queues[source, self.rank].get(timeout=SECONDS)
        assert (arrived.shape, arrived.dtype) == (tensor.shape, tensor.dtype)
        return tensor.copy_(arrived)

    def barrier(self) -> None:
        self._meeting.barrier.wait()

    def post(self, data: Any) -> None:
        for other in range(1, self.size):
            self._meeting.queues[0, other].put(data.copy())

    def take(self, data: Any) -> None:
        data[:] = self._meeting.queues[0, self.rank].get(timeout=SECONDS)

    def all_gather_object(self, value: Any) -> list[Any]:
        meeting = self._meeting
        meeting.objects[self.rank] = value
        meeting.barrier.wait()
        every = list(meeting.objects)
        meeting.barrier.wait()
        return every

    def _exchange(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks; all of them call the same operation with one shape and dtype."""
        meeting = self._meeting
        meeting.places[self.rank] = tensor.clone()
        meeting.barrier.wait()
        every = list(meeting.places)
        meeting.barrier.wait()
        assert len({(each.shape, each.dtype) for each in every}) == 1
        return every


class Quiet:
    """See `runtime.collectives.rank_status.StatusRecorder`; nobody watches."""

    @contextlib.contextmanager
    def busy(self, what: str, limit: float | None = None) -> Iterator[None]:
        yield

    waiting = busy


def on_all_ranks(what: str, action: Callable[[], T], *, limit: float | None = None) -> T:
    """See `World.on_all_ranks`; a rank that fails ends the test."""
    return action()


def run_ranks(tp: int, pp: int, work: Callable[[Any, ThreadCommunicator, ThreadCommunicator], T]) -> list[T]:
    """Call `work(world, tp group, pp group)` on every rank of a mesh; returns what each returned."""
    everyone = Meeting(tp * pp)
    stages, places = [Meeting(tp) for _ in range(pp)], [Meeting(pp) for _ in range(tp)]

    def rank(number: int) -> T:
        stage, place = divmod(number, tp)
        comm = ThreadCommunicator(everyone, number)
        world: Any = SimpleNamespace(rank=number, size=tp * pp, comm=comm, activity=Quiet(), on_all_ranks=on_all_ranks)
        try:
            return work(world, ThreadCommunicator(stages[stage], place), ThreadCommunicator(places[place], stage))
        except BaseException:
            for meeting in (everyone, *stages, *places):
                meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(tp * pp) as threads:
        return [each.result() for each in [threads.submit(rank, number) for number in range(tp * pp)]]
