"""How much an engine will hold, as far as it can be told before it is written."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.backend_trt.quantized_weights import weight_form
from compiler.ir.analysis import packed_weights
from compiler.ir.constants import needed_constants
from compiler.ir.graph import Graph

_BYTES_A_PLAN = 1 << 23
# The graph's text, the tokenizer and the manifest: what an engine takes besides weights and plans.
_BYTES_AN_OP = 300
_BYTES_OF_THE_REST = 1 << 18


def needed_bytes(ranks: Sequence[Graph], plans: Sequence[int]) -> int:
    """About how many bytes an engine takes while it is written.

    Args:
        ranks: the graph of each rank, as it will be stored.
        plans: how many TensorRT plans each of them gets.
    """
    return sum(map(_rank_bytes, ranks, plans)) + _BYTES_OF_THE_REST


def _rank_bytes(graph: Graph, plans: int) -> int:
    weights = sum(value.type.nbytes for value in needed_constants(graph))
    held = [op for op in packed_weights(graph).values() if weight_form(op) == "blocks"]
    in_a_plan = sum(value.type.nbytes for value in {value for op in held for value in op.operands})
    return weights + (_BYTES_A_PLAN + in_a_plan) * plans + _BYTES_AN_OP * len(graph.ops)
