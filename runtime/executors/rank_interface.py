"""What a step of a rank's graph takes and gives, whichever executor runs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compiler.errors import EngineError, RequestError, TargetError
from compiler.ir.collectives import COLLECTIVES
from compiler.ir.graph import Graph
from compiler.ir.mesh import received
from compiler.ir.op import Value
from runtime.executors.step import Step

if TYPE_CHECKING:
    from runtime.collectives.communicator import Communicator

STEP_INPUTS = Step._fields
"""The names of the arguments of `runtime.executors.interface.Session.step`, in order."""


@dataclass(frozen=True)
class RankInterface:
    """The inputs and outputs of a rank's graph by what they are for.

    Attributes:
        inputs: which of `STEP_INPUTS` the graph has, in that order.
        caches: the inputs whose next states are outputs.
        received: the inputs that other stages send, in the order of sending.
        results: the roles of the other outputs: `logits`, and `send.S.NAME` in the order of sending.
    """

    inputs: tuple[Value, ...]
    caches: tuple[Value, ...]
    received: tuple[Value, ...]
    results: tuple[str, ...]

    @classmethod
    def of(cls, graph: Graph) -> RankInterface:
        """The interface of a rank's graph.

        Raises:
            EngineError: if the graph has an input that no step gives.
        """
        states, arrivals = graph.states(), tuple(link.value for link in received(graph))
        known = {*STEP_INPUTS, *states, *(value.name for value in arrivals)}
        unknown = [value.name for value in graph.inputs if value.name not in known]
        if unknown:
            raise EngineError(
                f"a step gives no input {', '.join(unknown)}, which {graph.name} has",
                hint=f"a step gives {', '.join(STEP_INPUTS)}, caches, and what other stages send",
            )
        by_name = {value.name: value for value in graph.inputs}
        return cls(
            tuple(by_name[name] for name in STEP_INPUTS if name in by_name),
            tuple(value for value, _ in states.values()),
            arrivals,
            tuple(role for role in graph.outputs if role not in states),
        )

    def ordered(self, graph: Graph) -> Graph:
        """The graph with its inputs in the order of the attributes."""
        return replace(graph, inputs=(*self.inputs, *self.caches, *self.received))

    def check_whole(self, graph: Graph) -> None:
        """EngineError if the graph is that of a stage: it gives no logits, or needs what other stages send."""
        if self.received or "logits" not in self.results:
            raise EngineError(
                f"the graph of rank {graph.facts.get('rank', 0)} is one stage of a model, which gives no logits alone",
                hint="open_stage, or runtime.executors.parallel.pipeline.PipelineExecutor over all stages",
            )


def check_size(graph: Graph, batch: int, capacity: int) -> None:
    """RequestError if the engine was not built for so many sequences, or so many tokens of each."""
    for what, symbol, size in (("sequences", "B", batch), ("tokens a sequence", "C", capacity)):
        limit = graph.dims[symbol].max
        if not 1 <= size <= limit:
            raise RequestError(f"{size} {what} were asked for; the engine is built for 1 to {limit}")


def check_group(graph: Graph, group: Communicator) -> None:
    """TargetError, naming the op, if a collective of the graph is for more or fewer ranks than the group has."""
    for op in graph.ops:
        if op.kind.name in COLLECTIVES and op.attrs["parts"] != group.size:
            raise TargetError(
                f"{op.kind.name} %{op.name} from {op.origin} is for {op.attrs['parts']} ranks; "
                f"the group has {group.size}",
                hint="start as many ranks as the engine was compiled for, or leave that to llmc run",
            )
