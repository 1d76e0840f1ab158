"""How many threads compute."""

import os
from pathlib import Path

import pytest
import torch

import llmc
from runtime.executors.cpu.executor import usable_threads
from tests.paths import MODELS


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch has three threads, and the process two CPUs."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})


def test_no_more_threads_compute_than_there_are_cpus_and_that_is_said(threads: None, tmp_path: Path) -> None:
    assert usable_threads() == 2
    engine = llmc.compile(MODELS / "opt-tiny", tmp_path / "engine", target="torch", max_batch=1, max_seq=16).path
    notes: list[str] = []
    llmc.load(engine, executor="cpu", note=notes.append)
    assert notes == ["2 of 3 threads compute: this process may use no more CPUs"]
