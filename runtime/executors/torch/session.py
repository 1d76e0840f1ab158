"""Sequences in progress: caches, and the steps over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.chunks import chunk_length
from compiler.ir.op import Op
from compiler.ir.step import Step
from runtime.executors.interface import RowCopies
from runtime.executors.memory import memory_for
from runtime.executors.torch.step_faults import step_fault

if TYPE_CHECKING:
    from runtime.executors.torch.executor import TorchExecutor

# Caches are shown to the graph up to the longest sequence, rounded up to this, so that views are rarely made anew.
_CAPACITY_STEP = 64
# Views for so many choices of rows and lengths are kept.
_MOST_VIEWS = 128


class TorchStageSession:
    """One stage's part of a batch on a `TorchExecutor`; see `runtime.executors.interface.StageSession`.

    Attributes:
        chunk: how many tokens of a row a step may have at most.
        caches: the caches, in the order of the interface.
    """

    def __init__(self, executor: TorchExecutor, batch: int, capacity: int) -> None:
        self._capacity = capacity
        self._executor, self._run, self._device = executor, executor.program.run, executor.device
        interface = executor.interface
        self._layout, self._arguments = LINEAR, interface.arguments
        self._received = [value.name for value in interface.received]
        self._results = [(role, at) for at, role in enumerate(executor.graph.outputs) if role in interface.results]
        with memory_for(f"the caches of {batch} sequences of {capacity} tokens"):
            empty = interface.empty_caches(
                batch, capacity, runtime_dtype=executor.runtime_dtype, device=executor.device
            )
        self.caches = list(empty.values())
        self.chunk = chunk_length(executor.graph, batch, capacity, holds_scores=self._holds_scores)
        self._most_shown = 0
        self._views: dict[tuple[int, int, int], list[Tensor]] = {}

    def buffers(self, rows: int, length: int, positions: int = 1) -> dict[str, Tensor]:
        """See `StageSession.buffers`; `positions` is how many logits the step is asked for per row."""
        return self._executor.interface.buffers(
            rows, length, positions, runtime_dtype=self._executor.runtime_dtype, device=self._device
        )

    @torch.inference_mode()
    def step(self, rows: slice, step: Step, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `StageSession.step`; PluginError, naming the op, if the code of a plug-in fails."""
        device = self._device
        past, new = step.past_len.tolist(), step.new_len.tolist()
        views = self._shown(rows, max(start + count for start, count in zip(past, new, strict=True)))
        writes = self._layout.appends(past, new, step.length, device)
        inputs = [step[at].to(device) for at in self._arguments]
        arrived = [received[name] for name in self._received]
        try:
            with memory_for(f"a step of {len(past)} x {step.length} tokens"):
                outputs = self._run(*inputs, *views, *arrived, writes)
        except Exception as error:
            explained = step_fault(self._executor.program, error)
            if explained is error:
                raise
            raise explained from error
        return {role: outputs[at] for role, at in self._results}

    def copy_rows(self, copies: RowCopies) -> None:
        """See `StageSession.copy_rows`: of each row so much is copied as has ever been written to in any."""
        copies.apply(self._layout, self.caches, self._most_shown)

    def _holds_scores(self, op: Op) -> bool:
        """Whether torch computes an attention by products that are held whole: on a GPU it does so for shared keys."""
        q, k, *_ = (value.type for value in op.operands)
        return self._device.type == "cuda" and q.shape[LINEAR.HEAD] != k.shape[LINEAR.HEAD]

    def _shown(self, rows: slice, length: int) -> list[Tensor]:
        """So much of the rows' caches as the graph needs for sequences of `length` tokens."""
        if length > self._capacity:
            raise RequestError(f"a sequence grew to {length} tokens; the caches hold {self._capacity}")
        shown = (rows.start, rows.stop, min(-(-length // _CAPACITY_STEP) * _CAPACITY_STEP, self._capacity))
        views = self._views.get(shown)
        if views is None:
            if len(self._views) == _MOST_VIEWS:
                self._views.clear()
            views = self._views[shown] = [self._layout.view(cache, rows, shown[2]) for cache in self.caches]
            self._most_shown = max(self._most_shown, shown[2])
        return views
