"""Real ranks that run something, started by `launch` and by mpirun."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.processes.ranks import start, under_mpirun
from tests.runtime.processes.toy_model import expected

REMOTE_SHELL = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
shift
exec sh -c "$*"
"""


def test_rank_0_prints_and_gets_standard_input() -> None:
    text = "prompts\n" * 20_000
    outcome = start(2, "hello", stdin=text)
    assert outcome.status == 0
    facts = json.loads(outcome.stdout)
    assert facts["counted"] == [0, 1]
    assert facts["stdin"] == text
    assert not facts["terminal"]
    assert "of no interest" in outcome.stderr


def test_ranks_on_two_hosts(tmp_path: Path) -> None:
    """Two hosts of a hostfile that are one machine: a shell in place of ssh runs what is for the other here."""
    shell, hosts = tmp_path / "shell", tmp_path / "hosts"
    shell.write_text(REMOTE_SHELL)
    shell.chmod(0o755)
    hosts.write_text("first-host slots=1\nsecond-host slots=1\n")
    outcome = start(2, "hello", hostfile=str(hosts), PRTE_MCA_plm_ssh_agent=str(shell))
    assert outcome.status == 0, outcome.stderr
    assert json.loads(outcome.stdout)["counted"] == [0, 1]
    killed = start(2, "fail", "kill", "1", hostfile=str(hosts), PRTE_MCA_plm_ssh_agent=str(shell))
    assert killed.status == 2
    assert killed.stderr.count("error: ") == 1
    # Over a network MPI may end rank 0, whose connection broke, before anybody can tell whose fault it is.
    lost = "rank 0 on" in killed.stderr and "lost the connection to another rank" in killed.stderr
    assert "error: rank 1 on" in killed.stderr or lost, killed.stderr


@pytest.mark.parametrize(("ranks", "meshes"), [(2, ["2x1", "1x2"]), (3, ["1x3"]), (4, ["2x2", "4x1"])])
def test_collectives_are_right_and_every_mesh_generates_what_one_rank_does(ranks: int, meshes: list[str]) -> None:
    outcome = start(ranks, "collectives", *meshes)
    assert outcome.status == 0, outcome.stderr
    assert json.loads(outcome.stdout) == [expected()] * len(meshes)


def test_rows_are_copied_on_all_ranks_of_every_mesh() -> None:
    meshes = ["4x1", "1x4", "2x2"]
    outcome = start(4, "copies", *meshes)
    assert outcome.status == 0, outcome.stderr
    assert json.loads(outcome.stdout) == [0.0, 0.0] * len(meshes)


def test_sessions_open_on_all_ranks_or_on_none() -> None:
    outcome = under_mpirun(2, "sessions")
    assert outcome.status == 0, outcome.stderr
    error, *steps, alive = json.loads(outcome.stdout)
    assert error[0].endswith(": no memory")
    assert error[0].startswith("rank 1 on ")
    assert error[1] == "ask for fewer"
    assert len(steps) == 3
    assert steps[0] == steps[1] == steps[2]
    assert alive[1] <= 1, "rank 1 keeps sessions that rank 0 has forgotten"


def test_waiting_for_rank_0_to_have_something_to_do_is_no_failure() -> None:
    outcome = start(2, "quiet", timeout=1.0)
    assert (outcome.status, outcome.stdout) == (0, '"rested"'), outcome.stderr


def test_computing_for_long_is_no_failure() -> None:
    outcome = start(2, "slow", timeout=1.0)
    assert (outcome.status, outcome.stdout) == (0, '"done"'), outcome.stderr


def test_the_ranks_import_no_more_than_they_need() -> None:
    """A rank that fails early should do so at once: torch takes a second and more to import."""
    code = (
        "import sys, runtime.processes.world, runtime.processes.launch; print({'torch', 'mpi4py'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
