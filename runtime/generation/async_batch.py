"""Requests of an asynchronous program: all that run at once share the steps of one batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
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
            except BaseException as error:
                for queue in self._queues.values():
                    queue.put_nowait(error)
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
