"""TensorRT's messages, gathered."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

NO_GPU = re.compile(r"catchCudaError|cudaError 35|CUDA driver version is insufficient")
"""What TensorRT says on every machine without a GPU, of errors and successes alike."""
_SHOWN = 3

# TensorRT registers the logger of a builder or a runtime under a lock of its own, and calls it there if it is another
# one than that before: a logger in Python then waits for Python's lock, and runs Python. Whoever drops a builder needs
# TensorRT's lock, too: another thread, which holds Python's meanwhile, or Python's garbage collector, which may begin
# in the logger. So a builder is dropped neither by others nor by the collector while a logger is registered.
_REGISTERING = Lock()


@contextmanager
def registering() -> Iterator[None]:
    """Make, or drop, what has a logger in Python; one thread at a time, and without garbage collection meanwhile."""
    with _REGISTERING:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


class Messages:
    """A logger for TensorRT that keeps its errors. A process has one logger: the first that TensorRT was given.

    Attributes:
        errors: the errors so far, without those that are ignored.
        logger: the object to give to TensorRT.
    """

    def __init__(self, trt: Any, *, ignored: re.Pattern[str] | None = None) -> None:
        """Make a logger for a TensorRT package.

        Args:
            trt: the package.
            ignored: what errors that mean nothing contain.
        """
        self.errors: list[str] = []
        self._muted = False
        self._ignored = ignored
        severities = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self, log: Any) -> None:
                trt.ILogger.__init__(self)
                self._log = log

            def log(self, severity: Any, message: str) -> None:
                if severity in severities:
                    self._log(message)

        self.logger = Logger(self._add)

    def _add(self, message: str) -> None:
        if not self._muted and not (self._ignored and self._ignored.search(message)):
            self.errors.append(message.strip())

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Drop what TensorRT says."""
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    @property
    def say_out_of_memory(self) -> bool:
        """Whether the errors say that TensorRT found no memory."""
        return any(re.search(r"out ?of ?memory", error, re.IGNORECASE) for error in self.errors)

    def text(self) -> str:
        """The first errors."""
        return "; ".join(self.errors[:_SHOWN]) or "TensorRT gave no reason"

    def take(self) -> str:
        """All errors since the last call; empty if there are none."""
        text = "; ".join(self.errors)
        self.errors.clear()
        return text
