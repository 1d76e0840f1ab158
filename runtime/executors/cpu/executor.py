"""Loading a rank's graph and weights for the kernels of the CPU, and running its steps."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

import runtime.executors.cpu.rules
import runtime.executors.torch.rules  # noqa: F401 - registers the rules
from compiler.ir.cache_layout import LINEAR
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.paged import DEFAULT_BLOCK, paged
from compiler.ir.paged_layout import layout_of
from compiler.ir.step import StepDim
from compiler.ir.step_interface import StepInterface
from compiler.ir.torch_types import to_torch
from compiler.store.constant_loader import constant_loader
from runtime.collectives.communicator import Communicator, SingleRank
from runtime.executors.cpu.library import load_library
from runtime.executors.cpu.plans import Plans
from runtime.executors.cpu.segments import Segment, segment_fusions
from runtime.executors.cpu.session import CpuPagedSession
from runtime.executors.interface import KernelTime, Session
from runtime.executors.memory import BlockMemory, memory_for_weights
from runtime.executors.paged import PagedRows, WholePagedSession, blocks_of_rows
from runtime.executors.rank_checks import check_blocks, check_group, check_linear, check_size, check_whole
from runtime.executors.torch.linear import Linear
from runtime.executors.torch.lowering import Program, lower, runtime_dtype
from runtime.executors.torch.session import TorchStageSession


def paged_graph(graph: Graph) -> Graph:
    """The graph as the executor runs it: of packed steps over blocks; GraphError if its caches cannot be paged."""
    return paged(graph, DEFAULT_BLOCK) if layout_of(graph) is LINEAR else graph


class CpuExecutor:
    """Runs a rank's graph on the CPU: runs of ops as programs of kernels, what has none by torch.

    Attributes:
        graph: the graph of packed steps.
        device: where it runs.
        interface: what the graph takes and gives.
        plans: which ops kernels compute, and how.
        program: the graph as lowered, its inputs in the order of the interface.
        most_blocks: how many blocks a sequence has at most.
    """

    name = "cpu"
    device = torch.device("cpu")

    def __init__(self, graph: Graph, *, group: Communicator | None = None, threads: int | None = None) -> None:
        """Lower a graph and pack its weights.

        Args:
            graph: a step graph whose constants are stored tensors and literals; its caches are paged if they are not.
            group: the ranks of this rank's stage; None for a rank alone.
            threads: how many threads compute; None for as many as torch has, but no more than there are CPUs.

        Raises:
            TargetError: if the kernels cannot be built, an op has no rule, or a collective is for another group.
            EngineError: if the weights cannot be read.
            GraphError: if no step gives one of the inputs, or the caches cannot be paged.
        """
        group = group or SingleRank()
        check_group(graph, group)
        graph = paged_graph(graph)
        self.graph, self.interface = graph, StepInterface.of(graph)
        self.most_blocks = graph.dims[StepDim.TABLE].max
        self.plans = Plans(graph)
        threads = threads or usable_threads()
        with memory_for_weights(self.device):
            self.program: Program = lower(
                self.interface.ordered(graph),
                self.device,
                constant_loader(graph),
                _plain_linear,
                upcast=True,
                group=group,
                fusions=segment_fusions(self.plans, load_library(), threads),
            )

    @classmethod
    def load(cls, path: Path, *, group: Communicator | None = None) -> CpuExecutor:
        """Load the graph file of a rank; its weights lie beside it. Raises as the constructor does."""
        return cls(read_graph(path), group=group)

    @property
    def block(self) -> int | None:
        """See `runtime.executors.paged.PagedExecutor.block`."""
        return self.interface.block

    def open(self, batch: int, capacity: int) -> Session:
        """See `runtime.executors.interface.Executor.open`.

        Raises:
            RequestError: if the engine was not built for so many, or the memory does not suffice.
            EngineError: if the graph is one of several stages.
        """
        check_whole(self.interface, self.graph)
        self.check_rows(batch, capacity)
        assert self.block is not None
        return PagedRows(self.open_paged(blocks_of_rows(batch, capacity, self.block)), batch, capacity)

    def open_stage(self, batch: int, capacity: int) -> TorchStageSession:
        """EngineError: the caches are paged."""
        check_linear(self.interface, self.graph)
        raise AssertionError("the graph is paged")

    def open_paged(self, blocks: int) -> WholePagedSession[CpuPagedSession]:
        """See `runtime.executors.paged.PagedExecutor`; EngineError, too, if the graph is one of several stages."""
        check_whole(self.interface, self.graph)
        stage = self.open_paged_stage(blocks)
        return WholePagedSession(stage, check_blocks(self.interface, self.graph, blocks), blocks)

    def block_memory(self) -> list[BlockMemory]:
        """See `runtime.executors.paged.PagedExecutor.block_memory`: that of this rank."""
        pools = self.interface.empty_pools(1, device="meta")
        return [BlockMemory.on(self.device, sum(pool.nbytes for pool in pools.values()))]

    def check_rows(self, batch: int, capacity: int) -> None:
        """RequestError if the engine was not built for so many sequences, or so many tokens of each."""
        check_size(self.graph, batch, capacity)

    def open_paged_stage(self, blocks: int) -> CpuPagedSession:
        """The same for a graph that may be one of several stages."""
        check_blocks(self.interface, self.graph, blocks)
        return CpuPagedSession(self, blocks)

    def runtime_dtype(self, value: Value) -> torch.dtype:
        """The torch type that holds a value at run time: that of a cache is its own, of other floats float32."""
        if value in self.interface.caches:
            return to_torch(value.type.dtype)
        return runtime_dtype(value, upcast=True)

    @property
    def segments(self) -> list[Segment]:
        """The programs of kernels."""
        held = self.program.run.__globals__.values()
        return [thing for thing in held if isinstance(thing, Segment)]

    def measure(self) -> None:
        """Measure from now on how long kernels take."""
        for segment in self.segments:
            segment.measure()

    def times(self) -> list[KernelTime]:
        """What kernels have taken since `measure` was called, the longest first."""
        found: dict[str, KernelTime] = {}
        for segment in self.segments:
            for kernel, seconds in segment.times():
                before = found.get(kernel, KernelTime(kernel, 0, 0.0))
                found[kernel] = KernelTime(kernel, before.ops + 1, before.seconds + seconds)
        return sorted(found.values(), key=lambda each: -each.seconds)


def threads_asked() -> int:
    """How many threads are to compute: as many as torch has."""
    return torch.get_num_threads()


def usable_threads() -> int:
    """How many threads compute: as many as are asked for, but no more than the CPUs that this process may use."""
    return min(threads_asked(), len(os.sched_getaffinity(0)))


def _plain_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    if weight.dtype is torch.float32:
        return lambda x: torch.nn.functional.linear(x, weight, bias)
    wide_bias = None if bias is None else bias.float()
    return lambda x: torch.nn.functional.linear(x, weight.float(), wide_bias)
