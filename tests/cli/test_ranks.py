"""`llmc run` of engines of several ranks: real processes, started by llmc or by the user's mpirun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import llmc
from runtime.processes.launch import mpirun_path
from runtime.processes.notices import started_nothing
from tests.paths import MODELS

pytest.importorskip("mpi4py")
PROMPTS = ["The function returns", "Once upon a time there was a", "A", "On the next day"]
RUN = ("--json", "--max-new-tokens", "12", "--ignore-eos", *(part for text in PROMPTS for part in ("--prompt", text)))


def run(
    *arguments: object, program: tuple[str, ...] = (sys.executable, "-m", "llmc")
) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI", "PRTE"))}
    for _ in range(3):
        result = subprocess.run(
            [*program, *map(str, arguments)], capture_output=True, text=True, timeout=180, env=environment, check=False
        )
        if not started_nothing([result.stderr]):
            break
    return result


def texts(result: subprocess.CompletedProcess[str]) -> list[list[int]]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line)["token_ids"] for line in result.stdout.splitlines()]


def compiled(model: str, passes: str, place: Path, target: str = "torch") -> Path:
    return llmc.compile(MODELS / f"{model}-tiny", place, passes=passes, dtype="float32", target=target, max_seq=64).path


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, list[list[int]]]:
    """What one rank writes, by model."""
    found = {}
    for model in ("gptneox", "mpt", "opt", "gptj"):
        engine = llmc.load(compiled(model, "", tmp_path_factory.mktemp("one") / "engine"))
        found[model] = [c.token_ids for c in engine.generate(PROMPTS, max_new_tokens=12, ignore_eos=True)]
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--executor", "jax"), "rank 1 on {host}: there is no executor 'jax'"),
        (("--device", "cpu", "--threads", "0"), "rank 1 on {host}: the number of threads is 0"),
        (("--device", "cuda:1"), "rank 1 on {host}: cuda:1 is one device for 2 ranks"),
        (
            ("--device", "cpu", "--executor", "interpreter"),
            "rank 1 on {host} has another executor than rank 0 on {host}: interpreter, not cpu",
        ),
    ],
    ids=["unknown", "threads", "device", "executor"],
)
def test_ranks_that_cannot_run_alike_end_at_once(options, message, tmp_path) -> None:
    engine = compiled("gptneox", "tp=2", tmp_path / "engine")
    mpirun = (str(mpirun_path()), *(("--allow-run-as-root",) if os.geteuid() == 0 else ()), "--oversubscribe")
    one = (sys.executable, "-m", "llmc", "run", str(engine), *RUN)
    result = run("-n", "1", *one, "--device", "cpu", ":", "-n", "1", *one, *options, program=mpirun)
    assert result.returncode == 2
    assert f"error: {message.format(host=socket.gethostname())}" in result.stderr


@pytest.mark.parametrize(
    ("model", "passes"), [("gptneox", "tp=2"), ("mpt", "pp=3"), ("opt", "tp=2,embed=vocab,pp=2"), ("gptj", "tp=4")]
)
def test_llmc_starts_the_ranks(model, passes, expected, tmp_path) -> None:
    engine = compiled(model, passes, tmp_path / "engine")
    assert texts(run("run", engine, *RUN, "--device", "cpu")) == expected[model]


# Options, and the same in Python: draws, which depend on the seed alone; beams, whose rows change places.
DRAWN = ("--temperature", "0.9", "--top-k", "40", "--seed", "5", "--n", "2")
BEAMS = ("--beams", "3", "--num-return-sequences", "2")
WISHES = [
    (DRAWN, {"temperature": 0.9, "top_k": 40, "seed": 5, "n": 2}),
    (BEAMS, {"num_beams": 3, "num_return_sequences": 2}),
]


@pytest.mark.parametrize(("options", "wish"), WISHES, ids=["drawn", "beams"])
@pytest.mark.parametrize(
    ("model", "passes", "target", "executor"),
    [
        ("gptneox", "tp=2", "torch", "torch"),
        ("opt", "pp=2", "torch", "torch"),
        ("gptj", "tp=2,cache=paged:block=4", "torch", "torch"),
        ("opt", "cache=paged:block=4,pp=2", "torch", "torch"),
        ("mpt", "tp=2", "tensorrt-rtx:batch_sizes=1+8:prompt_sizes=16:capacities=64", "emulator"),
    ],
)
def test_requests_with_parameters_get_the_same_on_ranks(
    model: str,
    passes: str,
    target: str,
    executor: str,
    options: tuple[str, ...],
    wish: dict[str, object],
    tmp_path: Path,
) -> None:
    if target != "torch":
        pytest.importorskip("tensorrt_rtx")
    one = llmc.load(compiled(model, "", tmp_path / "one"), executor="torch", device="cpu")
    alone = [c.token_ids for c in one.generate(PROMPTS[:2], wish, max_new_tokens=8)]
    engine = compiled(model, passes, tmp_path / "ranks", target)
    given = [part for text in PROMPTS[:2] for part in ("--prompt", text)]
    how = ["--json", "--max-new-tokens", "8", "--executor", executor, "--device", "cpu"]
    how += ["--cache-tokens", "48"] if "paged" in passes else []  # so few that requests make room for each other
    assert texts(run("run", engine, *how, *given, *options)) == alone


@pytest.mark.parametrize(("model", "passes"), [("mpt", "tp=2"), ("gptj", "tp=2,pp=2")])
def test_emulated_tensorrt_engines_on_ranks(model, passes, expected, tmp_path) -> None:
    engine = compiled(model, passes, tmp_path / "engine", "tensorrt-rtx")
    assert texts(run("run", engine, *RUN, "--executor", "emulator")) == expected[model]


def mpirun(count: int) -> tuple[str, ...]:
    root = ("--allow-run-as-root",) if os.geteuid() == 0 else ()
    return (str(mpirun_path()), "-n", str(count), "--oversubscribe", *root, sys.executable, "-m", "llmc")


def test_the_users_own_mpirun(expected, tmp_path) -> None:
    engine = compiled("gptneox", "tp=2,embed=hidden", tmp_path / "engine")
    assert texts(run("run", engine, *RUN, "--device", "cpu", program=mpirun(2))) == expected["gptneox"]
    wrong = run("run", engine, *RUN, program=mpirun(3))
    assert wrong.returncode != 0
    assert wrong.stderr.count("is an engine of 2 ranks (tp=2, pp=1), but mpirun started 3") == 1
    alone = compiled("gptneox", "", tmp_path / "alone")
    assert (
        "is an engine of 1 rank (tp=1, pp=1), but mpirun started 2" in run("run", alone, *RUN, program=mpirun(2)).stderr
    )


def test_prompts_come_through_standard_input(tmp_path) -> None:
    engine = compiled("gptneox", "tp=2", tmp_path / "engine")
    command = [sys.executable, "-m", "llmc", "run", str(engine), "--prompt-file", "-", "--max-new-tokens", "3"]
    result = subprocess.run(command, input="A\nB\n", capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert "--- 2 of 2 ---" in result.stdout


def test_a_missing_file_of_a_rank_is_one_message(tmp_path) -> None:
    engine = compiled("gptneox", "tp=2", tmp_path / "engine")
    (engine / "rank1.safetensors").unlink()
    result = run("run", engine, *RUN)
    assert result.returncode == 2
    assert result.stderr.count("rank1.safetensors is missing") == 1


def test_an_error_of_a_request_is_said_once(tmp_path) -> None:
    engine = compiled("gptneox", "tp=2", tmp_path / "engine")
    result = run("run", engine, "--prompt-ids", "999999")
    assert result.returncode == 2
    assert result.stderr.count("error:") == 1


def test_in_one_process_the_mend_is_named(tmp_path) -> None:
    engine = compiled("gptneox", "tp=2", tmp_path / "engine")
    with pytest.raises(llmc.LlmcError, match=r"is an engine of 2 ranks \(tp=2, pp=1\)"):
        llmc.load(engine)
