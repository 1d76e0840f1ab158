"""Two computations that advance in turns, so that a value is kept only until its counterpart is there, too."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from torch import Tensor

from compiler.ir.step import Step
from llmc.tracing.source import Source

Compare = Callable[[int, str, Sequence[Tensor], str, Sequence[Tensor]], None]
"""Called with the number of a step, and a name with the tensors of each side."""

_END: Final = "the end"


class _StoppedError(Exception):
    """Ends a computation whose other side has failed."""


class _Side:
    """A computation in a thread of its own, which waits after each value until it is asked for the next one."""

    def __init__(self, source: Source, steps: Sequence[Step], wanted: Collection[str]) -> None:
        self._source, self._steps, self._wanted = source, steps, wanted
        self._turn, self._shown = threading.Semaphore(0), queue.SimpleQueue[Any]()
        self._stopped = False
        self.ended = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def next(self) -> tuple[int, str, Sequence[Tensor]] | None:
        """The next value: the number of its step, its name, its tensors; None at the end. Raises what the run does."""
        if self.ended:
            return None
        self._turn.release()
        shown = self._shown.get()
        if isinstance(shown, tuple):
            return shown
        self.ended = True
        if isinstance(shown, BaseException):
            raise shown
        return None

    def stop(self) -> None:
        """End the computation, and wait until it has ended."""
        self._stopped = True
        self._turn.release()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._wait()
            self._source.run(self._steps, self._wanted, self._show)
            self._shown.put(_END)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the other thread asks
            self._shown.put(error)

    def _show(self, step: int, name: str, tensors: Sequence[Tensor]) -> None:
        self._shown.put((step, name, tensors))
        self._wait()

    def _wait(self) -> None:
        self._turn.acquire()
        if self._stopped:
            raise _StoppedError


class _Waiting:
    """The values of one side whose counterparts are still to come."""

    def __init__(self, counterparts: dict[str, list[str]]) -> None:
        self.counterparts = counterparts
        self._tensors: dict[tuple[int, str], Sequence[Tensor]] = {}
        self._left: dict[tuple[int, str], set[str]] = {}

    def add(self, step: int, name: str, tensors: Sequence[Tensor], there: _Waiting) -> list[tuple[str, Any]]:
        """Take a value; returns its counterparts that are there already, with their tensors."""
        found = []
        left = set(self.counterparts[name])
        for other in self.counterparts[name]:
            if (waiting := there.take(step, other, name)) is not None:
                left.discard(other)
                found.append((other, waiting))
        if left:
            self._tensors[step, name], self._left[step, name] = tensors, left
        return found

    def take(self, step: int, name: str, counterpart: str) -> Sequence[Tensor] | None:
        """The value for one counterpart, if it is there; the last one takes it away."""
        key = step, name
        left = self._left.get(key, set())
        if counterpart not in left:
            return None
        left.discard(counterpart)
        return self._tensors[key] if left else self._forget(key)

    def _forget(self, key: tuple[int, str]) -> Sequence[Tensor]:
        del self._left[key]
        return self._tensors.pop(key)

    @property
    def is_empty(self) -> bool:
        return not self._tensors


def run_in_lockstep(
    a: Source, b: Source, steps: Sequence[Step], pairs: Sequence[tuple[str, str]], compare: Compare
) -> None:
    """Run both sides over the same steps, and compare each pair of values as soon as both are there.

    Args:
        a: the first side, which leads.
        b: the second.
        steps: consecutive steps of one row.
        pairs: names of values of A and of B; a name may be in several pairs.
        compare: called with each pair, in each step.

    Raises:
        LlmcError: if a side fails.
    """
    ours, theirs = _Waiting({}), _Waiting({})
    for x, y in pairs:
        ours.counterparts.setdefault(x, []).append(y)
        theirs.counterparts.setdefault(y, []).append(x)
    leader = _Side(a, steps, ours.counterparts.keys())
    follower = _Side(b, steps, theirs.counterparts.keys())
    try:
        while True:
            if (shown := leader.next()) is not None:
                step, name, tensors = shown
                for other, found in ours.add(step, name, tensors, theirs):
                    compare(step, name, tensors, other, found)
            while (shown is None or not ours.is_empty) and (came := follower.next()) is not None:
                step, name, tensors = came
                for other, found in theirs.add(step, name, tensors, ours):
                    compare(step, other, found, name, tensors)
            if shown is None:
                return
    finally:
        leader.stop()
        follower.stop()
