"""Pools of blocks, and packed steps over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.packed_step import PackedStep
from compiler.ir.paged_layout import PagedLayout
from compiler.ir.step_interface import StepInterface
from runtime.executors.interface import RowCopies
from runtime.executors.memory import check_pools, memory_for, memory_for_pools
from runtime.executors.torch.lowering import Program
from runtime.executors.torch.paged_kernels import PagedAccess
from runtime.executors.torch.step_faults import step_fault

if TYPE_CHECKING:
    from runtime.executors.torch.executor import TorchExecutor


class ProgramExecutor(Protocol):
    """An executor whose steps are a lowered graph."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    @property
    def graph(self) -> Graph:
        """The graph of packed steps."""
        ...

    @property
    def interface(self) -> StepInterface:
        """What the graph takes and gives."""
        ...

    @property
    def program(self) -> Program:
        """The graph as lowered, its inputs in the order of the interface."""
        ...

    def runtime_dtype(self, value: Value) -> torch.dtype:
        """The torch type that holds a value at run time."""
        ...


class ProgramPools:
    """One stage's pools, over which a program runs; see `runtime.executors.paged.PagedStageSession`.

    Attributes:
        pools: the pools, in the order of the interface.
        block: how many tokens a block holds.
        blocks: how many blocks they have.
    """

    def __init__(self, executor: ProgramExecutor, blocks: int) -> None:
        interface = executor.interface
        assert interface.block is not None
        self._executor, self._device = executor, executor.device
        self.block, self.blocks = interface.block, blocks
        self._arguments = interface.arguments
        self._received = [value.name for value in interface.received]
        self._results = [(role, at) for at, role in enumerate(executor.graph.outputs) if role in interface.results]
        unmade = interface.empty_pools(blocks, runtime_dtype=executor.runtime_dtype, device="meta")
        check_pools(blocks, self.block, sum(pool.nbytes for pool in unmade.values()), executor.device)
        with memory_for_pools(blocks, self.block):
            empty = interface.empty_pools(blocks, runtime_dtype=executor.runtime_dtype, device=executor.device)
        self.pools = list(empty.values())

    def buffers(self, step: PackedStep) -> dict[str, Tensor]:
        """See `PagedStageSession.buffers`."""
        executor = self._executor
        return executor.interface.packed_buffers(step, runtime_dtype=executor.runtime_dtype, device=self._device)

    def copy_blocks(self, copies: RowCopies) -> None:
        """See `PagedStageSession.copy_blocks`."""
        with memory_for(f"a copy of {len(copies.sources)} blocks of a pool"):
            PagedLayout.copy_blocks(self.pools, *copies)

    def _run(self, step: Sequence[Tensor], access: object, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the program over the tensors of a step; PluginError, naming the op, if the code of a plug-in fails."""
        program = self._executor.program
        arrived = [received[name] for name in self._received]
        inputs = [step[at].to(self._device) for at in self._arguments]
        try:
            outputs = program.run(*inputs, *self.pools, *arrived, access)
        except Exception as error:
            explained = step_fault(program, error)
            if explained is error:
                raise
            raise explained from error
        return {role: outputs[at] for role, at in self._results}


class TorchPagedSession(ProgramPools):
    """One stage's pools on a `TorchExecutor`."""

    def __init__(self, executor: TorchExecutor, blocks: int) -> None:
        super().__init__(executor, blocks)

    @torch.inference_mode()
    def step(self, step: PackedStep, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `PagedStageSession.step`; PluginError, naming the op, if the code of a plug-in fails."""
        access = PagedAccess(step, self.block, self.blocks, self._device)
        with memory_for(f"a step of {step.tokens} tokens"):
            return self._run(step, access, received)
