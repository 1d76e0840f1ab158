"""The terminal of `llmc run --interactive`: this process's own, or that of the process that started the ranks.

mpirun stands between rank 0 and the terminal: it would end all ranks at a Ctrl-C, and hands keys on only as a stream.
So the process that starts mpirun keeps the terminal. It sends rank 0 the lines that a person enters, and
shows what rank 0 has to say; both speak by lines of JSON, over rank 0's standard input and output.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, Protocol

from runtime.processes.streams import CONVERSATION


class Terminal(Protocol):
    """Where a conversation takes place.

    Attributes:
        is_terminal: whether a person sits there, and not a file.
    """

    is_terminal: bool

    def lines(self) -> Iterator[str]:
        """The lines that are entered, until the end (Ctrl-D); empty ones are left out."""
        ...

    def write(self, text: str) -> None:
        """Show a part of a text; KeyboardInterrupt if the text is to end (Ctrl-C)."""
        ...

    def tell(self, text: str) -> None:
        """Say something that is no part of a text, on standard error."""
        ...


class OwnTerminal:
    """The terminal, or the files, of this process; see `Terminal`. Python itself raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty()

    def lines(self) -> Iterator[str]:
        """See `Terminal.lines`. Lines can be edited, and earlier ones called back; Ctrl-C drops a line."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - input() then edits lines and keeps a history
        while True:
            try:
                line = input("> " if self.is_terminal else "")
            except EOFError:
                return
            except KeyboardInterrupt:
                print(flush=True)
                continue
            if line.strip():
                yield line

    def write(self, text: str) -> None:
        """See `Terminal.write`."""
        print(text, end="", flush=True)

    def tell(self, text: str) -> None:
        """See `Terminal.tell`."""
        print(text, file=sys.stderr, flush=True)


class RemoteTerminal:
    """The terminal of the process that started the ranks, seen from rank 0; see `Terminal` and `attend`."""

    def __init__(self, commands: int, messages: IO[str]) -> None:
        """Listen to the other side.

        Args:
            commands: the descriptor of the file that its messages come from.
            messages: where those for it go.
        """
        self.is_terminal = os.environ.get(CONVERSATION) == "terminal"
        self._commands, self._messages = commands, messages
        self._entered: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._number, self._interrupted = 0, -1
        threading.Thread(target=self._listen, name="llmc-terminal", daemon=True).start()

    def lines(self) -> Iterator[str]:
        """See `Terminal.lines`."""
        while True:
            self._number += 1
            self._send({"ready": self._number})
            line = self._entered.get()
            if line is None:
                return
            yield line

    def write(self, text: str) -> None:
        """See `Terminal.write`."""
        if self._interrupted == self._number:
            self._interrupted = -1
            raise KeyboardInterrupt
        self._send({"write": text})

    def tell(self, text: str) -> None:
        """See `Terminal.tell`."""
        self._send({"tell": text})

    def _send(self, message: dict[str, Any]) -> None:
        self._messages.write(json.dumps(message) + "\n")
        self._messages.flush()

    def _listen(self) -> None:
        for line in _lines_of(self._commands):
            message = json.loads(line)
            if "interrupt" in message:
                self._interrupted = message["interrupt"]
            else:
                self._entered.put(message.get("line"))
        self._entered.put(None)


def _lines_of(descriptor: int) -> Iterator[bytes]:
    """The lines of a file as they come.

    Python's own readers are locked while a thread waits for a line, so that the process could not end meanwhile.
    """
    rest = b""
    while data := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def own_or_remote() -> Terminal:
    """The terminal of a conversation: of a rank that llmc started that of who started it, else this process's own."""
    if CONVERSATION in os.environ:
        return RemoteTerminal(sys.stdin.fileno(), sys.stdout)
    return OwnTerminal()


def attend(commands: IO[bytes], messages: IO[bytes]) -> None:
    """Let a person talk with rank 0 at this process's terminal, until the end of either.

    Ctrl-C ends the text in work; before the ranks have started, it is raised as KeyboardInterrupt.

    Args:
        commands: rank 0's standard input.
        messages: rank 0's standard output; what is no message in it is printed as it is.
    """
    terminal = OwnTerminal()
    lines = terminal.lines()

    def send(**message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the ranks have ended, and say why
            commands.write(json.dumps(message).encode() + b"\n")
            commands.flush()

    number = _shown(messages, terminal)
    while number is not None:
        line = next(lines, None)
        with _at_interrupt(partial(send, interrupt=number)):
            send(line=line)
            number = _shown(messages, terminal)


def _shown(messages: IO[bytes], terminal: Terminal) -> int | None:
    """Show what rank 0 says until it is ready for a line; returns the line's number, None if rank 0 has ended."""
    for raw in messages:
        try:
            message = json.loads(raw)
            kind, value = next(iter(message.items()))
        except (ValueError, AttributeError, StopIteration):  # something else prints there
            terminal.write(raw.decode(errors="replace"))
            continue
        if kind == "ready":
            return int(value)
        (terminal.tell if kind == "tell" else terminal.write)(str(value))
    return None


@contextlib.contextmanager
def _at_interrupt(action: Callable[[], None]) -> Iterator[None]:
    """Do something at Ctrl-C instead of raising KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, lambda number, frame: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
