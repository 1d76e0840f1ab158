"""Loading a rank's graph and weights onto a CUDA GPU, and running its steps by few kernels."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import runtime.executors.torch.rules  # noqa: F401 - registers the rules
from compiler.ir.cache_layout import LINEAR
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.paged import DEFAULT_BLOCK, paged
from compiler.ir.paged_layout import layout_of
from compiler.ir.step import StepDim
from compiler.ir.step_interface import StepInterface
from compiler.store.constant_loader import constant_loader
from runtime.collectives.communicator import Communicator, SingleRank
from runtime.collectives.nccl_communicator import NcclCommunicator
from runtime.executors.cuda.explanation import explanation_of, why_not_captured
from runtime.executors.cuda.fusions import find_fusions
from runtime.executors.cuda.kernels.peer_sums import PeerSums, peer_bytes
from runtime.executors.cuda.kernels.preparing import Preparation
from runtime.executors.cuda.kernels.products import Product, Section, Use
from runtime.executors.cuda.kernels.tuning import Tuning
from runtime.executors.cuda.product_fusion import WeightPart
from runtime.executors.cuda.session import STEP_TOKENS, CapturingSession, CudaPagedSession, FusedSession
from runtime.executors.interface import Session
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
from runtime.executors.torch.linear import Linear
from runtime.executors.torch.lowering import Program, lower, runtime_dtype
from runtime.executors.torch.session import TorchStageSession

RANKS_AHEAD = "LLMC_RANKS_AHEAD"
"""The environment variable that is 1 where several ranks shall begin steps ahead of their tokens, and warm up."""


def paged_graph(graph: Graph) -> Graph:
    """The graph as the executor runs it: of packed steps over blocks; GraphError if its caches cannot be paged."""
    return paged(graph, DEFAULT_BLOCK) if layout_of(graph) is LINEAR else graph


class CudaExecutor:
    """Runs a rank's graph on a CUDA GPU: few kernels a layer, and decode steps as captured graphs.

    Attributes:
        graph: the graph of packed steps.
        device: where it runs.
        interface: what the graph takes and gives.
        fusions: what runs together.
        program: the graph as lowered, its inputs in the order of the interface.
        captures: whether steps are captured.
        captured_prompts: how many tokens steps with prompts have at most that are captured, too, and padded therefore.
        preparation: what the first step waits for; None where nothing is compiled.
        group: the ranks of this rank's stage.
        led: whether the first of several ranks decides what is captured, and steps begin ahead of their tokens.
    """

    name = "cuda"
    upcast = False

    def __init__(
        self,
        graph: Graph,
        *,
        device: torch.device,
        group: Communicator | None = None,
        load: Callable[[Value], Tensor] | None = None,
    ) -> None:
        """Lower a graph and load its weights.

        Args:
            graph: a step graph whose constants are stored tensors and literals; its caches are paged if they are not.
            device: a CUDA GPU; the CPU for Triton's interpreter.
            group: the ranks of this rank's stage; None for a rank alone.
            load: reads a constant, instead of from the engine's files.

        Raises:
            TargetError: if an op has no rule, a collective is for another group, or the weights do not fit.
            EngineError: if the weights cannot be read.
            GraphError: if no step gives one of the inputs, or the caches cannot be paged.
        """
        self.group = group = group or SingleRank()
        self.led = group.size > 1 and os.environ.get(RANKS_AHEAD) == "1"
        check_group(graph, group)
        graph = paged_graph(graph)
        self.graph, self.interface, self.device = graph, StepInterface.of(graph), device
        self.most_blocks = graph.dims[StepDim.TABLE].max
        self._tuning = Tuning.of(device)
        for note in self._tuning.notes:
            warnings.warn(note, stacklevel=2)
        self._products: list[Product] = []
        self._spare: CudaPagedSession | None = None
        check_weights(graph, device)
        self.fusions = find_fusions(graph, self._product, peer_sums(group), group)
        with memory_for_weights(device):
            self.program: Program = lower(
                self.interface.ordered(graph),
                device,
                load or constant_loader(graph),
                self._plain_linear,
                upcast=False,
                group=group,
                fusions=self.fusions,
            )
        self.captures = not why_not_captured(graph, self.fusions)
        self.captured_prompts = STEP_TOKENS if device.type == "cuda" else 0
        self.preparation = self._prepared(alone=group.size == 1)

    @classmethod
    def load(cls, path: Path, *, device: str = "auto", group: Communicator | None = None) -> CudaExecutor:
        """Load the graph file of a rank; its weights lie beside it. Raises as the constructor does."""
        where = find_device("cuda" if device == "auto" else device)
        return cls(read_graph(path), device=where, group=group)

    @property
    def block(self) -> int | None:
        """See `runtime.executors.paged.PagedExecutor.block`."""
        return self.interface.block

    def explain(self) -> Iterator[str]:
        """Lines that say what runs together, which ops are left to torch and why, and whether steps are captured."""
        yield from explanation_of(self.graph, self.fusions).lines()

    def open(self, batch: int, capacity: int) -> Session:
        """See `runtime.executors.interface.Executor.open`.

        Raises:
            RequestError: if the engine was not built for so many, or the memory does not suffice.
            EngineError: if the graph is one of several stages.
        """
        check_whole(self.interface, self.graph)
        self.check_rows(batch, capacity)
        assert self.block is not None
        if self.led:
            # Ranks must have captured the same steps, and a session may have ended on some of them only.
            self._spare = None
        return PagedRows(self.open_paged(blocks_of_rows(batch, capacity, self.block)), batch, capacity)

    def open_stage(self, batch: int, capacity: int) -> TorchStageSession:
        """EngineError: the caches are paged."""
        check_linear(self.interface, self.graph)
        raise AssertionError("the graph is paged")

    def open_paged(self, blocks: int) -> WholePagedSession[CudaPagedSession]:
        """See `runtime.executors.paged.PagedExecutor`; EngineError, too, if the graph is one of several stages."""
        check_whole(self.interface, self.graph)
        block = check_blocks(self.interface, self.graph, blocks)
        stage, self._spare = self._spare, None
        if stage is None or stage.blocks < blocks:
            stage = None  # its memory is free before more is taken
            stage = self.open_paged_stage(blocks)
        whole = CapturingSession if self.captures else FusedSession
        session = whole(stage, block, blocks)
        if isinstance(session, CapturingSession):
            session.leads = not self.led
        weakref.finalize(session, self._keep, stage)
        return session

    def block_memory(self) -> list[BlockMemory]:
        """See `runtime.executors.paged.PagedExecutor.block_memory`: that of this rank."""
        pools = self.interface.empty_pools(1, runtime_dtype=self.runtime_dtype, device="meta")
        memory = BlockMemory.on(self.device, sum(pool.nbytes for pool in pools.values()))
        if memory.free is None or self._spare is None:
            return [memory]
        return [memory._replace(free=memory.free + self._spare.blocks * memory.bytes)]

    def check_rows(self, batch: int, capacity: int) -> None:
        """RequestError if the engine was not built for so many sequences, or so many tokens of each."""
        check_size(self.graph, batch, capacity)

    def open_paged_stage(self, blocks: int) -> CudaPagedSession:
        """The same for a graph that may be one of several stages."""
        check_blocks(self.interface, self.graph, blocks)
        return CudaPagedSession(self, blocks)

    def _keep(self, stage: CudaPagedSession) -> None:
        """Keep the pools of a session that has ended, and the graphs that were captured over them, for the next."""
        if self._spare is None or self._spare.blocks < stage.blocks:
            self._spare = stage

    def runtime_dtype(self, value: Value) -> torch.dtype:
        """The torch type that holds a value at run time."""
        return runtime_dtype(value, upcast=False)

    def _product(
        self,
        parts: Sequence[Sequence[WeightPart]],
        sections: Sequence[Section],
        bias: Tensor | None,
        dtype: torch.dtype,
        use: Use,
    ) -> Product:
        product = Product(parts, sections, bias, dtype, self.device, self._tuning, use)
        self._products.append(product)
        return product

    def _prepared(self, *, alone: bool) -> Preparation | None:
        if self.device.type != "cuda":
            return None
        most = self.graph.dims[StepDim.BATCH].max
        preparation = Preparation(most, torch.cuda.get_device_capability(self.device), alone=alone)
        with torch.cuda.device(self.device):
            preparation.begin(self._products)
        return preparation

    def _plain_linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        on_device = weight.to(self.device)
        bias_there = None if bias is None else bias.to(self.device)
        return lambda x: torch.nn.functional.linear(x, on_device, bias_there)


def peer_sums(group: Communicator) -> PeerSums | None:
    """How the ranks of a stage add up the results of a few tokens; None where they share no memory. All call it."""
    if group.size == 1 or not isinstance(group, NcclCommunicator):
        return None
    memory = group.peer_memory(peer_bytes(group.size))
    return None if memory is None else PeerSums(memory)
