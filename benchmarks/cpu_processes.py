"""The processes of `cpu.py`: a contender prepares its files in one, and another stays open and is asked in turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from cpu_contender import Job

_SCRIPT = Path(__file__).with_name("cpu_contender.py")


class ContenderError(Exception):
    """A contender is not there, or fails; the message is for the table's reader."""


class Answer(NamedTuple):
    """What a contender took, and what it gave.

    Attributes:
        seconds: the time.
        tokens: the new tokens of each prompt.
        disturbed: the share of the machine's processor time that others took meanwhile.
    """

    seconds: float
    tokens: list[list[int]]
    disturbed: float


class Process:
    """A contender that stays open.

    Attributes:
        facts: what it says of itself.
    """

    def __init__(self, job: Job, python: str, limit: float) -> None:
        """Prepare the contender's files if they are not there, and open it.

        Args:
            job: what it is to run.
            python: the interpreter that has its packages.
            limit: the seconds that preparing, opening and each answer may take.

        Raises:
            ContenderError: if it fails or takes longer.
        """
        self._log = job.place.with_name(job.place.name + ".log")
        self._limit, self._environment = limit, _environment(job.threads)
        arguments = json.dumps(asdict(job))
        if not job.place.exists():
            self._start([python, str(_SCRIPT), "prepare", arguments])
            self._within(self._process.wait)
            if self._process.returncode:
                raise ContenderError(self._reason())
        self._start([python, str(_SCRIPT), "serve", arguments])
        self.facts: dict[str, Any] = self._answer()

    def ask(self, ids: Sequence[Sequence[int]], new: int) -> Answer:
        """What `new` tokens for each of some prompts take. Raises ContenderError."""
        assert self._process.stdin is not None
        busy, started = _busy(), time.perf_counter()
        try:
            self._process.stdin.write(json.dumps({"ids": ids, "new": new}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderError(self._reason()) from None
        found = self._answer()
        others = _busy() - busy - found["computed"]
        whole = (time.perf_counter() - started) * (os.cpu_count() or 1)
        return Answer(found["seconds"], found["tokens"], max(0.0, others / whole))

    def close(self) -> None:
        """End the process."""
        _kill(self._process)
        self._process.wait()

    def _start(self, command: list[str]) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment,
                start_new_session=True,
            )  # fmt: skip

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._within(self._process.stdout.readline)
        if not line:
            self.close()
            raise ContenderError(self._reason())
        return json.loads(line)

    def _within(self, call: Any) -> Any:
        timer = threading.Timer(self._limit, _kill, [self._process])
        timer.start()
        try:
            return call()
        finally:
            timer.cancel()

    def _reason(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if "rror" in line]
        return lines[-1][-300:] if lines else f"it was too slow, or says nothing; see {self._log}"


def _busy() -> float:
    """The seconds that all processors together have computed, for this machine and, of a virtual one, for others."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0))


def _environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    given = dict.fromkeys(names, str(threads)) | {
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1",
        "THP_MEM_ALLOC_ENABLE": "1",  # as llmc.load has it: whoever uses torch has huge pages
    }  # fmt: skip
    return {**os.environ, **given}


def _kill(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
