"""How much an engine will hold, as far as it can be told before it is written."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.backend_trt import BuildOptions, wanted_plans
from compiler.backend_trt.weights import weight_form
from compiler.ir.analysis import packed_weights
from compiler.ir.constants import needed_constants
from compiler.ir.graph import Graph
from compiler.ir.sinking import sink_pieces

_BYTES_A_PLAN = 1 << 23
# The graph's text, the tokenizer and the manifest: what an engine takes besides weights and plans.
_BYTES_AN_OP = 300
_BYTES_OF_THE_REST = 1 << 18


def plan_count(graph: Graph, targets: Sequence[str], build: BuildOptions) -> int:
    """How many TensorRT plans there will be; TargetError if the sizes asked for do not fit the engine."""
    count = sum(target != "torch" for target in targets)
    if not count:
        return 0
    return count * len(wanted_plans(graph, build))


def needed_bytes(graph: Graph, plans: int) -> int:
    """About how many bytes the engine takes while it is written."""
    graph = sink_pieces(graph)
    weights = sum(value.type.nbytes for value in needed_constants(graph))
    held = [op for op in packed_weights(graph).values() if weight_form(op) == "blocks"]
    in_a_plan = sum(value.type.nbytes for value in {value for op in held for value in op.operands})
    return weights + (_BYTES_A_PLAN + in_a_plan) * plans + _BYTES_AN_OP * len(graph.ops) + _BYTES_OF_THE_REST
