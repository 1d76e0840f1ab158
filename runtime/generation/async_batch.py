"""Requests of an asynchronous program: all that run at once share the steps of one batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from runtime.generation.in_flight import Update
from runtime.generation.sequence import SequenceGroup

if TYPE_CHECKING:
    from runtime.generation.engine import Engine


class AsyncBatch:
    """Drives the steps of an engine, each in a thread of its own, as long as a request waits for them.

    Args:
        engine: the engine, whose `submit`, `step` and `cancel` it uses.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queues: dict[SequenceGroup, asyncio.Queue[Update | BaseException]] = {}
        self._driver: asyncio.Task[None] | None = None

    async def submit(self, submit: Callable[[], SequenceGroup]) -> SequenceGroup:
        """Submit a request in a thread of its own. It is cancelled if nobody waits for it any more.

        Args:
            submit: submits it; its errors are raised.
        """
        submission = _Submission(self._engine, submit)
        try:
            return await asyncio.to_thread(submission.run)
        except asyncio.CancelledError:
            await asyncio.to_thread(submission.abandon)
            raise

    async def updates(self, group: SequenceGroup) -> AsyncGenerator[Update]:
        """What the steps bring a request that was submitted. It is cancelled if nobody listens any more."""
        queue: asyncio.Queue[Update | BaseException] = asyncio.Queue()
        self._queues[group] = queue
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        try:
            finished = False
            while not finished:
                update = await queue.get()
                if isinstance(update, BaseException):
                    raise update
                yield update
                finished = update.finished
        finally:
            del self._queues[group]
            await asyncio.to_thread(self._engine.cancel, group)  # which waits for the end of a step

    async def _drive(self) -> None:
        while any(group.sequences for group in self._queues):
            try:
                updates = await asyncio.to_thread(self._engine.step)
            except BaseException as error:  # which those that wait raise
                for queue in self._queues.values():
                    queue.put_nowait(error)
                if isinstance(error, Exception):
                    return
                raise
            for update in updates:
                if update.group in self._queues:
                    self._queues[update.group].put_nowait(update)
            self._end_cancelled({update.group for update in updates})
        self._end_cancelled(set())

    def _end_cancelled(self, told: set[SequenceGroup]) -> None:
        """Tell who waits for a request that has ended, but not in the step just made: `Engine.cancel` ends some so."""
        for group, queue in self._queues.items():
            if not group.sequences and group not in told:
                queue.put_nowait(Update(group, finished=True))


class _Submission:
    """A request that a thread submits, while who asked for it may leave at any time."""

    def __init__(self, engine: Engine, submit: Callable[[], SequenceGroup]) -> None:
        self._engine, self._submit = engine, submit
        self._lock = threading.Lock()
        self._group: SequenceGroup | None = None
        self._abandoned = False

    def run(self) -> SequenceGroup:
        """Submit the request; cancel it if it has been abandoned meanwhile."""
        group = self._submit()
        with self._lock:
            self._group = group
            abandoned = self._abandoned
        if abandoned:
            self._engine.cancel(group)
        return group

    def abandon(self) -> None:
        """Cancel the request, now or as soon as it has been submitted."""
        with self._lock:
            self._abandoned = True
            group = self._group
        if group is not None:
            self._engine.cancel(group)
