"""Kernels compiled side by side, and launches measured, before the first step."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import triton

from compiler.cache import cache_folder
from runtime.executors.cuda.kernels import launches, measuring, preparing
from runtime.executors.cuda.kernels.measuring import best_guesses
from runtime.executors.cuda.kernels.precompile import Compilation, Recorded
from runtime.executors.cuda.kernels.preparing import Preparation, jobs_of, rows_to_prepare, unknown_cases
from runtime.executors.cuda.kernels.products import Use
from runtime.executors.cuda.kernels.tuning import BUCKETS, Config, Tuning
from tests.runtime.executors.cuda import rehearsed
from tests.runtime.executors.cuda.products import WIDE, Case, build

HOPPER = (9, 0)
ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(launches, "_INTERPRETED", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def product(case, device, use=None):
    """The product of a case; launches follow from rules."""
    made = build(case, device).product
    made.table = Tuning(None, 132, 232448)
    made.use = use or Use()
    return made


def test_kernels_are_prepared_for_all_rows_of_a_step(device):
    quantized, dense = product(Case("int8"), device), product(Case("dense"), device)
    assert rows_to_prepare(quantized, 1) == [1]
    assert rows_to_prepare(quantized, 100) == [1, 8, 16, 32, 64, 128]
    assert rows_to_prepare(quantized, 9999) == list(BUCKETS)
    assert rows_to_prepare(dense, 9999) == [1, 8, 16, 32, 64]
    kernels = [job.kernel for job in jobs_of([quantized, dense, quantized], 128)]
    assert set(kernels) >= {"skinny", "wide", "arranged"}
    assert len({json.dumps(job) for job in jobs_of([quantized, dense], 128)}) == len(kernels)


def test_products_are_prepared_as_they_are_called(device):
    partial = jobs_of([product(Case("int8"), device, Use(partial=True))], 8)
    assert {job.arguments[8] for job in partial if job.kernel == "skinny"} == {"float32"}
    rounded = jobs_of([product(Case("int8"), device, Use(rounded=True))], 512)
    assert {job.constants["ROUNDED"] for job in rounded if job.kernel == "skinny"} == {True}
    assert {job.arguments[0] for job in rounded if job.kernel == "skinny"} == {"int8"}


def test_large_products_that_nothing_is_known_of_are_measured(device, monkeypatch):
    made = product(Case("int8"), device)
    assert not unknown_cases([made], 64)
    monkeypatch.setattr(preparing, "_SMALL", 1)
    cases = unknown_cases([made, made], 64)
    assert [case.rows for case in cases] == [1, 8, 16, 32, 64]
    made.table.keep(made.case(8), WIDE)
    assert [case.rows for case in unknown_cases([made], 64)] == [1, 64]


def test_one_process_compiles_what_several_need(device, capsys):
    made = product(Case("int8", config=WIDE), device)
    compiled = []
    for _ in range(2):
        preparation = Preparation(1, HOPPER, alone=False)
        preparation.begin([made])
        (thread,) = preparation._threads
        thread.join()
        preparation.wait()
        preparation.wait()
        compiled.append([(each.kernels, each.late) for each in preparation._compilations])
    assert compiled == [[(1, 0)], []]
    (note,) = cache_folder().iterdir()
    assert note.read_text() == triton.knobs.cache.dir
    assert capsys.readouterr().err == ""


def test_a_wait_is_said_and_comes_to_an_end(device, monkeypatch, capsys):
    monkeypatch.setattr(preparing, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(preparing, "_COMPILE_SECONDS", 0.1)
    preparation = Preparation(1, HOPPER, alone=False)
    start = time.monotonic()
    preparation.begin([product(Case("int8"), device)])
    preparation.wait()
    assert time.monotonic() - start < 30
    assert "compiling 1 kernels for this GPU" in capsys.readouterr().err
    (note,) = cache_folder().iterdir()
    assert note.read_text() == ""


def test_no_cache_folder_fails_no_load(device, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    preparation = Preparation(1, HOPPER, alone=False)
    preparation.begin([product(Case("int8"), device)])
    preparation.wait()
    assert not preparation._compilations


def test_kernels_that_cannot_be_listed_fail_no_load(device, monkeypatch):
    made = product(Case("int8"), device)

    def failing(rows):
        raise RuntimeError("no such type")

    monkeypatch.setattr(made, "examples", failing)
    preparation = Preparation(1, HOPPER, alone=False)
    preparation.begin([made])
    preparation.wait()


def test_processes_that_are_stopped_are_late(device):
    compilation = Compilation(jobs_of([product(Case("int8"), device)], 1), HOPPER)
    compilation.stop()
    assert compilation.late == 1


def test_measuring_can_be_left_out_and_its_failure_is_a_warning(device, monkeypatch, capsys):
    monkeypatch.setattr(preparing, "_SMALL", 1)
    monkeypatch.setattr(preparing, "jobs_of", lambda products, most: [])
    asked = []

    def tune(needs, seconds, most, report):
        asked.append((len(needs), seconds))
        report(len(needs), len(needs))
        raise RuntimeError("no memory")

    monkeypatch.setattr(preparing, "tune", tune)
    made = product(Case("int8"), device)
    with pytest.warns(UserWarning, match="could not be measured: RuntimeError: no memory"):
        Preparation(8, HOPPER, alone=True).begin([made])
    assert asked == [(2, preparing._SECONDS_OF_SHAPE)]
    assert "2 of 2 products measured" in capsys.readouterr().err
    monkeypatch.setenv("LLMC_TUNE", "0")
    Preparation(8, HOPPER, alone=True).begin([made])
    assert len(asked) == 1


def test_what_steps_call_is_recorded_and_compiled(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", rehearsed.__name__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels, failed = done.stdout.strip().split("\n")
    assert {"_add_norm", "decode", "skinny"} <= set(kernels.split())
    assert failed == "[]"


def test_steps_are_rehearsed_once_and_their_failure_is_no_error(device, monkeypatch):
    compiled: list[object] = []
    sizes: list[object] = []

    @contextmanager
    def recording():
        yield [Recorded("a", "decode", ""), Recorded("b", "skinny", "")]

    monkeypatch.setattr(preparing, "recording", recording)
    monkeypatch.setattr(Preparation, "_compile", lambda self, jobs, key: compiled.append((jobs, key)))
    for alone in (False, True):
        Preparation(20, HOPPER, alone=alone).rehearse(sizes.append, "model")
    assert sizes == [[1, 8, 16, 20]]
    assert compiled == [([Recorded("a", "decode", "")], "model")]

    def failing(sizes):
        raise RuntimeError("out of memory")

    Preparation(20, HOPPER, alone=True).rehearse(failing, "model")
    monkeypatch.setattr(preparing, "_is_noted", lambda note: True)
    Preparation(20, HOPPER, alone=True).rehearse(sizes.append, "model")
    assert len(compiled) == len(sizes) == 1


def test_few_candidates_are_of_different_tiles():
    tiles = [Config("dot", bn, 128, 4, 4, 1) for bn in (32, 64, 128)]
    configs = [tile._replace(split=split) for tile in tiles for split in (2, 4)]
    assert best_guesses(configs, 4) == [*(tile._replace(split=2) for tile in tiles), tiles[0]._replace(split=4)]


def test_measuring_keeps_the_fastest_and_is_not_repeated(device, monkeypatch):
    made = product(Case("int8"), device)
    case = made.case(8)
    slow = made.launch(8)
    monkeypatch.setattr(measuring, "precompile", lambda jobs, capability, seconds: f"{len(jobs)} kernels")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: HOPPER)
    times = iter(range(99, 0, -1))
    monkeypatch.setattr(measuring.Bench, "microseconds", lambda bench, launch: next(times))
    notes = measuring.tune({case: (made, 8)}, 60, 3)
    assert notes[0].endswith("kernels") and len(notes) == 1
    assert list(made.table.known) == [case.key]
    assert made.launch(8) == launches.fit(made.table.known[case.key], made.weight, 8) != slow
    other = made.case(1)

    def failing(bench, launch):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(measuring.Bench, "microseconds", failing)
    assert measuring.tune({other: (made, 1)}, 60, 3) and made.table.is_known(other)
