"""Quantized engines of two ranks that are processes, started by `llmc verify`."""

import os
import subprocess
import sys

import pytest

import llmc
from tests.paths import MODELS

pytest.importorskip("mpi4py")


@pytest.mark.parametrize(
    ("model", "passes", "executor"),
    [("opt", "quant=int8:act=token,kv=fp8,tp=2", "torch"), ("gptneox", "quant=smoothquant,kv=int8,tp=2", "emulator")],
)
def test_ranks_compute_what_the_interpreter_does(model, passes, executor, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "engine"
    target = "tensorrt-rtx" if executor == "emulator" else "torch"
    llmc.compile(
        MODELS / f"{model}-tiny", place, passes=passes, dtype="float32", target=target, max_batch=2, max_seq=64,
        calib_samples=2, calib_length=48,
    )  # fmt: skip
    command = [sys.executable, "-m", "llmc", "verify", place, "--executor", executor, "--plans", "default"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI", "PRTE"))}
    done = subprocess.run(
        [*map(str, command), "--max-new-tokens", "6"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "\nholds: " in done.stdout
