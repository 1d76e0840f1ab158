"""Steps ahead of their tokens, and captures, on several ranks: all do what the first one decides, in its order."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from queue import Queue
from typing import Any

import pytest
import torch
from torch import Tensor

from compiler.errors import EngineError, RequestError
from compiler.ir.packed_step import PackedStep, SequenceStep
from runtime.executors.paged import PagedSession, StepsAhead, WarmsUp
from runtime.executors.parallel.workers import ParallelExecutor, _opened_paged, serve


class _Comm:
    """What a rank sends and receives integers by."""

    def __init__(self, queue: Queue[Any]) -> None:
        self._queue = queue

    def post(self, numbers: Any) -> None:
        self._queue.put(numbers.copy())

    def take(self, numbers: Any) -> None:
        numbers[:] = self._queue.get(timeout=20)


class _Activity:
    """Nobody watches."""

    def busy(self, what: str) -> AbstractContextManager[None]:
        return nullcontext()

    waiting = busy


class _World:
    """One of two ranks of a process."""

    size = 2

    def __init__(self, rank: int, queue: Queue[Any]) -> None:
        self.rank, self.comm, self.activity = rank, _Comm(queue), _Activity()

    def on_all_ranks(self, what: str, action: Callable[[], Any]) -> Any:
        return action()


class _Tokens:
    def wait(self) -> tuple[list[int], list[float]]:
        return [7], [0.5]


class _Session:
    """A session that notes what it is told, and captures steps of as many tokens as it has met before.

    Attributes:
        told: what it was told, in order.
    """

    block, blocks, step_tokens = 4, 8, 64

    def __init__(self, leads: bool = False) -> None:
        self.told: list[Any] = []
        self.leads = leads
        self._met: set[int] = set()
        self._captured: set[int] = set()

    def step(self, step: PackedStep) -> Tensor:
        return self._run("step", step)

    def step_ahead(self, step: PackedStep) -> _Tokens:
        self._run("ahead", step)
        return _Tokens()

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        self.told.append(("copy", [*sources], [*destinations]))

    def warm_up(self, sequences: int, longest: int, done: Callable[[int, int], None]) -> None:
        pytest.fail("the first rank leads")

    def due(self, step: PackedStep) -> list[int]:
        return [step.tokens] if step.tokens in self._met - self._captured else []

    def all_due(self, sequences: int, longest: int) -> list[list[int]]:
        return [[count] for count in range(sequences, 0, -1)]

    def prepare(self, numbers: Sequence[int]) -> None:
        self.told.append(("prepare", [*numbers]))
        self._captured |= {*numbers}

    def _run(self, how: str, step: PackedStep) -> Tensor:
        self._met.add(step.tokens)
        self.told.append((how, step.token_ids.tolist(), step.tokens in self._captured))
        return torch.zeros(step.wanted, 3)


class _Executor:
    name, block = "fake", 4

    def __init__(self, led: bool = True) -> None:
        self.sessions: list[_Session] = []
        self.led = led

    def open_paged(self, blocks: int) -> _Session:
        self.sessions.append(_Session(leads=not self.led))
        return self.sessions[-1]

    def block_memory(self) -> list[Any]:
        return []


@contextmanager
def two_ranks(first: _Executor, second: _Executor) -> Iterator[PagedSession]:
    """A session on two ranks, the second of which is a thread."""
    queue: Queue[Any] = Queue()
    failures: list[BaseException] = []

    def follow() -> None:
        try:
            serve(second, _World(1, queue))  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001  # the test shall see it
            failures.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    executor = ParallelExecutor(first, _World(0, queue))  # type: ignore[arg-type]
    try:
        yield executor.open_paged(8)
    finally:
        executor.close()
        thread.join(20)
    assert not failures


def decode(*ids: int) -> PackedStep:
    """A step of one token of each of some sequences."""
    return PackedStep.of([SequenceStep(2, [token], [at]) for at, token in enumerate(ids)])


def test_all_ranks_capture_what_the_first_one_says_before_the_same_steps() -> None:
    first, second = _Executor(), _Executor()
    with two_ranks(first, second) as session:
        assert isinstance(session, StepsAhead)
        session.step(decode(5, 6))
        second_session = second.sessions  # what it has met by itself does not count
        chosen = session.step_ahead(decode(7, 8))
        assert chosen.wait() == ([7], [0.5])
        session.step_ahead(decode(-1, -2))
        session.copy_blocks([0], [3])
        session.step_ahead(decode(-1))
    told = [
        ("step", [5, 6], False), ("prepare", [2]), ("ahead", [7, 8], True), ("ahead", [-1, -2], True),
        ("copy", [0], [3]), ("ahead", [-1], False),
    ]  # fmt: skip
    assert first.sessions[0].told == told and second_session[0].told == told


def test_a_rank_that_has_captured_less_captures_no_more_than_it_is_told() -> None:
    first, second = _Executor(), _Executor()
    with two_ranks(first, second) as session:
        first.sessions[0]._captured = {1}
        for _ in range(3):
            session.step(decode(5))
    assert [captured for _, _, captured in first.sessions[0].told] == [True] * 3
    assert [captured for _, _, captured in second.sessions[0].told] == [False] * 3


def test_warming_up_goes_through_the_sizes_on_all_ranks() -> None:
    first, second, ready = _Executor(), _Executor(), list[tuple[int, int]]()
    with two_ranks(first, second) as session:
        assert isinstance(session, WarmsUp)
        session.warm_up(3, 16, lambda at, of: ready.append((at, of)))
    assert ready == [(1, 3), (2, 3), (3, 3)]
    assert first.sessions[0].told == second.sessions[0].told == [("prepare", [count]) for count in (3, 2, 1)]


def test_a_step_that_is_wrong_reaches_no_other_rank() -> None:
    first, second = _Executor(), _Executor()
    with two_ranks(first, second) as session:
        assert isinstance(session, StepsAhead)
        with pytest.raises(RequestError):
            session.step_ahead(PackedStep.of([SequenceStep(40, [1], [0])]))
    assert first.sessions[0].told == second.sessions[0].told == []


def test_ranks_wait_for_their_tokens_unless_told_otherwise() -> None:
    first, second = _Executor(led=False), _Executor(led=False)
    with two_ranks(first, second) as session:
        assert not isinstance(session, StepsAhead) and not isinstance(session, WarmsUp)
        for _ in range(2):
            session.step(decode(5))
    assert first.sessions[0].told == second.sessions[0].told == [("step", [5], False)] * 2


def test_ranks_that_are_told_different_things_open_no_session() -> None:
    with pytest.raises(EngineError, match="some ranks begin steps ahead of their tokens, and others do not"):
        _opened_paged(_Executor(led=False), 8, True)


def test_a_session_that_has_ended_is_kept_by_no_rank() -> None:
    """Its pools must be free, or kept for the next session, before that is opened."""
    alive: list[bool] = []

    class Executor(_Executor):
        def open_paged(self, blocks: int) -> _Session:
            alive.extend(session() is not None for session in known)
            made = _Session()
            known.append(weakref.ref(made))
            return made

    known: list[weakref.ref[_Session]] = []
    queue: Queue[Any] = Queue()
    thread = threading.Thread(target=serve, args=(Executor(), _World(1, queue)))
    thread.start()
    executor = ParallelExecutor(_Executor(), _World(0, queue))  # type: ignore[arg-type]
    session = executor.open_paged(8)
    assert isinstance(session, StepsAhead)
    for _ in range(2):
        session.step_ahead(decode(5)).wait()
    del session
    executor.open_paged(8)
    executor.close()
    thread.join(20)
    assert alive == [False]
