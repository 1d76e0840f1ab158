"""Starts ranks as `llmc run` does: `python -m tests.runtime.processes.start RANKS HOSTFILE PROGRAM [ARGUMENT ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

from compiler.errors import LlmcError
from runtime.processes.launch import launch


def main(ranks: str, hostfile: str, *arguments: str) -> int:
    program = (sys.executable, "-m", "tests.runtime.processes.programs")
    stdin = sys.stdin.buffer.read()
    try:
        return launch(
            arguments, int(ranks), hostfile=Path(hostfile) if hostfile else None, program=program, stdin=stdin
        )
    except LlmcError as error:
        sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
