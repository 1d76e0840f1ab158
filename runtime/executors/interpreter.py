"""An executor that interprets the engine's graph, op by op: slow, and the reference for the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.chunks import chunk_length
from compiler.ir.collectives import Communicate
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Op
from compiler.ir.packed_step import PackedStep
from compiler.ir.paged import paged
from compiler.ir.paged_layout import PagedLayout
from compiler.ir.step import Step
from compiler.ir.step_interface import StepInterface
from runtime.collectives.communicator import Communicator, SingleRank
from runtime.executors.interface import RowCopies, Session, WholeSession
from runtime.executors.memory import BlockMemory, memory_for
from runtime.executors.paged import PagedRows, WholePagedSession, blocks_of_rows
from runtime.executors.rank_checks import check_blocks, check_group, check_linear, check_size, check_whole


class InterpreterStageSession:
    """A batch in one stage, whose caches are made anew by each step. See `interface.StageSession`."""

    def __init__(self, interpreter: Interpreter, batch: int, capacity: int) -> None:
        self._interpreter = interpreter
        self._interface = StepInterface.of(interpreter.graph)
        self.chunk = chunk_length(interpreter.graph, batch, capacity, holds_scores=lambda op: True)
        with memory_for(f"the caches of {batch} sequences of {capacity} tokens"):
            self._state = self._interface.empty_caches(batch, capacity)

    def buffers(self, rows: int, length: int, positions: int = 1) -> dict[str, Tensor]:
        """See `StageSession.buffers`; `positions` is how many logits the step is asked for per row."""
        return self._interface.buffers(rows, length, positions)

    def step(self, rows: slice, step: Step, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `StageSession.step`."""
        state = {name: LINEAR.view(cache, rows) for name, cache in self._state.items()}
        with memory_for(f"a step of {step.batch} x {step.length} tokens"):
            outputs = self._interpreter({**self._interface.named(step), **state, **received})
        self._state = {
            name: cache.slice_scatter(outputs[name], LINEAR.ROW, rows.start, rows.stop)
            for name, cache in self._state.items()
        }
        return {role: outputs[role] for role in self._interface.results}

    def copy_rows(self, copies: RowCopies) -> None:
        """See `StageSession.copy_rows`."""
        copies.apply(LINEAR, self._state.values())


class InterpreterPagedSession:
    """Pools of blocks in one stage, which are made anew by each step. See `paged.PagedStageSession`."""

    def __init__(self, interpreter: Interpreter, blocks: int) -> None:
        self._interpreter = interpreter
        self._interface = StepInterface.of(interpreter.graph)
        with memory_for(f"pools of {blocks} blocks"):
            self._pools = self._interface.empty_pools(blocks)

    def buffers(self, step: PackedStep) -> dict[str, Tensor]:
        """See `PagedStageSession.buffers`."""
        return self._interface.packed_buffers(step)

    def step(self, step: PackedStep, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `PagedStageSession.step`."""
        with memory_for(f"a step of {step.tokens} tokens"):
            outputs = self._interpreter({**self._interface.named(step), **self._pools, **received})
        self._pools = {name: outputs[name] for name in self._pools}
        return {role: outputs[role] for role in self._interface.results}

    def copy_blocks(self, copies: RowCopies) -> None:
        """See `PagedStageSession.copy_blocks`."""
        with memory_for(f"a copy of {len(copies.sources)} blocks"):
            PagedLayout.copy_blocks(self._pools.values(), *copies)


class InterpreterExecutor:
    """A rank's graph, interpreted. See `interface.Executor`, `interface.StageExecutor` and `paged.PagedExecutor`."""

    name = "interpreter"

    def __init__(self, graph: Graph, *, group: Communicator | None = None, block: int | None = None) -> None:
        """Interpret a graph.

        Args:
            graph: a step graph.
            group: the ranks of its stage, with which collectives are computed; None for a rank alone.
            block: page the caches of a linear graph, in blocks of so many tokens; None leaves the graph as it is.

        Raises:
            TargetError: if a collective is for another group.
            GraphError: if no step gives one of the inputs, or the caches cannot be paged.
        """
        group = group or SingleRank()
        check_group(graph, group)
        graph = graph if block is None else paged(graph, block)
        self._interface = StepInterface.of(graph)
        self._interpreter = Interpreter(graph, communicate=over(group))

    @classmethod
    def load(
        cls,
        folder: Path,
        rank_files: Mapping[str, str],
        *,
        group: Communicator | None = None,
        block: int | None = None,
    ) -> InterpreterExecutor:
        """The executor of one rank of an engine's torch target. Raises as the constructor does."""
        return cls(read_graph(folder / rank_files["graph"]), group=group, block=block)

    @property
    def block(self) -> int | None:
        """See `runtime.executors.paged.PagedExecutor.block`."""
        return self._interface.block

    def open(self, batch: int, capacity: int) -> Session:
        """See `runtime.executors.interface.Executor.open`; EngineError if the graph is one of several stages."""
        check_whole(self._interface, self._interpreter.graph)
        if self.block is None:
            return WholeSession(self.open_stage(batch, capacity), batch, capacity)
        self.check_rows(batch, capacity)
        return PagedRows(self.open_paged(blocks_of_rows(batch, capacity, self.block)), batch, capacity)

    def open_stage(self, batch: int, capacity: int) -> InterpreterStageSession:
        """See `runtime.executors.interface.StageExecutor.open_stage`; EngineError if the caches are paged."""
        check_linear(self._interface, self._interpreter.graph)
        self.check_rows(batch, capacity)
        return InterpreterStageSession(self._interpreter, batch, capacity)

    def open_paged(self, blocks: int) -> WholePagedSession[InterpreterPagedSession]:
        """See `runtime.executors.paged.PagedExecutor`; EngineError, too, if the graph is one of several stages."""
        check_whole(self._interface, self._interpreter.graph)
        stage = self.open_paged_stage(blocks)
        return WholePagedSession(stage, check_blocks(self._interface, self._interpreter.graph, blocks), blocks)

    def block_memory(self) -> list[BlockMemory]:
        """See `runtime.executors.paged.PagedExecutor.block_memory`: a step makes pools anew beside the old ones."""
        check_blocks(self._interface, self._interpreter.graph, 1)
        pools = self._interface.empty_pools(1, device="meta")
        return [BlockMemory.on(torch.device("cpu"), 2 * sum(pool.nbytes for pool in pools.values()))]

    def check_rows(self, batch: int, capacity: int) -> None:
        """RequestError if the engine was not built for so many sequences, or so many tokens of each."""
        check_size(self._interpreter.graph, batch, capacity)

    def open_paged_stage(self, blocks: int) -> InterpreterPagedSession:
        """The same for a graph that may be one of several stages."""
        check_blocks(self._interface, self._interpreter.graph, blocks)
        return InterpreterPagedSession(self._interpreter, blocks)


def over(group: Communicator) -> Communicate:
    """How the interpreter computes collectives with the ranks of a group."""

    def communicate(op: Op, operand: Tensor) -> Tensor:
        if op.kind.name == "all_gather":
            return group.all_gather(operand, op.attrs["axis"])
        return group.all_max(operand.clone()) if op.kind.name == "all_max" else group.all_reduce(operand.clone())

    return communicate
