"""What a step costs beside the model: planning it, its tensors, choosing tokens, texts."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

import llmc
from compiler.ir.step import Step
from runtime.generation.engine import Engine
from runtime.generation.groups import GroupMaker
from runtime.generation.in_flight import InFlightBatch


class _Nothing:
    """A session that computes nothing."""

    packs_tokens = False

    def __init__(self, batch: int, capacity: int, vocabulary: int = 64) -> None:
        self.batch, self.capacity = batch, capacity
        self._logits = torch.zeros(batch, 1, vocabulary)

    def step(self, step: Step, first_row: int = 0) -> torch.Tensor:
        return self._logits[: step.batch]

    def copy_rows(self, sources: Any, destinations: Any) -> None:
        return


def scheduler_cost(engine: Engine, sequences: int = 64, steps: int = 400) -> dict[str, float]:
    """Microseconds per step of planning alone, and of all that is not the model, for sequences that decode."""
    batch = InFlightBatch.over(_Nothing(sequences, 2048))
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
