"""What a step costs beside the model: planning it, its tensors, choosing tokens, texts.

`python benchmarks/scheduler_cost.py [ENGINE]` prints what the host does for 1,024 requests of 128 tokens in and out,
with 256, 512 and 1,024 of them at once, on a GPU that takes no time.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import llmc
from compiler.ir.packed_step import PackedStep
from compiler.ir.step import Step
from runtime.executors.cuda.step_graphs import ChosenTokens, StepGraphs
from runtime.executors.paged import STEP_TOKENS
from runtime.generation.block_steps import BlockSteps
from runtime.generation.engine import Engine
from runtime.generation.groups import GroupMaker
from runtime.generation.in_flight import InFlightBatch
from runtime.generation.row_steps import RowSteps
from runtime.generation.session_steps import SessionSteps


class _Nothing:
    """A linear session that computes nothing."""

    def __init__(self, batch: int, capacity: int, vocabulary: int = 64) -> None:
        self.batch, self.capacity = batch, capacity
        self._logits = torch.zeros(batch, 1, vocabulary)

    def step(self, step: Step, first_row: int = 0) -> torch.Tensor:
        return self._logits[: step.batch]

    def copy_rows(self, sources: Any, destinations: Any) -> None:
        return


class _NothingAhead:
    """A paged session that computes nothing, but takes up steps as a GPU's does, and runs ahead of its tokens."""

    step_tokens = 4096

    def __init__(self, blocks: int, block: int, batch: int, longest: int, vocabulary: int = 64) -> None:
        self.blocks, self.block = blocks, block
        cpu = torch.device("cpu")
        self._graphs = StepGraphs(block, -(-longest // block), batch, self.step_tokens, cpu)
        self._logits = torch.zeros(batch, vocabulary)
        chosen = torch.zeros(batch, 512)
        chosen[:, 300] = 1.0  # a token that has a text
        self._graphs.choose(chosen)

    def step(self, step: PackedStep) -> torch.Tensor:
        step.check(self.block, self.blocks)
        static = self._graphs.takes(step)
        assert static is not None
        static.fill(step)
        return self._logits[: step.wanted]

    def step_ahead(self, step: PackedStep) -> ChosenTokens:
        self.step(step)
        return self._graphs.sent(step.wanted)

    def copy_blocks(self, sources: Any, destinations: Any) -> None:
        return


class _NothingPaged:
    """A paged session that computes nothing."""

    step_tokens = STEP_TOKENS

    def __init__(self, blocks: int, block: int, batch: int, vocabulary: int = 64) -> None:
        self.blocks, self.block = blocks, block
        self._logits = torch.zeros(batch, vocabulary)

    def step(self, step: PackedStep) -> torch.Tensor:
        return self._logits[: step.wanted]

    def copy_blocks(self, sources: Any, destinations: Any) -> None:
        return


def load_cost(engine: Engine, at_once: int, requests: int, length: int = 128) -> dict[str, float]:
    """What the host does for a load of requests of `length` tokens in and out, on a GPU that takes no time.

    Returns:
        Seconds in all; milliseconds a step of so many sequences that decode; and milliseconds a step with prompts.
    """
    block = 64
    blocks = at_once * -(-2 * length // block)
    pools = _NothingAhead(blocks, block, at_once, 2 * length)
    batch = InFlightBatch.over(BlockSteps(pools, sequences=at_once, longest=2 * length))
    manifest = engine.manifest
    maker = GroupMaker(manifest, engine.tokenizer, lambda prompt, number: list(map(int, prompt)), lambda text: None)
    params = llmc.SamplingParams(max_new_tokens=length, ignore_eos=True)
    draw = random.Random(0)
    start = time.perf_counter()
    for number in range(requests):
        prompt = [draw.randrange(3, manifest.vocab_size) for _ in range(length)]
        batch.scheduler.add(maker.make(number, prompt, params))
    while not batch.scheduler.is_idle:
        batch.step()
    timings = batch.timings
    full = timings.decode_tokens / at_once
    return {
        "seconds": round(time.perf_counter() - start, 3),
        "ms_per_step": round(1e3 * timings.decode_seconds / full, 3),
        "ms_per_step_with_prompts": round(1e3 * timings.prefill_seconds / (timings.prefill_tokens / 4096), 3),
    }


def scheduler_cost(engine: Engine, sequences: int = 64, steps: int = 400, *, paged: bool = False) -> dict[str, float]:
    """Microseconds per step of planning alone, and of all that is not the model, for sequences that decode."""
    capacity, block = 2048, 64
    over: SessionSteps = RowSteps(_Nothing(sequences, capacity))
    if paged:
        pools = _NothingPaged(sequences * capacity // block, block, sequences)
        over = BlockSteps(pools, sequences=sequences, longest=capacity)
    batch = InFlightBatch.over(over)
    maker = GroupMaker(engine.manifest, None, lambda prompt, number: list(map(int, prompt)), lambda text: None)
    longest = engine.manifest.limits.max_seq
    params = llmc.SamplingParams(max_new_tokens=longest - 8, ignore_eos=True)
    for number in range(sequences):
        batch.scheduler.add(maker.make(number, [number + 1, 2], params))
    for _ in range(8):
        batch.step()
    planning, everything = [], []
    for _ in range(min(steps, longest - 40)):
        start = time.perf_counter()
        batch.scheduler.plan()
        planned = time.perf_counter()
        batch.step()
        planning.append(planned - start)
        everything.append(time.perf_counter() - planned)
    medians = {"planning": statistics.median(planning), "step": statistics.median(everything)}
    return {name: round(seconds * 1e6, 1) for name, seconds in medians.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = sys.argv[1] if len(sys.argv) > 1 else None
        if path is None:
            model = Path(__file__).parents[1] / "examples" / "models" / "gptneox-tiny"
            path = llmc.compile(model, Path(folder) / "engine", target="torch", max_batch=1024, max_seq=256).path
        engine = llmc.load(path, executor="torch", device="cpu")
        for tokenizer in (None, engine.tokenizer):
            engine.tokenizer = tokenizer
            for at_once in (256, 512, 1024):
                cost = load_cost(engine, at_once, 1024)
                print(f"{at_once} at once, {'with' if tokenizer else 'without'} texts: {cost}")


if __name__ == "__main__":
    main()
