"""Sequences in progress: caches, and the steps over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.chunks import chunk_length
from compiler.ir.op import Op
from runtime.executors.memory import memory_for
from runtime.executors.rank_interface import STEP_INPUTS
from runtime.executors.step import Step
from runtime.executors.torch.kernels import plan_writes
from runtime.executors.torch.step_faults import step_fault

if TYPE_CHECKING:
    from runtime.executors.torch.executor import TorchExecutor

# Caches are shown to the graph up to the longest sequence, rounded up to this, so that views are rarely made anew.
_CAPACITY_STEP = 64


class TorchStageSession:
    """One stage's part of a batch on a `TorchExecutor`; see `runtime.executors.stage.StageSession`.

    Attributes:
        chunk: how many tokens of a row a step may have at most.
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
        with memory_for(f"the caches of {batch} sequences of {capacity} tokens"):
            self.caches = [
                torch.zeros(value.type.sizes(sizes), dtype=executor.held(value), device=executor.device)
                for value in interface.caches
            ]
        self.chunk = chunk_length(executor.graph, batch, capacity, holds_scores=self._holds_scores)
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
            with memory_for(f"a step of {len(past)} x {step.token_ids.shape[1]} tokens"):
                outputs = self._run(*inputs, *self._views, *arrived, writes)
        except Exception as error:
            explained = step_fault(self._executor.program, error)
            if explained is error:
                raise
            raise explained from error
        return {role: outputs[at] for role, at in self._results}

    def _holds_scores(self, op: Op) -> bool:
        """Whether torch computes an attention by products that are held whole: on a GPU it does so for shared keys."""
        q, k, *_ = (value.type for value in op.operands)
        return self._device.type == "cuda" and q.shape[1] != k.shape[1]

    def _show(self, rows: slice, length: int) -> None:
        """Show the graph so much of the rows' caches as sequences of `length` tokens need."""
        if length > self._capacity:
            raise RequestError(f"a sequence grew to {length} tokens; the caches hold {self._capacity}")
        shown = (rows.start, rows.stop, min(-(-length // _CAPACITY_STEP) * _CAPACITY_STEP, self._capacity))
        if shown != self._shown:
            self._views = [cache[rows].narrow(2, 0, shown[2]) for cache in self.caches]
            self._shown = shown
