"""What an engine will take on the disk is told before it is written."""

from pathlib import Path

import pytest

import llmc
from llmc.compiling.options import CompileOptions
from tests.paths import MODELS

MODEL = MODELS / "gptneox-tiny"


@pytest.mark.parametrize("passes", ["", "tp=2", "tp=4", "pp=2", "quant=int8,tp=2", "tp=2,embed=vocab,pp=2"])
def test_every_rank_is_counted(tmp_path: Path, passes: str) -> None:
    options = CompileOptions(passes=passes, target="torch", max_seq=32)
    told = llmc.dry_run(MODEL, tmp_path / "engine", options).needed_bytes
    path = llmc.compile(MODEL, tmp_path / "engine", options).path
    weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    rest = sum(file.stat().st_size for file in path.iterdir()) - weights
    assert weights <= told <= 1.05 * weights + 3 * rest + 2**18


@pytest.mark.parametrize("passes", ["", "tp=2"])
def test_every_plan_of_every_rank_is_counted(tmp_path: Path, passes: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    told = llmc.dry_run(MODEL, tmp_path / "e", passes=passes, target="tensorrt-rtx", max_batch=1, max_seq=16)
    path = llmc.compile(MODEL, tmp_path / "e", passes=passes, target="tensorrt-rtx", max_batch=1, max_seq=16).path
    assert sum(file.stat().st_size for file in path.iterdir()) <= told.needed_bytes
    names = {file.name.split(".")[2] for file in path.glob("*.engine")}
    assert set(told.plans["tensorrt-rtx"]) == names
