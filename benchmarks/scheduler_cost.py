"""What a step costs beside the model: planning it, its tensors, choosing tokens, texts."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

import llmc
from compiler.ir.packed_step import PackedStep
from compiler.ir.step import Step
from runtime.executors.paged import STEP_TOKENS
from runtime.generation.engine import Engine
from runtime.generation.groups import GroupMaker
from runtime.generation.in_flight import InFlightBatch
from runtime.generation.session_steps import BlockSteps, RowSteps, SessionSteps


class _Nothing:
    """A linear session that computes nothing."""

    def __init__(self, batch: int, capacity: int, vocabulary: int = 64) -> None:
        self.batch, self.capacity = batch, capacity
        self._logits = torch.zeros(batch, 1, vocabulary)

    def step(self, step: Step, first_row: int = 0) -> torch.Tensor:
        return self._logits[: step.batch]

    def copy_rows(self, sources: Any, destinations: Any) -> None:
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
