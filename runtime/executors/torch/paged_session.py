"""Pools of blocks, and packed steps over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from compiler.ir.paged_layout import PagedLayout
from runtime.executors.interface import RowCopies
from runtime.executors.memory import memory_for
from runtime.executors.torch.paged_kernels import PagedAccess
from runtime.executors.torch.step_faults import step_fault

if TYPE_CHECKING:
    from runtime.executors.torch.executor import TorchExecutor


class TorchPagedSession:
    """One stage's pools on a `TorchExecutor`; see `runtime.executors.paged.PagedStageSession`.

    Attributes:
        pools: the pools, in the order of the interface.
    """

    def __init__(self, executor: TorchExecutor, blocks: int) -> None:
        self._executor, self._device = executor, executor.device
        interface = executor.interface
        assert interface.block is not None
        self._block, self._blocks, self._arguments = interface.block, blocks, interface.arguments
        self._received = [value.name for value in interface.received]
        self._results = [(role, at) for at, role in enumerate(executor.graph.outputs) if role in interface.results]
        with memory_for(f"pools of {blocks} blocks of {self._block} tokens"):
            empty = interface.empty_pools(blocks, runtime_dtype=executor.runtime_dtype, device=executor.device)
        self.pools = list(empty.values())

    def buffers(self, step: PackedStep) -> dict[str, Tensor]:
        """See `PagedStageSession.buffers`."""
        executor = self._executor
        return executor.interface.packed_buffers(step, runtime_dtype=executor.runtime_dtype, device=self._device)

    @torch.inference_mode()
    def step(self, step: PackedStep, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `PagedStageSession.step`; PluginError, naming the op, if the code of a plug-in fails."""
        access = PagedAccess(step, self._block, self._blocks, self._device)
        inputs = [step[at].to(self._device) for at in self._arguments]
        arrived = [received[name] for name in self._received]
        program = self._executor.program
        try:
            with memory_for(f"a step of {step.tokens} tokens"):
                outputs = program.run(*inputs, *self.pools, *arrived, access)
        except Exception as error:
            explained = step_fault(program, error)
            if explained is error:
                raise
            raise explained from error
        return {role: outputs[at] for role, at in self._results}

    def copy_blocks(self, copies: RowCopies) -> None:
        """See `PagedStageSession.copy_blocks`."""
        with memory_for(f"a copy of {len(copies.sources)} blocks of a pool"):
            PagedLayout.copy_blocks(self.pools, *copies)
