"""Pools of blocks on a GPU, and packed steps over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from compiler.ir.step import LOGITS, StepDim
from runtime.executors.cuda.access import StepAccess
from runtime.executors.cuda.kernels.addresses import Addresses
from runtime.executors.cuda.kernels.preparing import Preparation
from runtime.executors.cuda.step_graphs import ChosenTokens, Due, StepGraphs
from runtime.executors.memory import memory_for
from runtime.executors.paged import WholePagedSession
from runtime.executors.torch.paged_session import ProgramPools

if TYPE_CHECKING:
    from runtime.executors.cuda.executor import CudaExecutor


STEP_TOKENS = 4096
"""How many tokens a step takes at most: a GPU is busy with so many for some 0.1 s."""


class CudaPagedSession(ProgramPools):
    """One stage's pools on a `CudaExecutor`, and the steps that were captured over them."""

    def __init__(self, executor: CudaExecutor, blocks: int) -> None:
        super().__init__(executor, blocks)
        self._preparation = executor.preparation
        self._graphs: StepGraphs | None = None
        if executor.captures:
            sequences = executor.graph.dims[StepDim.BATCH].max
            prompts = executor.captured_prompts
            group = executor.group
            agree = partial(group.broadcast, root=0) if executor.led else None
            self._graphs = StepGraphs(self.block, executor.most_blocks, sequences, prompts, self._device, agree)
            if self._preparation is not None:
                self._rehearse(self._graphs, self._preparation)

    @torch.inference_mode()
    def step(self, step: PackedStep, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `PagedStageSession.step`; PluginError, naming the op, if the code of a plug-in fails."""
        self._prepare()
        with memory_for(f"a step of {step.tokens} tokens"), self._on_device():
            if (logits := self._captured(step)) is not None:
                return {LOGITS: logits}
            addresses = Addresses.of(step, self.block, self._device)
            return self._run(step, StepAccess(addresses, step, self.blocks, self._device), received)

    @torch.inference_mode()
    def step_ahead(self, step: PackedStep) -> ChosenTokens:
        """See `runtime.executors.paged.StepsAhead.step_ahead`; only if the executor captures steps."""
        graphs = self._graphs
        assert graphs is not None
        self._prepare()
        with memory_for(f"a step of {step.tokens} tokens"), self._on_device():
            if self._captured(step) is None:
                addresses = Addresses.of(step, self.block, self._device)
                there = PackedStep(*(field.to(self._device) for field in step))
                graphs.choose(self._logits(graphs.resolved(there), addresses))
            return graphs.sent(step.wanted)

    def due(self, step: PackedStep) -> list[int]:
        """See `runtime.executors.paged.Prepares.due`."""
        due = [] if self._graphs is None else self._graphs.due(step)
        return [number for each in due for number in each.numbers]

    def all_due(self, sequences: int, longest: int) -> list[list[int]]:
        """See `runtime.executors.paged.Prepares.all_due`; only if the executor captures steps."""
        graphs = self._graphs
        assert graphs is not None
        return [graphs.due_of(size).numbers for size in graphs.sizes(sequences, longest)]

    @torch.inference_mode()
    def prepare(self, numbers: Sequence[int]) -> None:
        """See `runtime.executors.paged.Prepares.prepare`; only if the executor captures steps."""
        graphs = self._graphs
        assert graphs is not None
        self._prepare()
        with memory_for("the captured steps"), self._on_device():
            for each in Due.of(numbers):
                graphs.prepare(each, self._logits)

    def _captured(self, step: PackedStep) -> Tensor | None:
        """The logits of a step of a kind that is captured; None of another, which has not run."""
        static = None if self._graphs is None else self._graphs.takes(step)
        if self._graphs is None or static is None:
            return None
        return self._graphs.step(step, static, self._logits)

    @torch.inference_mode()
    def _rehearse(self, graphs: StepGraphs, preparation: Preparation) -> None:
        inputs = [f"{value.type}" for value in self._executor.graph.inputs]
        with self._on_device():
            model = "\n".join([*inputs, self._executor.program.source])
            preparation.rehearse(partial(graphs.rehearse, run=self._logits), model)

    def _prepare(self) -> None:
        if self._preparation is not None:
            self._preparation.wait()

    def _on_device(self) -> AbstractContextManager[object]:
        """Kernels are launched on the current GPU, wherever their tensors are."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _logits(self, step: PackedStep, addresses: Addresses) -> Tensor:
        return self._run(step, StepAccess(addresses, step, self.blocks, self._device), {})[LOGITS]


class FusedSession(WholePagedSession[CudaPagedSession]):
    """A session of a whole model on a GPU."""

    step_tokens = STEP_TOKENS


class CapturingSession(FusedSession):
    """A session of a whole model that need not wait for the tokens of a step.

    See `StepsAhead`, `WarmsUp` and `Prepares`.
    """

    leads = True

    def step(self, step: PackedStep) -> Tensor:
        """See `PagedSession.step`."""
        step.check(self.block, self.blocks)
        self._prepare_for(step)
        return super().step(step)

    def step_ahead(self, step: PackedStep) -> ChosenTokens:
        """See `StepsAhead.step_ahead`."""
        step.check(self.block, self.blocks)
        self._prepare_for(step)
        return self.stage.step_ahead(step)

    def warm_up(self, sequences: int, longest: int, done: Callable[[int, int], None]) -> None:
        """See `WarmsUp`."""
        every = self.all_due(sequences, longest)
        for at, numbers in enumerate(every, 1):
            self.prepare(numbers)
            done(at, len(every))

    def due(self, step: PackedStep) -> list[int]:
        """See `Prepares`."""
        return self.stage.due(step)

    def all_due(self, sequences: int, longest: int) -> list[list[int]]:
        """See `Prepares`."""
        return self.stage.all_due(sequences, longest)

    def prepare(self, numbers: Sequence[int]) -> None:
        """See `Prepares`."""
        self.stage.prepare(numbers)

    def _prepare_for(self, step: PackedStep) -> None:
        if self.leads and (numbers := self.due(step)):
            self.prepare(numbers)
