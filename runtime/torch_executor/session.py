"""Sequences in progress: caches, and the steps over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.errors import RequestError
from runtime.rank_interface import STEP_INPUTS
from runtime.step import Step
from runtime.torch_executor.kernels import plan_writes
from runtime.torch_executor.step_faults import step_fault

if TYPE_CHECKING:
    from runtime.torch_executor.executor import TorchExecutor

# Caches are shown to the graph up to the longest sequence, rounded up to this, so that views are rarely made anew.
_CAPACITY_STEP = 64


class TorchStageSession:
    """One stage's part of a batch on a `TorchExecutor`; see `runtime.stage.StageSession`.

    Attributes:
        caches: the caches, `[batch, heads, capacity, head_dim]`, in the order of the interface.
    """

    def __init__(self, executor: TorchExecutor, batch: int, capacity: int) -> None:
        self._capacity = capacity
        self._executor, self._run, self._device = executor, executor.program.run, executor.device
        interface = executor.interface
        used = {value.name for value in interface.inputs}
        self._used = [at for at, name in enumerate(STEP_INPUTS) if name in used]
        self._received = [value.name for value in interface.received]
        self._results = [(role, at) for at, role in enumerate(executor.graph.outputs) if role in interface.results]
        sizes = {"B": batch, "C": capacity}
        try:
            self.caches = [
                torch.zeros(value.type.sizes(sizes), dtype=executor.held(value), device=executor.device)
                for value in interface.caches
            ]
        except (torch.OutOfMemoryError, RuntimeError) as error:
            raise RequestError(
                f"there is no memory for the caches of {batch} sequences of {capacity} tokens: {error}",
                hint="ask for fewer sequences at a time, or build the engine with a smaller --max-seq",
            ) from error
        self._shown = (0, 0, 0)
        self._views: list[Tensor] = []

    def buffers(self, rows: int, length: int, positions: int = 1) -> dict[str, Tensor]:
        """See `StageSession.buffers`; `positions` is how many logits a row the step is asked for."""
        sizes = {"B": rows, "S": length, "R": positions}
        return {
            value.name: torch.empty(value.type.sizes(sizes), dtype=self._executor.held(value), device=self._device)
            for value in self._executor.interface.received
        }

    @torch.inference_mode()
    def step(self, rows: slice, step: Step, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `StageSession.step`; PluginError, naming the op, if the code of a plug-in fails."""
        device = self._device
        past, new = step.past_len.tolist(), step.new_len.tolist()
        self._show(rows, max(start + count for start, count in zip(past, new, strict=True)))
        writes = plan_writes(past, new, step.token_ids.shape[1], device)
        inputs = [step[at].to(device) for at in self._used]
        arrived = [received[name] for name in self._received]
        try:
            outputs = self._run(*inputs, *self._views, *arrived, writes)
        except Exception as error:
            explained = step_fault(self._executor.program, error)
            if explained is error:
                raise
            raise explained from error
        return {role: outputs[at] for role, at in self._results}

    def _show(self, rows: slice, length: int) -> None:
        """Show the graph so much of the rows' caches as sequences of `length` tokens need."""
        if length > self._capacity:
            raise RequestError(f"a sequence grew to {length} tokens; the caches hold {self._capacity}")
        shown = (rows.start, rows.stop, min(-(-length // _CAPACITY_STEP) * _CAPACITY_STEP, self._capacity))
        if shown != self._shown:
            self._views = [cache[rows].narrow(2, 0, shown[2]) for cache in self.caches]
            self._shown = shown
