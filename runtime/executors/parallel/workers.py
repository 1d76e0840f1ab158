"""One executor over all ranks: rank 0 drives it, the other ranks do each step with it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from compiler.errors import EngineError
from compiler.ir.packed_step import PackedStep
from compiler.ir.step import Step
from runtime.collectives.failure import SharedFailure
from runtime.executors.interface import Executor, PlanSize, RowCopies, Session
from runtime.executors.memory import BlockMemory
from runtime.executors.paged import (
    Chosen,
    PagedExecutor,
    PagedSession,
    Prepares,
    StepsAhead,
    paged_executor,
)
from runtime.executors.parallel.rank_plans import RankPlans
from runtime.executors.parallel.wire import Channel, Kind
from runtime.processes.world import World

if TYPE_CHECKING:
    from torch import Tensor


Shown = Callable[[Mapping[int, "Tensor"]], None]
"""Called after a step with the logits of other ranks that have them, by rank: float32, as rank 0's."""


class ParallelExecutor:
    """Rank 0's executor: each step runs on all ranks. See `runtime.executors.interface.Executor`.

    The other ranks must be in `serve`, with their own executors.
    """

    def __init__(self, local: Executor, world: World, *, scoring: int = 1) -> None:
        """Drive `local`, this rank's executor, and those of the other ranks; the first `scoring` ranks have logits."""
        self.name = f"{local.name} on {world.size} ranks"
        self._local, self._world, self._scoring, self._channel = local, world, scoring, Channel(world.comm)
        self._plans: RankPlans | None = None
        self._opened = 0
        self._forgotten: list[int] = []

    @property
    def plan_sizes(self) -> Sequence[PlanSize]:
        """See `runtime.executors.interface.PlannedExecutor`: those of all ranks."""
        return self.plans.sizes

    @property
    def plans(self) -> RankPlans:
        """The plans of all ranks."""
        if self._plans is None:
            self._channel.post(Kind.PLANS)
            self._plans = RankPlans.gathered(self._local, self._world.comm)
        return self._plans

    def limited_to(self, names: Collection[str]) -> Executor:
        """See `runtime.executors.interface.PlannedExecutor`: all ranks that have these plans run on them only."""
        return _View(self, tuple(self.plans.numbers(tuple(names))))

    def showing(self, shown: Shown, names: Collection[str] = ()) -> Executor:
        """An executor that shows the logits of every rank that has them, and has only the plans of these names."""
        return _View(self, tuple(self.plans.numbers(tuple(names))), shown)

    def open(self, batch: int, capacity: int) -> Session:
        """See `runtime.executors.interface.Executor.open`; the error names the rank. The ranks serve on after one."""
        return self.open_on(batch, capacity)

    def open_on(self, batch: int, capacity: int, plans: Sequence[int] = (), shown: Shown | None = None) -> Session:
        """See `open`.

        Args:
            batch: how many sequences.
            capacity: how many tokens of each.
            plans: the only plans to run on, by their places in `plans`; any if there are none.
            shown: called with the logits of the other ranks after each step, if anybody wants them.
        """
        number = self._next_number()
        self._channel.post(Kind.OPEN, [number, batch, capacity, int(shown is not None), *plans])
        known = self.plans if plans else RankPlans()
        local = self._world.on_all_ranks("open", partial(_opened, self._local, known, plans, batch, capacity))
        session = ParallelSession(local, number, self._world, self._channel, shown and (shown, self._scoring))
        # Collected at any time, so it only takes a note: telling the others has its time.
        weakref.finalize(session, self._forgotten.append, number).atexit = False
        return session

    @property
    def block(self) -> int | None:
        """See `runtime.executors.paged.PagedExecutor.block`: that of this rank, as of all."""
        return self._local.block if isinstance(self._local, PagedExecutor) else None

    def block_memory(self) -> list[BlockMemory]:
        """See `runtime.executors.paged.PagedExecutor.block_memory`: that of all ranks."""
        local = paged_executor(self._local)
        self._channel.post(Kind.BLOCK_MEMORY)
        return _block_memory(local, self._world)

    def open_paged(self, blocks: int) -> PagedSession:
        """See `runtime.executors.paged.PagedExecutor.open_paged`; the error names the rank, as that of `open` does."""
        local = paged_executor(self._local)
        number = self._next_number()
        ahead = _is_led(local)
        self._channel.post(Kind.OPEN_PAGED, [number, blocks, int(ahead)])
        session = self._world.on_all_ranks("open", partial(_opened_paged, local, blocks, ahead))
        parallel = (ParallelAheadSession if ahead else ParallelPagedSession)(
            session, number, self._world, self._channel
        )
        weakref.finalize(parallel, self._forgotten.append, number).atexit = False
        return parallel

    def _next_number(self) -> int:
        """The number of a new session."""
        self._forget()
        self._opened += 1
        return self._opened

    def close(self) -> None:
        """End the other ranks' `serve`."""
        self._channel.post(Kind.STOP)

    def _forget(self) -> None:
        while self._forgotten:
            self._channel.post(Kind.CLOSE, [self._forgotten.pop()])


class _View:
    """A `ParallelExecutor` whose sessions run on some plans only, or show the logits of every rank."""

    def __init__(self, everyone: ParallelExecutor, plans: tuple[int, ...], shown: Shown | None = None) -> None:
        self.name = everyone.name
        self._everyone, self._plans, self._shown = everyone, plans, shown

    def open(self, batch: int, capacity: int) -> Session:
        return self._everyone.open_on(batch, capacity, self._plans, self._shown)


class ParallelSession:
    """Sequences in progress on all ranks. See `runtime.executors.interface.Session`."""

    def __init__(
        self, local: Session, number: int, world: World, channel: Channel, shown: tuple[Shown, int] | None = None
    ) -> None:
        self.batch, self.capacity = local.batch, local.capacity
        self._local, self._number, self._world, self._channel = local, number, world, channel
        self._shown = shown

    def copy_rows(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """See `runtime.executors.interface.Session.copy_rows`: what is wrong is said before other ranks are told."""
        copies = RowCopies.checked(sources, destinations, self.batch)
        if copies.sources:
            self._channel.post(Kind.COPY, [self._number], *copies)
            _copy(self._local.copy_rows, copies, self._world)

    def step(self, step: Step, first_row: int = 0) -> Tensor:
        """See `runtime.executors.interface.Session.step`."""
        self._channel.post(Kind.STEP, [self._number, first_row], *step.packed())
        logits = _run(partial(self._local.step, step, first_row), self._world)
        if self._shown:
            shown, scoring = self._shown
            shown({rank: self._received(logits, rank) for rank in range(1, scoring)})
        return logits

    def _received(self, like: Tensor, rank: int) -> Tensor:
        import torch

        return self._world.comm.recv(torch.empty(like.shape, dtype=torch.float32), rank)


class ParallelPagedSession:
    """Pools of blocks on all ranks. See `runtime.executors.paged.PagedSession`."""

    def __init__(self, local: PagedSession, number: int, world: World, channel: Channel) -> None:
        self.block, self.blocks, self.step_tokens = local.block, local.blocks, local.step_tokens
        self._local, self._number, self._world, self._channel = local, number, world, channel

    def step(self, step: PackedStep) -> Tensor:
        """See `runtime.executors.paged.PagedSession.step`: what is wrong is said before other ranks are told."""
        step.check(self.block, self.blocks)
        self._prepare_for(step)
        self._channel.post(Kind.PACKED_STEP, [self._number], *step.packed())
        return _run(partial(self._local.step, step), self._world)

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """See `runtime.executors.paged.PagedSession.copy_blocks`."""
        copies = RowCopies.checked(sources, destinations, self.blocks, "block")
        if copies.sources:
            self._channel.post(Kind.COPY_BLOCKS, [self._number], *copies)
            _copy(self._local.copy_blocks, copies, self._world)

    def _prepare_for(self, step: PackedStep) -> None:
        """Let all ranks capture what this one would before a step."""
        local = self._local
        if isinstance(local, Prepares) and not local.leads and (numbers := local.due(step)):
            self._prepare(numbers)

    def _prepare(self, numbers: Sequence[int]) -> None:
        self._channel.post(Kind.PREPARE, [self._number], numbers)
        _prepare(self._local, numbers, self._world)


class ParallelAheadSession(ParallelPagedSession):
    """The same where no rank needs to wait for the tokens of a step. See `StepsAhead` and `WarmsUp`."""

    def step_ahead(self, step: PackedStep) -> Chosen:
        """See `runtime.executors.paged.StepsAhead.step_ahead`: what is wrong is said before other ranks are told."""
        step.check(self.block, self.blocks)
        self._prepare_for(step)
        self._channel.post(Kind.STEP_AHEAD, [self._number], *step.packed())
        return _WatchedTokens(_begin(self._local, step, self._world), self._world)

    def warm_up(self, sequences: int, longest: int, done: Callable[[int, int], None]) -> None:
        """See `runtime.executors.paged.WarmsUp.warm_up`."""
        if not isinstance(self._local, Prepares):
            return
        every = self._local.all_due(sequences, longest)
        for at, numbers in enumerate(every, 1):
            self._prepare(numbers)
            done(at, len(every))


class _WatchedTokens:
    """What was chosen in a step; the liveness monitor sees who waits for it. See `Chosen`."""

    def __init__(self, chosen: Chosen, world: World) -> None:
        self._chosen, self._world = chosen, world

    def wait(self) -> tuple[list[int], list[float]]:
        with self._world.activity.busy("a step"), self._world.activity.waiting("a step on the GPU"):
            return self._chosen.wait()


def serve(local: Executor, world: World, *, scoring: int = 1) -> None:
    """Do what rank 0's `ParallelExecutor` does, until it is closed. Ranks other than 0 call it.

    Args:
        local: this rank's executor.
        world: the ranks.
        scoring: how many ranks, from 0 on, have logits.

    Raises:
        LlmcError: of the executor; leaving the world with it ends all ranks.
    """
    import torch

    channel, sessions, plans = Channel(world.comm), dict[int, Session](), RankPlans()
    paged = dict[int, PagedSession]()
    showing = set[int]()
    with torch.inference_mode():
        while True:
            kind, numbers = channel.take()
            if kind is Kind.STEP:
                number, first_row = map(int, numbers[:2])
                logits = _run(partial(sessions[number].step, Step.unpacked(numbers[2:]), first_row), world)
                if number in showing:
                    world.comm.send(logits.float().cpu(), 0)
            elif kind is Kind.OPEN:
                number, batch, capacity, shown, *chosen = map(int, numbers)
                with contextlib.suppress(SharedFailure):  # rank 0 raises it
                    sessions[number] = world.on_all_ranks(
                        "open", partial(_opened, local, plans, chosen, batch, capacity)
                    )
                showing |= {number} if shown and world.rank < scoring else set()
            elif kind is Kind.PACKED_STEP:
                _run(partial(paged[int(numbers[0])].step, PackedStep.unpacked(numbers[1:])), world)
            elif kind is Kind.STEP_AHEAD:
                _begin(paged[int(numbers[0])], PackedStep.unpacked(numbers[1:]), world)
            elif kind is Kind.PREPARE:
                _prepare(paged[int(numbers[0])], numbers[1:].tolist(), world)
            elif kind is Kind.OPEN_PAGED:
                number, blocks, ahead = map(int, numbers)
                with contextlib.suppress(SharedFailure):  # rank 0 raises it
                    opening = partial(_opened_paged, paged_executor(local), blocks, bool(ahead))
                    paged[number] = world.on_all_ranks("open", opening)
            elif kind in (Kind.COPY, Kind.COPY_BLOCKS):
                number, *rows = map(int, numbers)
                half = len(rows) // 2
                copy = sessions[number].copy_rows if kind is Kind.COPY else paged[number].copy_blocks
                _copy(copy, RowCopies(rows[:half], rows[half:]), world)
            elif kind is Kind.CLOSE:
                showing.discard(int(numbers[0]))
                sessions.pop(int(numbers[0]), None)
                paged.pop(int(numbers[0]), None)
            elif kind is Kind.BLOCK_MEMORY:
                _block_memory(paged_executor(local), world)
            elif kind is Kind.PLANS:
                plans = RankPlans.gathered(local, world.comm)
            else:
                return


def _opened(local: Executor, plans: RankPlans, chosen: Sequence[int], batch: int, capacity: int) -> Session:
    return plans.limited(local, chosen).open(batch, capacity)


def _is_led(local: PagedExecutor) -> bool:
    """Whether the sessions of a rank capture what rank 0 says, and begin steps ahead of their tokens."""
    return bool(getattr(local, "led", False))


def _opened_paged(local: PagedExecutor, blocks: int, ahead: bool) -> PagedSession:
    """A session on a rank; EngineError if it would not do as those of rank 0, which are `ahead` or not."""
    if _is_led(local) != ahead:
        raise EngineError(
            "some ranks begin steps ahead of their tokens, and others do not",
            hint="give LLMC_RANKS_AHEAD to all ranks, or to none: mpirun -x LLMC_RANKS_AHEAD",
        )
    return local.open_paged(blocks)


def _begin(session: PagedSession, step: PackedStep, world: World) -> Chosen:
    """Begin a step, without waiting for the GPU."""
    assert isinstance(session, StepsAhead)
    with world.activity.busy("a step"):
        return session.step_ahead(step)


def _prepare(session: PagedSession, numbers: Sequence[int], world: World) -> None:
    assert isinstance(session, Prepares)
    with world.activity.busy("the capture of a step"):
        session.prepare(numbers)


def _block_memory(local: PagedExecutor, world: World) -> list[BlockMemory]:
    """What blocks take on all ranks."""
    gathered = world.comm.all_gather_object([tuple(each) for each in local.block_memory()])
    return [BlockMemory(*each) for own in gathered for each in own]


def _run(step: Callable[[], Tensor], world: World) -> Tensor:
    """Run a step, and wait for the GPU, where the liveness monitor sees who waits."""
    with world.activity.busy("a step"):
        logits = step()
        if logits.is_cuda:
            import torch

            with world.activity.waiting("a step on the GPU"):
                torch.cuda.current_stream(logits.device).synchronize()
    return logits


def _copy(copy: Callable[[Sequence[int], Sequence[int]], None], copies: RowCopies, world: World) -> None:
    with world.activity.busy("a copy of rows"):
        copy(*copies)


def drive(world: World, local: Executor, main: Callable[[ParallelExecutor], None], *, scoring: int = 1) -> None:
    """Run `main` on rank 0 with an executor over all ranks, while the other ranks serve it. Every rank calls it.

    Args:
        world: the ranks.
        local: this rank's executor.
        main: what to do, on rank 0.
        scoring: how many ranks, from 0 on, have logits: those of the first stage, which the last one sends them.

    Raises:
        LlmcError: of `main` or the executor; leaving the world with it ends all ranks.
    """
    if world.rank:
        serve(local, world, scoring=scoring)
        return
    executor = ParallelExecutor(local, world, scoring=scoring)
    main(executor)
    executor.close()
