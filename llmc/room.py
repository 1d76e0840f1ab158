"""How much an engine will hold, as far as it can be told before it is written."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.backend_trt import BuildOptions
from compiler.backend_trt.plans import plan_specs
from compiler.ir.constants import needed_constants
from compiler.ir.graph import Graph

_BYTES_A_PLAN = 1 << 23
# The graph's text, the tokenizer and the manifest: what an engine takes besides weights and plans.
_BYTES_AN_OP = 300
_BYTES_OF_THE_REST = 1 << 18


def plan_count(graph: Graph, targets: Sequence[str], build: BuildOptions) -> int:
    """How many TensorRT plans there will be; TargetError if the sizes asked for do not fit the engine."""
    count = sum(target != "torch" for target in targets)
    sizes = {"batches": build.batch_sizes, "widths": build.prompt_sizes, "capacities": build.capacities}
    return count * len(plan_specs(graph.dims, **sizes)) if count else 0


def needed_bytes(graph: Graph, plans: int) -> int:
    """About how many bytes the engine takes while it is written."""
    weights = sum(value.type.nbytes for value in needed_constants(graph))
    return weights + _BYTES_A_PLAN * plans + _BYTES_AN_OP * len(graph.ops) + _BYTES_OF_THE_REST
