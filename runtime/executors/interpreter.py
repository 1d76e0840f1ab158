"""An executor that interprets the engine's graph, op by op: slow, and the reference for the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from compiler.ir.chunks import chunk_length
from compiler.ir.collectives import Communicate
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Op
from compiler.ir.torch_types import to_torch
from runtime.collectives.communicator import Alone, Communicator
from runtime.executors.memory import memory_for
from runtime.executors.rank_interface import RankInterface, check_group, check_size
from runtime.executors.stage import WholeSession
from runtime.executors.step import Step


class InterpreterStageSession:
    """A batch in one stage, whose caches are made anew by each step. See `runtime.executors.stage.StageSession`."""

    def __init__(self, interpreter: Interpreter, batch: int, capacity: int) -> None:
        self._interpreter = interpreter
        self._interface = RankInterface.of(interpreter.graph)
        sizes = {"B": batch, "C": capacity}
        self.chunk = chunk_length(interpreter.graph, batch, capacity, holds_scores=lambda op: True)
        with memory_for(f"the caches of {batch} sequences of {capacity} tokens"):
            self._state = {
                value.name: torch.zeros(value.type.sizes(sizes), dtype=to_torch(value.type.dtype))
                for value in self._interface.caches
            }

    def buffers(self, rows: int, length: int, positions: int = 1) -> dict[str, Tensor]:
        """See `StageSession.buffers`; `positions` is how many logits a row the step is asked for."""
        sizes = {"B": rows, "S": length, "R": positions}
        return {
            value.name: torch.empty(value.type.sizes(sizes), dtype=to_torch(value.type.dtype))
            for value in self._interface.received
        }

    def step(self, rows: slice, step: Step, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `StageSession.step`."""
        given = step._asdict()
        inputs = {value.name: given[value.name] for value in self._interface.inputs}
        state = {name: cache[rows] for name, cache in self._state.items()}
        with memory_for(f"a step of {len(step.new_len)} x {step.token_ids.shape[1]} tokens"):
            outputs = self._interpreter({**inputs, **state, **received})
        self._state = {
            name: cache.slice_scatter(outputs[name], 0, rows.start, rows.stop) for name, cache in self._state.items()
        }
        return {role: outputs[role] for role in self._interface.results}


class InterpreterExecutor:
    """A rank's graph, interpreted. See `interface.Executor` and `stage.StageExecutor`."""

    name = "interpreter"

    def __init__(self, graph: Graph, *, group: Communicator | None = None) -> None:
        """Interpret `graph`, its collectives with `group`, the ranks of its stage; None for a rank alone.

        Raises:
            TargetError: if a collective is for another group.
            EngineError: if no step gives one of the inputs.
        """
        group = group or Alone()
        check_group(graph, group)
        self._interface = RankInterface.of(graph)
        self._interpreter = Interpreter(graph, communicate=over(group))

    @classmethod
    def load(
        cls, folder: Path, rank_files: Mapping[str, str], *, group: Communicator | None = None
    ) -> InterpreterExecutor:
        """The executor of one rank of an engine's torch target. Raises as the constructor does."""
        return cls(read_graph(folder / rank_files["graph"]), group=group)

    def open(self, batch: int, capacity: int) -> WholeSession[InterpreterStageSession]:
        """See `runtime.executors.interface.Executor.open`; EngineError if the graph is one of several stages."""
        self._interface.check_whole(self._interpreter.graph)
        return WholeSession(self.open_stage(batch, capacity), batch, capacity)

    def open_stage(self, batch: int, capacity: int) -> InterpreterStageSession:
        """See `runtime.executors.stage.StageExecutor.open_stage`."""
        check_size(self._interpreter.graph, batch, capacity)
        return InterpreterStageSession(self._interpreter, batch, capacity)


def over(group: Communicator) -> Communicate:
    """How the interpreter computes collectives with the ranks of a group."""

    def communicate(op: Op, operand: Tensor) -> Tensor:
        if op.kind.name == "all_gather":
            return group.all_gather(operand, op.attrs["axis"])
        return group.all_max(operand.clone()) if op.kind.name == "all_max" else group.all_reduce(operand.clone())

    return communicate
