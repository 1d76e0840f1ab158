"""Pools of blocks on a GPU, and packed steps over them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from compiler.ir.paged_layout import PagedLayout
from compiler.ir.step import LOGITS, StepDim
from runtime.executors.cuda.access import StepAccess
from runtime.executors.cuda.decode_graphs import ChosenTokens, DecodeGraphs
from runtime.executors.cuda.kernels.addresses import Addresses
from runtime.executors.interface import RowCopies
from runtime.executors.memory import memory_for
from runtime.executors.paged import WholePagedSession
from runtime.executors.torch.step_faults import step_fault

if TYPE_CHECKING:
    from runtime.executors.cuda.executor import CudaExecutor


class CudaPagedSession:
    """One stage's pools on a `CudaExecutor`; see `runtime.executors.paged.PagedStageSession`.

    Attributes:
        pools: the pools, in the order of the interface.
        blocks: how many blocks they have.
    """

    def __init__(self, executor: CudaExecutor, blocks: int) -> None:
        self._executor, self._device = executor, executor.device
        interface = executor.interface
        assert interface.block is not None
        self._block, self.blocks, self._arguments = interface.block, blocks, interface.arguments
        self._received = [value.name for value in interface.received]
        self._results = [(role, at) for at, role in enumerate(executor.graph.outputs) if role in interface.results]
        with memory_for(f"pools of {blocks} blocks of {self._block} tokens"):
            empty = interface.empty_pools(blocks, runtime_dtype=executor.runtime_dtype, device=executor.device)
        self.pools = list(empty.values())
        self._graphs: DecodeGraphs | None = None
        if executor.captures:
            most = executor.graph.dims[StepDim.BATCH].max
            self._graphs = DecodeGraphs(self._logits, self._block, executor.most_blocks, most, self._device)

    def buffers(self, step: PackedStep) -> dict[str, Tensor]:
        """See `PagedStageSession.buffers`."""
        executor = self._executor
        return executor.interface.packed_buffers(step, runtime_dtype=executor.runtime_dtype, device=self._device)

    @torch.inference_mode()
    def step(self, step: PackedStep, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `PagedStageSession.step`; PluginError, naming the op, if the code of a plug-in fails."""
        with memory_for(f"a step of {step.tokens} tokens"), self._on_device():
            if self._graphs is not None and self._graphs.takes(step):
                return {LOGITS: self._graphs.step(step)}
            addresses = Addresses.of(step, self._block, self._device)
            on_device = PackedStep(*(field.to(self._device) for field in step))
            return self._run(on_device, StepAccess(addresses, step, self.blocks, self._device), received)

    @torch.inference_mode()
    def step_ahead(self, step: PackedStep) -> ChosenTokens:
        """See `runtime.executors.paged.StepsAhead.step_ahead`; only if the executor captures steps."""
        assert self._graphs is not None
        with memory_for(f"a step of {step.tokens} tokens"), self._on_device():
            return self._graphs.step_ahead(step)

    def copy_blocks(self, copies: RowCopies) -> None:
        """See `PagedStageSession.copy_blocks`."""
        with memory_for(f"a copy of {len(copies.sources)} blocks of a pool"):
            PagedLayout.copy_blocks(self.pools, *copies)

    def _on_device(self) -> AbstractContextManager[object]:
        """Kernels are launched on the current GPU, wherever their tensors are."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _logits(self, step: PackedStep, addresses: Addresses) -> Tensor:
        return self._run(step, StepAccess(addresses, step, self.blocks, self._device), {})[LOGITS]

    def _run(self, step: PackedStep, access: StepAccess, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        program = self._executor.program
        arrived = [received[name] for name in self._received]
        inputs = [step[at] for at in self._arguments]
        try:
            outputs = program.run(*inputs, *self.pools, *arrived, access)
        except Exception as error:
            explained = step_fault(program, error)
            if explained is error:
                raise
            raise explained from error
        return {role: outputs[at] for role, at in self._results}


class FusedSession(WholePagedSession[CudaPagedSession]):
    """A session of a whole model on a GPU."""

    step_tokens = 4096  # a GPU is busy with so many for some 0.1 s


class CapturingSession(FusedSession):
    """A session of a whole model that need not wait for the tokens of a step. See `StepsAhead`."""

    def step_ahead(self, step: PackedStep) -> ChosenTokens:
        """See `StepsAhead.step_ahead`."""
        step.check(self.block, self.blocks)
        return self.stage.step_ahead(step)
