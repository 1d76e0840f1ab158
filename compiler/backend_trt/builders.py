"""Making and dropping TensorRT's builders while other threads do."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from compiler.trt_network.messages import registering


class Builders:
    """Keeps builders until no function that uses them runs any more: a context manager."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._used: list[Any] = []

    def make(self, trt: Any, logger: Any) -> Any:
        """A builder that tells `logger`, an `ILogger` in Python, what happens."""
        with registering():
            self._kept.append(trt.Builder(logger))
        return self._kept[-1]

    def keep(self, used: Any) -> None:
        """Keep what builders use until they are dropped."""
        self._used.append(used)

    def __enter__(self) -> Builders:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: Any, trace: TracebackType | None) -> None:
        with registering():
            self._kept.clear()
        self._used.clear()
