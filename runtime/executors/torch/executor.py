"""Loading a rank's graph and weights, and running its steps."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

import runtime.executors.torch.rules  # noqa: F401 - registers the rules
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.paged import paged
from compiler.ir.step import StepDim
from compiler.ir.step_interface import StepInterface
from compiler.store.constant_loader import constant_loader
from runtime.collectives.communicator import Communicator, SingleRank
from runtime.executors.interface import Session, WholeSession
from runtime.executors.memory import BlockMemory, memory_for_weights
from runtime.executors.paged import PagedRows, WholePagedSession, blocks_of_rows
from runtime.executors.rank_checks import (
    check_blocks,
    check_group,
    check_linear,
    check_size,
    check_weights,
    check_whole,
)
from runtime.executors.torch.device import find_device
from runtime.executors.torch.linear import Linear, pack_linear
from runtime.executors.torch.lowering import Program, lower, runtime_dtype
from runtime.executors.torch.paged_session import TorchPagedSession
from runtime.executors.torch.session import TorchStageSession


class TorchExecutor:
    """Runs a rank's graph with torch, on the CPU or a CUDA GPU.

    Attributes:
        graph: the step graph, its constants in the engine's files.
        device: where it runs.
        interface: what the graph takes and gives.
        upcast: whether half-precision values are held as float32.
        program: the graph as lowered, its inputs in the order of the interface.
    """

    name = "torch"

    def __init__(
        self,
        graph: Graph,
        *,
        device: str = "auto",
        rows: int | None = None,
        group: Communicator | None = None,
        block: int | None = None,
    ) -> None:
        """Lower a graph and load its weights.

        Args:
            graph: a step graph whose constants are stored tensors and literals.
            device: `auto` (a CUDA GPU where there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.
            rows: how many sequences a step usually has, to choose kernels; default: the most the graph allows.
            group: the ranks of this rank's stage; None for a rank alone.
            block: page the caches of a linear graph, in blocks of so many tokens; None leaves the graph as it is.

        Raises:
            TargetError: if the device is not there, an op has no rule, a collective is for another group, or the
                weights do not fit.
            EngineError: if the weights cannot be read.
            GraphError: if no step gives one of the inputs, or the caches cannot be paged.
        """
        group = group or SingleRank()
        check_group(graph, group)
        graph = graph if block is None else paged(graph, block)
        self.graph, self.interface = graph, StepInterface.of(graph)
        self.device = find_device(device)
        self.upcast = self.device.type == "cpu"
        check_weights(graph, self.device)
        rows = rows or graph.dims[StepDim.BATCH].max
        # A kernel packs with one thread, so weights are packed side by side.
        with memory_for_weights(self.device), ThreadPoolExecutor(torch.get_num_threads()) as workers:

            def pack(weight: Tensor, bias: Tensor | None) -> Future[Linear]:
                return workers.submit(pack_linear, weight, bias, rows)

            self.program: Program = lower(
                self.interface.ordered(graph),
                self.device,
                constant_loader(graph),
                pack if self.upcast else self._plain_linear,
                upcast=self.upcast,
                group=group,
            )

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: str = "auto",
        rows: int | None = None,
        group: Communicator | None = None,
        block: int | None = None,
    ) -> TorchExecutor:
        """Load the graph file of a rank; its weights lie beside it. Raises as the constructor does."""
        return cls(read_graph(path), device=device, rows=rows, group=group, block=block)

    @property
    def block(self) -> int | None:
        """See `runtime.executors.paged.PagedExecutor.block`."""
        return self.interface.block

    def open(self, batch: int, capacity: int) -> Session:
        """Allocate caches for `batch` sequences of at most `capacity` tokens each; paged ones have blocks for each.

        Raises:
            RequestError: if the engine was not built for so many, or the memory does not suffice.
            EngineError: if the graph is one of several stages.
        """
        check_whole(self.interface, self.graph)
        if self.block is None:
            return WholeSession(self.open_stage(batch, capacity), batch, capacity)
        self.check_rows(batch, capacity)
        return PagedRows(self.open_paged(blocks_of_rows(batch, capacity, self.block)), batch, capacity)

    def open_stage(self, batch: int, capacity: int) -> TorchStageSession:
        """Linear caches for a graph that may be one of several stages; see `interface.StageExecutor`.

        Raises:
            RequestError: if the engine was not built for so many, or the memory does not suffice.
            EngineError: if the caches are paged.
        """
        check_linear(self.interface, self.graph)
        self.check_rows(batch, capacity)
        return TorchStageSession(self, batch, capacity)

    def open_paged(self, blocks: int) -> WholePagedSession[TorchPagedSession]:
        """See `runtime.executors.paged.PagedExecutor`; EngineError, too, if the graph is one of several stages."""
        check_whole(self.interface, self.graph)
        stage = self.open_paged_stage(blocks)
        return WholePagedSession(stage, check_blocks(self.interface, self.graph, blocks), blocks)

    def block_memory(self) -> list[BlockMemory]:
        """See `runtime.executors.paged.PagedExecutor.block_memory`: that of this rank."""
        check_blocks(self.interface, self.graph, 1)
        pools = self.interface.empty_pools(1, runtime_dtype=self.runtime_dtype, device="meta")
        return [BlockMemory.on(self.device, sum(pool.nbytes for pool in pools.values()))]

    def check_rows(self, batch: int, capacity: int) -> None:
        """RequestError if the engine was not built for so many sequences, or so many tokens of each."""
        check_size(self.graph, batch, capacity)

    def open_paged_stage(self, blocks: int) -> TorchPagedSession:
        """The same for a graph that may be one of several stages."""
        check_blocks(self.interface, self.graph, blocks)
        return TorchPagedSession(self, blocks)

    def runtime_dtype(self, value: Value) -> torch.dtype:
        """The torch type that holds a value at run time."""
        return runtime_dtype(value, upcast=self.upcast)

    def _plain_linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        on_device = weight.to(self.device)
        bias_there = None if bias is None else bias.to(self.device)
        return lambda x: torch.nn.functional.linear(x, on_device, bias_there)
