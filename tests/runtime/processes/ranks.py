"""Running programs on real ranks, and seeing that nothing of them is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from runtime.processes.notices import started_nothing
from tests.paths import ROOT

MARK = "LLMC_TEST_MARK"


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str
    seconds: float


def start(
    ranks: int, *arguments: str, hostfile: str = "", timeout: float = 30.0, stdin: str = "", **env: str
) -> Outcome:
    """Run a program through `launch`."""
    command = [sys.executable, "-m", "tests.runtime.processes.start", str(ranks), hostfile, *arguments]
    return run(command, timeout=timeout, stdin=stdin, **env)


def under_mpirun(ranks: int, *arguments: str, timeout: float = 30.0) -> Outcome:
    """Run a program as users do who call mpirun themselves."""
    mpirun = [str(Path(sys.executable).parent / "mpirun"), "-n", str(ranks), "--oversubscribe", "--allow-run-as-root"]
    return run([*mpirun, sys.executable, "-m", "tests.runtime.processes.programs", *arguments], timeout=timeout)


def run(command: list[str], *, timeout: float, stdin: str = "", **env: str) -> Outcome:
    """Run a command; nothing that it started may be left."""
    mark = uuid.uuid4().hex
    variables = {**os.environ, "OMP_NUM_THREADS": "1", MARK: mark, "LLMC_RANK_TIMEOUT": str(timeout), **env}
    started = time.monotonic()
    try:
        for _ in range(3):
            done = subprocess.run(
                command, cwd=ROOT, env=variables, input=stdin, capture_output=True, text=True, timeout=50.0, check=False
            )
            if not started_nothing([done.stderr]):
                break
        seconds = time.monotonic() - started
        left = wait_until_gone(mark)
        assert not left, f"processes {left} are left"
    finally:
        for pid in processes(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return Outcome(done.returncode, done.stdout, done.stderr, seconds)


def processes(mark: str) -> list[int]:
    """The processes whose environment has the mark."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
    return found


def wait_until_gone(mark: str, seconds: float = 8.0) -> list[int]:
    until = time.monotonic() + seconds
    while (left := processes(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    return left
