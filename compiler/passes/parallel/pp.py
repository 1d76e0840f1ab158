"""The pass `pp`: it cuts a model into stages, for pipeline parallelism."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Annotated

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of, with_facts
from compiler.ir.op import Op, Value, with_operands
from compiler.ir.rewrite import RewriteBuilder, sweep
from compiler.passes.parallel.explain import note_collectives
from compiler.passes.parallel.stages import cut_line, line_of
from compiler.passes.registry import register


@register("pp")
@dataclass(frozen=True)
class PipelineParallel:
    """Cut the model into stages, each on ranks of its own, that pass activations on.

    The stages are chosen over the graph, embeddings and head included, such that the costliest one costs as little as
    possible: bytes of weights, and arithmetic. A tied table is stored in each stage that uses it. With `tp` the ranks
    form a mesh: `tp` ranks in each stage.
    """

    stages: Annotated[int, "how many stages"]

    def requires(self, graph: Graph) -> None:
        """The graph must not be cut already, and have enough places to cut."""
        if self.stages < 1:
            raise PassError(f"pp={self.stages} is no number of stages", hint="pp=1 leaves the model in one piece")
        if mesh_of(graph).pp > 1:
            raise PassError(
                f"the graph is cut into pp={mesh_of(graph).pp} stages already", hint="name pp once in --passes"
            )

    def __call__(self, graph: Graph) -> Graph:
        """The graph with a `transfer` wherever a value passes from one stage to another."""
        if self.stages == 1:
            return with_facts(graph, pp=1)
        line = line_of(graph)
        cuts = cut_line(line, self.stages)
        stages = {op.name: bisect_right(cuts, i) for i, op in enumerate(line.ops)}
        cut = with_facts(_with_transfers(graph, stages), pp=self.stages)
        note_collectives("pp", cut)
        return cut


def _with_transfers(graph: Graph, stages: dict[str, int]) -> Graph:
    """The graph where each op reads what earlier stages computed through a transfer; one for each value and stage."""
    at = {value.name: stages[op.name] for op in graph.ops if op.name in stages for value in op.results}
    arrived: dict[tuple[str, int], Value] = {}

    def bring(value: Value, stage: int, b: RewriteBuilder) -> Value:
        if at.get(value.name, stage) == stage:
            return value
        if (value.name, stage) not in arrived:
            prefix, b.prefix = b.prefix, f"{value.name}."
            arrived[value.name, stage] = b.transfer(value, stage=stage, name=f"stage{stage}")
            b.prefix = prefix
        return arrived[value.name, stage]

    def visit(op: Op, b: RewriteBuilder) -> tuple[Value, ...] | None:
        stage = stages.get(op.name)
        if stage is None:
            return None
        operands = tuple([bring(value, stage, b) for value in op.operands])
        if operands == op.operands:
            return None
        b.ops.append(with_operands(op, operands))
        return op.results

    return sweep(graph, visit, pass_name="pp")
