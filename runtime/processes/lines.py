"""Lines of JSON over a socket."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from typing import Any

_MOST = 1 << 20


class Lines:
    """A connection on which both sides send lines of JSON objects.

    Attributes:
        ended: whether the other side closed it.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._rest, self._lock = connection, b"", threading.Lock()
        self.ended = False

    def send(self, message: dict[str, Any]) -> None:
        """Send an object, if the other side still takes one."""
        line = json.dumps(message).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(line)

    def receive(self, seconds: float) -> list[dict[str, Any]]:
        """The objects that have come, waiting for them for at most `seconds`."""
        if self.ended:
            time.sleep(seconds)
            return []
        if not select.select([self._socket], [], [], seconds)[0]:
            return []
        try:
            data = self._socket.recv(1 << 16)
        except OSError:
            data = b""
        self.ended = not data or len(self._rest) > _MOST
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            messages = [None]
        if not all(isinstance(message, dict) for message in messages):
            self.ended = True  # something else speaks there
            return []
        return messages

    def wait(self, seconds: float) -> dict[str, Any] | None:
        """The next object; None if none comes."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.ended:
            if messages := self.receive(0.2):
                return messages[0]
        return None
