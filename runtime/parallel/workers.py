"""One executor over all ranks: rank 0 drives it, the other ranks do each step with it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from runtime.executor import Executor, Session
from runtime.parallel.failure import SharedFailure
from runtime.parallel.steps import Channel, Kind, pack_step, unpack_step
from runtime.parallel.world import World
from runtime.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class ParallelExecutor:
    """Rank 0's executor: each step runs on all ranks. See `runtime.executor.Executor`.

    The other ranks must be in `serve`, with their own executors.
    """

    def __init__(self, local: Executor, world: World) -> None:
        """Drive `local`, this rank's executor, and those of the other ranks."""
        self.name = f"{local.name} on {world.size} ranks"
        self._local, self._world, self._channel = local, world, Channel(world.comm)
        self._opened = 0
        self._forgotten: list[int] = []

    def open(self, batch: int, capacity: int) -> Session:
        """See `runtime.executor.Executor.open`; the error names the rank. The ranks serve on after one."""
        self._forget()
        self._opened += 1
        number = self._opened
        self._channel.post(Kind.OPEN, [number, batch, capacity])
        local = self._world.together("open", lambda: self._local.open(batch, capacity))
        session = ParallelSession(local, number, self._world, self._channel)
        # Collected at any time, so it only takes a note: telling the others has its time.
        weakref.finalize(session, self._forgotten.append, number).atexit = False
        return session

    def close(self) -> None:
        """End the other ranks' `serve`."""
        self._channel.post(Kind.STOP)

    def _forget(self) -> None:
        while self._forgotten:
            self._channel.post(Kind.CLOSE, [self._forgotten.pop()])


class ParallelSession:
    """Sequences in progress on all ranks. See `runtime.executor.Session`."""

    def __init__(self, local: Session, number: int, world: World, channel: Channel) -> None:
        self.batch, self.capacity = local.batch, local.capacity
        self._local, self._number, self._world, self._channel = local, number, world, channel

    def step(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor) -> Tensor:
        """See `runtime.executor.Session.step`."""
        step = Step(token_ids, past_len, new_len, logit_pos)
        self._channel.post(Kind.STEP, *pack_step(self._number, step))
        return _run(self._local, step, self._world)


def serve(local: Executor, world: World) -> None:
    """Do what rank 0's `ParallelExecutor` does, until it is closed. Ranks other than 0 call it.

    Raises:
        LlmcError: of the executor; leaving the world with it ends all ranks.
    """
    import torch

    channel, sessions = Channel(world.comm), dict[int, Session]()
    with torch.inference_mode():
        while True:
            kind, numbers = channel.take()
            if kind is Kind.STEP:
                session, step = unpack_step(numbers)
                _run(sessions[session], step, world)
            elif kind is Kind.OPEN:
                number, batch, capacity = map(int, numbers)
                _open(local, world, sessions, number, batch, capacity)
            elif kind is Kind.CLOSE:
                del sessions[int(numbers[0])]
            else:
                return


def _open(local: Executor, world: World, sessions: dict[int, Session], number: int, batch: int, capacity: int) -> None:
    try:
        sessions[number] = world.together("open", lambda: local.open(batch, capacity))
    except SharedFailure:
        return  # rank 0 raises it


def _run(session: Session, step: Step, world: World) -> Tensor:
    """Run a step, and wait for the GPU, where the watch sees who waits."""
    with world.progress.busy("a step"):
        logits = session.step(*step)
        if logits.is_cuda:
            import torch

            with world.progress.waiting("a step on the GPU"):
                torch.cuda.current_stream(logits.device).synchronize()
    return logits


def drive(world: World, local: Executor, main: Callable[[Executor], None]) -> None:
    """Run `main` on rank 0 with an executor over all ranks, while the other ranks serve it. Every rank calls it.

    Args:
        world: the ranks.
        local: this rank's executor.
        main: what to do, on rank 0.

    Raises:
        LlmcError: of `main` or the executor; leaving the world with it ends all ranks.
    """
    if world.rank:
        serve(local, world)
        return
    executor = ParallelExecutor(local, world)
    main(executor)
    executor.close()
