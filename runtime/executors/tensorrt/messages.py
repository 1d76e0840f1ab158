"""What TensorRT reports."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def message_log(trt: ModuleType) -> Any:
    """A TensorRT logger whose attribute `messages` collects the errors. A process has one logger: the first it used."""
    package: Any = trt
    severity = package.ILogger.Severity

    class MessageLog(package.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            package.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.messages.append(message)

    return MessageLog()
