"""What a rank is doing, and which rank keeps the others from getting on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from runtime.collectives.failure import Failure

State = Literal["idle", "busy", "waiting"]


@dataclass(frozen=True)
class Status:
    """What a rank does.

    Attributes:
        state: `waiting` for other ranks, `busy`, or `idle`: waiting for something to do.
        what: which operation it waits in, or what it computes.
        age: for how many seconds.
        limit: how many seconds of it are not too many.
        silence: how many seconds ago the rank said so.
    """

    state: State
    what: str
    age: float
    limit: float
    silence: float = 0.0

    @property
    def overdue(self) -> bool:
        """Whether it takes too long."""
        return self.age + self.silence > self.limit


class StatusRecorder:
    """What this rank is doing. Written by the thread that works, read by the one that watches."""

    def __init__(self, limit: float) -> None:
        """Idle; `limit` seconds are not too many for anything that does not say otherwise."""
        self._limit = limit
        self._now: tuple[State, str, float, float] = ("idle", "", time.monotonic(), limit)

    def status(self) -> Status:
        """What the rank does now."""
        state, what, started, limit = self._now
        return Status(state, what, time.monotonic() - started, limit)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A block that waits for other ranks."""
        with self._in("waiting", what, self._now[3]):
            yield

    @contextmanager
    def busy(self, what: str, limit: float | None = None) -> Iterator[None]:
        """A block of work, which may take `limit` seconds longer than the same work of other ranks."""
        with self._in("busy", what, self._limit if limit is None else limit):
            yield

    @contextmanager
    def _in(self, state: State, what: str, limit: float) -> Iterator[None]:
        before = self._now
        self._now = (state, what, time.monotonic(), limit)
        try:
            yield
        finally:
            self._now = (before[0], before[1], time.monotonic(), before[3])


def silent(ranks: Mapping[int, Status], hosts: Mapping[int, str]) -> Failure | None:
    """The failure of the first rank that says nothing for too long."""
    for rank, status in ranks.items():
        if status.silence > status.limit:
            return _failure(rank, hosts, f"it has not answered for {status.silence:.0f} s")
    return None


def late(ranks: Mapping[int, Status], hosts: Mapping[int, str]) -> Failure | None:
    """The failure of the rank for which another one waits too long; None while all is well.

    A rank that computes for long is none while the others do so, too.
    """
    overdue = {rank: status for rank, status in ranks.items() if status.overdue}
    waiting = {rank: status for rank, status in overdue.items() if status.state == "waiting"}
    if waiting and len(waiting) == len(ranks):
        each = ", ".join(f"rank {rank} in {status.what}" for rank, status in sorted(waiting.items()))
        return _failure(min(waiting), hosts, f"all ranks wait for each other: {each}")
    guilty = max(overdue.keys() - waiting.keys(), key=lambda rank: overdue[rank].age, default=None)
    if not waiting or guilty is None:
        return None
    status, (other, wait) = overdue[guilty], min(waiting.items())
    return _failure(
        guilty,
        hosts,
        f"it has not answered for {status.age + status.silence:.0f} s (it is in {status.what or 'no step'}); "
        f"rank {other} waits for it in {wait.what}",
    )


def _failure(rank: int, hosts: Mapping[int, str], message: str) -> Failure:
    return Failure(
        rank,
        hosts[rank],
        message,
        "if it is only slow, allow it more seconds: LLMC_RANK_TIMEOUT=600",
        kind="TargetError",
    )
