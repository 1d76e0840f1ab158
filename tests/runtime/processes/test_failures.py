"""Real ranks that fail, in every way: all end within seconds, with one message."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.runtime.processes.ranks import MARK, Outcome, processes, start, under_mpirun, wait_until_gone

SECONDS = 20.0


def check(outcome: Outcome, pattern: str, status: int = 2) -> None:
    """One message, that says this."""
    assert outcome.status == status, outcome.stderr
    assert outcome.stdout == ""
    messages = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, outcome.stderr
    assert re.search(pattern, messages[0]), messages
    assert "-----" not in outcome.stderr, "mpirun's own notice is there, too"
    assert outcome.seconds < SECONDS


def test_a_rank_that_raises() -> None:
    outcome = start(3, "fail", "raise", "1")
    check(outcome, r"^error: rank 1 on \S+: the cup is full$")
    assert "hint: drink" in outcome.stderr


def test_a_rank_with_a_bug() -> None:
    check(start(2, "fail", "bug", "1"), r"rank 1 on \S+: .* ZeroDivisionError: no such number \(.*programs.py", 1)


def test_rank_0_reports_its_errors_itself() -> None:
    check(start(2, "fail", "raise", "0"), "^error: the cup is full$")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed(rank: int) -> None:
    check(start(2, "fail", "kill", str(rank)), rf"rank {rank} on \S+ ended by signal 9 \(killed; out of memory\?\)")


def test_a_rank_that_ends_without_a_word() -> None:
    check(start(2, "fail", "exit", "1"), r"rank 1 on \S+ ended without a message")


def test_a_rank_that_hangs() -> None:
    check(
        start(3, "fail", "hang", "1", timeout=2.0),
        r"rank 1 on \S+: it has not answered for \d+ s \(it is in a step\); rank [02] waits for it in barrier",
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped(rank: int) -> None:
    check(start(2, "fail", "freeze", str(rank), timeout=2.0), rf"rank {rank} on \S+: it has not answered for \d+ s")


def test_ranks_that_wait_for_each_other() -> None:
    check(start(2, "cross", timeout=1.0), "all ranks wait for each other: rank 0 in split, rank 1 in agreement")


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_failure_under_the_users_mpirun(how: str) -> None:
    outcome = under_mpirun(2, "fail", how, "1")
    assert outcome.status != 0
    assert outcome.stderr.count("error: ") == (how == "raise")  # mpirun itself tells who was killed
    assert "rank 1" in outcome.stderr


@pytest.mark.parametrize(
    ("contents", "pattern"),
    [
        (["a", "b"], r"rank 1 on \S+ has another engine than rank 0 on \S+: b, not a"),
        (["a", None], r"rank 1 on \S+: .*manifest is missing"),
        (["a", "a", "a"], r"is an engine of 3 ranks \(tp=3, pp=1\), but mpirun started 2"),
    ],
)
def test_ranks_that_do_not_match(contents: list[str | None], pattern: str, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(len(contents))]
    for folder, content in zip(folders, contents, strict=True):
        folder.mkdir()
        if content:
            (folder / "manifest").write_text(content)
    check(start(2, "load", *map(str, folders)), pattern)


@pytest.mark.parametrize("victim", ["launcher", "mpirun"])
def test_nothing_is_left_when_what_started_the_ranks_is_killed(victim: str) -> None:
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "tests.runtime.processes.start", "2", "", "fail", "hang", "1"]
    launcher = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, MARK: mark},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + SECONDS
        while len(processes(mark)) < 4 and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1.5)  # the ranks join
        pid = launcher.pid if victim == "launcher" else child(launcher.pid)
        os.kill(pid, signal.SIGKILL)
        assert not wait_until_gone(mark, SECONDS)
    finally:
        for left in processes(mark):
            os.kill(left, signal.SIGKILL)
        launcher.wait()


def child(pid: int) -> int:
    """The first process that a process started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
