"""What mpirun itself writes on standard error, between the lines of the ranks."""

from __future__ import annotations

import re
import signal

_RULE = b"-" * 74
# What MPI says in a rank whose peer has died; and what is left of mpirun's own padding.
_NOISE = re.compile(rb"\[[^\]]*:\d+\] \*\*\* |[ \0]+$")
_ENDED = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) (?:exited on signal (\d+)|exiting)")
_FIRST = re.compile(r"Process name:\s*\[[^\]]*,(\d+)\]\s*Exit code:\s*(\d+)")

_ABORTED = re.compile(r'process rank (\d+) with PID \d+ on node (\S+) calling "abort"')


class Notices:
    """Takes mpirun's notices, which stand between two rules of dashes, out of a stream.

    Attributes:
        texts: the notices.
        reported: whether a rank reported an error, as the command line prints one.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reported = False
        self._rest = b""
        self._notice: list[bytes] | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what has come; returns the lines of it that the ranks wrote."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join(map(self._line, lines))

    def finish(self) -> bytes:
        """The end of the stream: returns what is left of the ranks'."""
        out = self._line(self._rest)[:-1]
        if self._notice:
            self.texts.append(_text(self._notice))
        return out

    def _line(self, line: bytes) -> bytes:
        if line.rstrip() == _RULE:
            if self._notice is None:
                self._notice = []
            else:
                self.texts.append(_text(self._notice))
                self._notice = None
            return b""
        if self._notice is not None:
            self._notice.append(line)
            return b""
        if _NOISE.match(line):
            return b""
        self.reported = self.reported or line.startswith(b"error: ")
        return line + b"\n"


def started_nothing(texts: list[str]) -> bool:
    """Whether mpirun says that it failed before it started anything, in a way that passes."""
    return any("listener thread failed to start" in " ".join(text.split()) for text in texts)


def explain(texts: list[str], status: int) -> str:
    """What happened, in one sentence, by mpirun's notices and its exit status."""
    for text in texts:
        if found := _ENDED.search(" ".join(text.split())):
            rank, host, number = found.groups()
            return f"rank {rank} on {host} ended {_by(int(number)) if number else 'without a message'}"
    for text in texts:
        if found := _FIRST.search(text):
            return f"rank {found[1]} ended with status {found[2]} and without a message"
    for text in texts:
        if found := _ABORTED.search(" ".join(text.split())):
            return f"rank {found[1]} on {found[2]} lost the connection to another rank, and MPI ended it"
    if texts:
        return f"mpirun failed: {' '.join(texts[0].split())}"
    return f"mpirun ended {_by(status - 128) if status > 128 else f'with status {status}'}"


def _by(number: int) -> str:
    if number == signal.SIGKILL:
        return "by signal 9 (killed; out of memory?)"
    try:
        return f"by signal {number} ({signal.strsignal(number)})"
    except ValueError:
        return f"by signal {number}"


def _text(lines: list[bytes]) -> str:
    return b"\n".join(lines).decode(errors="replace").strip()
