"""TensorRT's messages, gathered and traced back to the ops that they speak of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from compiler.ir.graph import Graph
from compiler.ir.op import Op

# Said on every machine without a GPU, of errors and successes alike.
_NOISE = re.compile(r"catchCudaError|cudaError 35|CUDA driver version is insufficient")
_SHOWN = 3


class Messages:
    """A logger for TensorRT that keeps its errors.

    Attributes:
        errors: the errors so far, without those that only say that there is no GPU.
        logger: the object to give to TensorRT.
    """

    def __init__(self, trt: Any) -> None:
        self.errors: list[str] = []
        self._muted = False
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
        if not self._muted and not _NOISE.search(message):
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


def ops_named(graph: Graph, messages: Sequence[str]) -> list[Op]:
    """The ops whose layers the messages name, those named most precisely first."""
    text = "\n".join(messages)
    named = [op for op in graph.ops if any(_mentions(text, value.name) for value in op.results)]
    return sorted(named, key=lambda op: -len(op.name))


def _mentions(text: str, name: str) -> bool:
    return name in text and re.search(rf"(?<![\w.]){re.escape(name)}(?!\w|\.\w)", text) is not None
