"""Requests in flight on real ranks: they come at random times, and each gets what it gets alone on one."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import llmc
from runtime.processes.launch import mpirun_path
from tests.paths import MODELS
from tests.runtime.generation.random_load import LONGEST, ROWS, check, expected
from tests.runtime.processes.ranks import run

pytest.importorskip("mpi4py")
PLANS = "tensorrt-rtx:batch_sizes=1+4:prompt_sizes=16:capacities=64"


@pytest.mark.parametrize(
    ("passes", "target", "executor"), [("pp=2", "torch", "torch"), ("pp=2", PLANS, "emulator")], ids=["torch", "plans"]
)
def test_requests_in_flight_get_what_they_get_alone_on_one_rank(
    passes: str, target: str, executor: str, tmp_path: Path
) -> None:
    if target != "torch":
        pytest.importorskip("tensorrt_rtx")
    options: Any = {"dtype": "float32", "max_batch": ROWS, "max_seq": LONGEST}
    one = llmc.compile(MODELS / "gptj-tiny", tmp_path / "one", target="torch", **options).path
    ranks = llmc.compile(MODELS / "gptj-tiny", tmp_path / "ranks", target=target, passes=passes, **options).path
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    program = [sys.executable, "-m", "tests.runtime.processes.in_flight", str(ranks), executor]
    outcome = run([str(mpirun_path()), "-n", "2", "--oversubscribe", *root, *program], timeout=60)
    assert outcome.status == 0, outcome.stderr
    check(json.loads(outcome.stdout), expected(llmc.load(one, executor="torch", device="cpu")))
