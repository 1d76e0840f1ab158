"""Pools of blocks on a CPU, and packed steps over them by programs of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from runtime.executors.cpu.access import StepAccess
from runtime.executors.memory import memory_for
from runtime.executors.torch.paged_session import ProgramPools

if TYPE_CHECKING:
    from runtime.executors.cpu.executor import CpuExecutor


class CpuPagedSession(ProgramPools):
    """One stage's pools on a `CpuExecutor`, in their stored types."""

    def __init__(self, executor: CpuExecutor, blocks: int) -> None:
        super().__init__(executor, blocks)
        self._most_blocks = executor.most_blocks

    @torch.inference_mode()
    def step(self, step: PackedStep, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `PagedStageSession.step`; PluginError, naming the op, if the code of a plug-in fails."""
        access = StepAccess(step, self.block, self.blocks, self._most_blocks)
        with memory_for(f"a step of {step.tokens} tokens"):
            return self._run(step, access, received)
