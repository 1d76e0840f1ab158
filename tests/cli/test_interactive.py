"""`llmc run --interactive` at a terminal: with one process, and with ranks that mpirun runs behind it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmc
from tests.paths import MODELS

LONG = 600  # tokens, which take much longer than to press a key


class Terminal:
    """A program at a pseudo-terminal, and what it has shown."""

    def __init__(self, *arguments: object) -> None:
        self._master, slave = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "PRTE"))}

        def control() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmc", *map(str, arguments)],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=control,
            env={**environment, "TERM": "dumb"},
        )  # fmt: skip
        os.close(slave)
        self.shown = ""

    def until(self, text: str, seconds: float = 120) -> str:
        """Wait until a text is shown; returns what came before it, and forgets both."""
        limit = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < limit, self.shown
            if select.select([self._master], [], [], 1.0)[0]:
                data = self._read()
                assert data, f"the program ended: {self.shown}"
                self.shown += data.replace("\r\n", "\n")
        before, _, self.shown = self.shown.partition(text)
        return before

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def end(self) -> int:
        """The exit status of a program that ends."""
        with contextlib.suppress(OSError):
            while self._read():
                pass
        return self.process.wait(60)

    def _read(self) -> str:
        try:
            return os.read(self._master, 1 << 16).decode(errors="replace")
        except OSError:  # nobody has the other side any more
            return ""


@contextlib.contextmanager
def at_terminal(*arguments: object) -> Iterator[Terminal]:
    terminal = Terminal(*arguments)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()


@pytest.mark.parametrize("passes", ["", "tp=2"])
def test_a_person_talks_with_an_engine(passes: str, tmp_path: Path) -> None:
    if passes:
        pytest.importorskip("mpi4py")
    options: Any = {"dtype": "float32", "target": "torch", "max_batch": 1, "max_seq": LONG + 8}
    one = llmc.load(llmc.compile(MODELS / "mpt-tiny", tmp_path / "one", **options).path, device="cpu")
    path = llmc.compile(MODELS / "mpt-tiny", tmp_path / "engine", passes=passes, **options).path
    [answer] = one.generate(["Once upon a time"], max_new_tokens=LONG, ignore_eos=True)
    how = ("--max-new-tokens", LONG, "--ignore-eos", "--device", "cpu", "--stop", answer.text[40:48])
    [expected] = one.generate(["Once upon a time"], max_new_tokens=LONG, ignore_eos=True, stop=[answer.text[40:48]])
    with at_terminal("run", path, "--interactive", *how) as terminal:
        terminal.until("> ")
        terminal.press("Once upon a time\n")
        terminal.until("Once upon a time\n")  # which the terminal shows itself
        assert terminal.until("\n> ") == expected.text
        terminal.press("word " * (LONG + 9) + "\n")
        assert "error: prompt 1 has " in terminal.until("hint: ")
        terminal.until("\n> ")
        terminal.press("The\n")
        terminal.until("The\n")
        while not terminal.until(" ").strip():
            pass
        terminal.press("\x03")
        terminal.until(" (interrupted)\n")
        terminal.until("> ")
        terminal.press("Once upon a time\n")
        terminal.until("Once upon a time\n")
        assert terminal.until("\n> ") == expected.text
        terminal.press("\x04")
        assert terminal.end() == 0


def test_ctrl_c_while_the_ranks_start_ends_all(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    path = llmc.compile(MODELS / "mpt-tiny", tmp_path / "engine", passes="tp=2", target="torch", max_seq=16).path
    with at_terminal("run", path, "--interactive", "--device", "cpu", "--plugin", waiting_plugin(tmp_path)) as terminal:
        terminal.until("a rank is here")
        terminal.press("\x03")
        terminal.until("interrupted")
        assert terminal.end() == 130


def waiting_plugin(folder: Path) -> Path:
    """A plug-in with which the ranks, but not who starts them, wait for very long."""
    plugin = folder / "waiting.py"
    lines = [
        "import os, sys, time",
        "if 'OMPI_COMM_WORLD_RANK' in os.environ:",
        "    print('a rank is here', file=sys.stderr, flush=True)",
        "    time.sleep(600)",
    ]
    plugin.write_text("\n".join(lines))
    return plugin
