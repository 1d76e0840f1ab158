"""Rank 0's standard input and output, which mpirun stands between."""

from __future__ import annotations

import os
import sys

from runtime.processes.environment import world_size_from_environment

STDIN_BYTES = "LLMC_STDIN_BYTES"
"""How much standard input there is: mpirun hands it on, but never its end."""

TERMINAL = "LLMC_STDOUT_TERMINAL"
"""1 if what rank 0 prints goes to a terminal; mpirun gives it a terminal in any case."""

CONVERSATION = "LLMC_CONVERSATION"
"""There if whoever started the ranks talks with rank 0: `terminal` if a person sits at its terminal, else `file`."""


def standard_input() -> bytes:
    """All of standard input: what `launch` was given, or, without it, up to the end."""
    length = os.environ.get(STDIN_BYTES, "")
    return sys.stdin.buffer.read(int(length) if length.isdigit() else -1)


def started_by_llmc() -> bool:
    """Whether llmc started this rank, and not the user's own mpirun."""
    return TERMINAL in os.environ


def writes_to_terminal() -> bool:
    """Whether what this process prints goes to a terminal."""
    if world_size_from_environment() is None:
        return sys.stdout.isatty()
    return os.environ.get(TERMINAL) == "1"
