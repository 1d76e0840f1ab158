"""Packed steps over paged caches beside padded ones over linear caches, on the CPU: `python benchmarks/paged.py`.

The time of a step, in milliseconds, for an example checkpoint and for the shape of OPT-125m with random weights: of a
prompt alone; of a prompt beside rows that decode one token each; and of sequences that decode one token each, with
blocks that follow each other and with blocks in any order. All are measured by turns in one process, and the best turn
of each counts. Linear caches pad every row of a step to the longest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as llmc.load does; before torch

import torch
from rich.console import Console
from rich.table import Table
from transformers import OPTConfig

import llmc
from compiler.ir.packed_step import PackedStep, SequenceStep
from compiler.ir.paged import DEFAULT_BLOCK
from compiler.ir.step import Step, last_positions
from runtime.executors.interface import Session
from runtime.executors.torch.executor import TorchExecutor

EXAMPLES = Path(__file__).parents[1] / "examples" / "models"
CAPACITY, PROMPT, DECODING, PAST = 1024, 512, 7, 256
Run = Callable[[], object]


def engine(model: str, folder: Path, dtype: str) -> Path:
    """An engine of an example checkpoint, or of the shape of OPT-125m with weights that are noise."""
    noise = model == "opt-125m"
    source = folder / "model" if noise else EXAMPLES / model
    if noise:
        OPTConfig().save_pretrained(source)
    longest = CAPACITY if noise else PROMPT
    options = {"dtype": dtype, "target": "torch", "max_batch": 8, "max_seq": longest, "dummy_weights": noise}
    return llmc.compile(source, folder / "engine", **options).path


def linear(session: Session, counts: list[int], past: list[int]) -> Run:
    """A step of rows that get so many tokens after so many others."""
    new = torch.tensor(counts, dtype=torch.int32)
    ids = torch.ones(len(counts), max(counts), dtype=torch.int32)
    step = Step(ids, torch.tensor(past, dtype=torch.int32), new, last_positions(new))
    return lambda: session.step(step)


def packed(executor: TorchExecutor, counts: list[int], past: list[int], *, shuffled: bool = False) -> Run:
    """The same step packed, in pools of its own, whose blocks follow each other or are in any order."""
    each = -(-max(have + new for have, new in zip(past, counts, strict=True)) // DEFAULT_BLOCK)
    blocks = list(range(each * len(counts)))
    if shuffled:
        random.Random(0).shuffle(blocks)
    session = executor.open_paged(len(blocks))
    step = PackedStep.of(
        [
            SequenceStep(have, [1] * new, blocks[row * each : (row + 1) * each])
            for row, (have, new) in enumerate(zip(past, counts, strict=True))
        ]
    )
    return lambda: session.step(step)


def best_times(runs: dict[str, Run], turns: int) -> dict[str, float]:
    """Milliseconds of each, the best of some turns."""
    best = dict.fromkeys(runs, float("inf"))
    for turn in range(turns + 1):
        for name, run in runs.items():
            repeats = 1 if turn == 0 or best[name] > 20 else 10
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            if turn:  # the first one warms up
                best[name] = min(best[name], (time.perf_counter() - start) / repeats * 1e3)
    return best


def measure(model: str, dtype: str, turns: int) -> dict[str, dict[str, float]]:
    """The times of steps, by what they do and how caches lie."""
    with tempfile.TemporaryDirectory() as name:
        graph = engine(model, Path(name), dtype) / "rank0.ir"
        rows = TorchExecutor.load(graph, device="cpu")
        blocks = TorchExecutor.load(graph, device="cpu", block=DEFAULT_BLOCK)
        capacity = CAPACITY if model == "opt-125m" else PROMPT
        prompt, past = min(PROMPT, capacity), min(PAST, capacity // 2)
        cases = {
            f"a prompt of {prompt}": ([prompt], [0]),
            f"the prompt beside {DECODING} decoding": ([prompt, *[1] * DECODING], [0, *[past] * DECODING]),
            "1 decoding": ([1], [past]),
            "8 decoding": ([1] * 8, [past + 17 * row for row in range(8)]),
        }
        runs: dict[str, Run] = {}
        for case, (counts, have) in cases.items():
            runs[f"{case}|linear"] = linear(rows.open(len(counts), capacity), counts, have)
            runs[f"{case}|paged"] = packed(blocks, counts, have)
            runs[f"{case}|any order"] = packed(blocks, counts, have, shuffled=True)
        times = best_times(runs, turns)
    return {case: {how: times[f"{case}|{how}"] for how in ("linear", "paged", "any order")} for case in cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="how often each is measured")
    parser.add_argument("--models", nargs="*", default=["gptneox-tiny", "mpt-tiny", "opt-125m"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    for model in args.models:
        found = measure(model, args.dtype, args.turns)
        if args.json:
            print(json.dumps({"model": model, "dtype": args.dtype, "milliseconds": found}), flush=True)
            continue
        table = Table("step", "linear", "paged", "in any order", "paged / linear", title=f"{model}, ms")
        for case, times in found.items():
            ratio = times["paged"] / times["linear"]
            table.add_row(case, *(f"{each:.2f}" for each in times.values()), f"{ratio:.2f}")
        Console().print(table)
        alone, beside, *_ = (times["paged"] for times in found.values())
        print(f"packed, the prompt beside {DECODING} decoding rows costs {beside / alone:.2f} x the prompt alone")


if __name__ == "__main__":
    main()
