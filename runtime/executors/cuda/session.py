"""Pools of blocks on a GPU, and packed steps over them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from compiler.ir.step import LOGITS, StepDim
from runtime.executors.cuda.access import StepAccess
from runtime.executors.cuda.decode_graphs import ChosenTokens, DecodeGraphs
from runtime.executors.cuda.kernels.addresses import Addresses
from runtime.executors.cuda.kernels.preparing import Preparation
from runtime.executors.memory import memory_for
from runtime.executors.paged import WholePagedSession
from runtime.executors.torch.paged_session import ProgramPools

if TYPE_CHECKING:
    from runtime.executors.cuda.executor import CudaExecutor


class CudaPagedSession(ProgramPools):
    """One stage's pools on a `CudaExecutor`, and the decode steps that were captured over them."""

    def __init__(self, executor: CudaExecutor, blocks: int) -> None:
        super().__init__(executor, blocks)
        self._preparation = executor.preparation
        self._graphs: DecodeGraphs | None = None
        if executor.captures:
            most = executor.graph.dims[StepDim.BATCH].max
            self._graphs = DecodeGraphs(self._logits, self.block, executor.most_blocks, most, self._device)
            if self._preparation is not None:
                self._rehearse(self._graphs, self._preparation)

    @torch.inference_mode()
    def step(self, step: PackedStep, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `PagedStageSession.step`; PluginError, naming the op, if the code of a plug-in fails."""
        self._prepare()
        with memory_for(f"a step of {step.tokens} tokens"), self._on_device():
            if self._graphs is not None and self._graphs.takes(step):
                return {LOGITS: self._graphs.step(step)}
            addresses = Addresses.of(step, self.block, self._device)
            return self._run(step, StepAccess(addresses, step, self.blocks, self._device), received)

    @torch.inference_mode()
    def step_ahead(self, step: PackedStep) -> ChosenTokens:
        """See `runtime.executors.paged.StepsAhead.step_ahead`; only if the executor captures steps."""
        assert self._graphs is not None
        self._prepare()
        with memory_for(f"a step of {step.tokens} tokens"), self._on_device():
            return self._graphs.step_ahead(step)

    @torch.inference_mode()
    def _rehearse(self, graphs: DecodeGraphs, preparation: Preparation) -> None:
        inputs = [f"{value.type}" for value in self._executor.graph.inputs]
        with self._on_device():
            preparation.rehearse(graphs.rehearse, "\n".join([*inputs, self._executor.program.source]))

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

    step_tokens = 4096  # a GPU is busy with so many for some 0.1 s


class CapturingSession(FusedSession):
    """A session of a whole model that need not wait for the tokens of a step. See `StepsAhead`."""

    def step_ahead(self, step: PackedStep) -> ChosenTokens:
        """See `StepsAhead.step_ahead`."""
        step.check(self.block, self.blocks)
        return self.stage.step_ahead(step)
