"""Progress on standard error."""

import os
import pty
import re
import subprocess
import sys

import pytest

from llmc.cli.console import Console, time_left
from llmc.progress import Phase, Phases
from tests.paths import MODELS


@pytest.fixture
def console(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Console(quiet=False) as shown:
        yield shown


def test_work_that_begins_again_is_not_finished(console):
    """Each pass that calibrates counts from 0; the time left is that of the last one."""
    for done in range(4):
        console("calibrate", done, 3)
    [task] = console.bars.tasks
    assert task.finished
    console("calibrate", 0, 5)
    assert (task.completed, task.total, task.finished, task.time_remaining) == (0, 5, False, None)
    console("calibrate", 1, 5)
    console("calibrate", 2, 5)
    assert not task.finished
    assert task.time_remaining is not None


def test_a_bar_says_what_is_in_work_until_all_is_done(console):
    with Phases(console).phase("rewrite"):
        for done, name in enumerate(["quant=awq", "cleanup"]):
            console(Phase("rewrite", name), done, 2)
            [task] = console.bars.tasks
            assert (task.description, task.completed) == (f"rewriting the graph: {name}", done)
            assert not task.finished
        console("rewrite", 2, 2)
    assert (task.description, task.finished) == ("rewriting the graph", True)


def test_without_bars_each_pass_has_a_line(capsys):
    with Console(quiet=False) as shown:
        for phase in ("lift", Phase("rewrite", "quant=awq"), Phase("rewrite", "cleanup"), Phase("verify", "a plan")):
            shown(phase, 0, 2)
            shown(phase, 2, 2)
    assert capsys.readouterr().err.splitlines() == [
        "reading config and headers ...",
        "rewriting the graph: quant=awq ...",
        "rewriting the graph: cleanup ...",
        "verifying the engine ...",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0.4, "0:00:00 left"), (65.2, "0:01:05 left"), (36000, "10:00:00 left")]
)
def test_the_time_left_is_said_once_it_is_known(seconds, text):
    assert time_left(seconds) == text


@pytest.mark.parametrize(("options", "shown"), [((), True), (("--json",), False), (("--quiet",), False)])
def test_calibration_shows_how_far_it_is_on_a_terminal(tmp_path, options, shown):
    ours, theirs = pty.openpty()
    given = ("compile", MODELS / "opt-tiny", "-o", tmp_path / "e", "--passes", "quant=fp8", "--calib-samples", 2)
    command = [sys.executable, "-m", "llmc", *map(str, given), "--calib-length", "32", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        found += piece
    os.close(ours)
    assert process.wait() == 0, found
    assert bool(re.search(rb"calibrating.*100%", found)) is (b"calibrating" in found) is shown
    assert bool(re.search(rb"rewriting the graph .*100%", found)) is shown
    assert (b"rewriting the graph: quant=fp8" in found) is shown
