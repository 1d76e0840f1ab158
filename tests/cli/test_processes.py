"""What only whole processes show: signals, pipes, exit statuses, how soon help appears."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llmc as api
from runtime.engine_dir.engine_folder import open_engine
from tests.paths import MODELS, ROOT

# Compiles as the command does, and waits where the test says: at a stage of work, or before the last rename.
COMPILE_AND_WAIT = """
import sys, time
import llmc.cli.entry, llmc.compiling.driver, runtime.engine_dir.atomic_folder

model, place, point = sys.argv[1:]

def wait(*_):
    print("ready", flush=True)
    time.sleep(60)

def progress(self, stage, done, total):
    if stage == point and (total == 0 or done):
        wait()

llmc.cli.console.Console.__call__ = progress
if point == "publish":
    runtime.engine_dir.atomic_folder.sync_tree = wait
llmc.cli.entry.main(["compile", model, "-o", place])
"""
POINTS = ["lift", "tokenizer", "weights", "source digest", "engine digest", "publish"]


def llmc(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmc", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, **options)


def signalled(place: Path, point: str, number: int) -> subprocess.Popen[str]:
    """A compilation that got a signal at that point, and ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILE_AND_WAIT, MODELS / "gptneox-tiny", place, point],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores interruptions, and so does what that starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.wait(30)
    return process


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_no_engine_and_the_next_compilation_no_trace_of_it(tmp_path: Path, point: str) -> None:
    process = signalled(tmp_path / "engine", point, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    left = os.listdir(tmp_path)
    assert all(name.startswith(".engine.partial-") for name in left)
    assert len(left) == (point != "lift")
    api.compile(MODELS / "gptneox-tiny", tmp_path / "engine")
    assert os.listdir(tmp_path) == ["engine"]
    open_engine(tmp_path / "engine")


def test_a_kill_leaves_the_old_engine_as_it_was(tmp_path: Path) -> None:
    before = api.compile(MODELS / "opt-tiny", tmp_path / "engine").manifest
    signalled(tmp_path / "engine", "publish", signal.SIGKILL)
    assert open_engine(tmp_path / "engine").manifest == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing(tmp_path: Path, number: int, status: int) -> None:
    process = signalled(tmp_path / "engine", "engine digest", number)
    assert process.returncode == status
    assert os.listdir(tmp_path) == []
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_an_error_is_one_message_and_status_2() -> None:
    result = llmc("run", "missing", "--prompt", "a")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "error: there is no engine at missing",
        "hint: compile one first: llmc compile MODEL -o DIR",
    ]


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m llmc inspect {MODELS / 'gptneox-tiny'} --json | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() in ("0", "141")
    assert result.stderr == ""


def test_prompts_that_are_no_unicode(engine: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "llmc", "run", engine, "--prompt", b"caf\xe9"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert b"is not valid Unicode" in result.stderr
    assert b"Traceback" not in result.stderr


def test_standard_output_is_json_in_any_locale(engine: Path) -> None:
    arguments = ("run", engine, "--prompt", "naïve 日本", "--max-new-tokens", 2, "--json")
    result = llmc(*arguments, env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["prompt"] == "naïve 日本"


def test_help_and_version_need_nothing_heavy() -> None:
    code = (
        "import sys, llmc; import llmc.cli.entry\n"
        "heavy = {'torch', 'transformers', 'numpy', 'networkx', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
    assert llmc("--version").stdout == f"llmc {api.__version__}\n"
    text = llmc("--help").stdout
    for command in ("compile", "run", "inspect", "passes", "opt", "diff"):
        assert f"\n  {command} " in text
        assert "llmc " + command in llmc(command, "--help").stdout


def test_every_name_of_the_library_is_there() -> None:
    for name in api.__all__:
        assert getattr(api, name) is not None
    with pytest.raises(AttributeError):
        _ = api.nonsense
