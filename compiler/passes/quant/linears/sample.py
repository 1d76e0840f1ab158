"""Which linears a quick report measures: the first ones, so that it takes a small part of what compiling takes.

To measure a linear, the model has to run up to it, and its weight has to be rounded once more. Both cost about as much
as the weights that are passed are large, and so does compiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from compiler.ir.analysis import constant_values
from compiler.ir.graph import Graph
from compiler.passes.quant.calibration.points import calibration_points
from compiler.passes.quant.linears.targets import TargetLinear

WINDOWS = 4
"""How many windows a quick report takes."""
TOKENS = 16
"""How many tokens they have."""

# Of a model of so few weights everything is measured, as that takes no time that anybody would notice.
_SMALL = 2**23
# The part of a model's weights that may lie before the end of what is measured; for its first calibration point.
_PART, _FIRST_PART = 1 / 24, 1 / 12


def quick_sample(graph: Graph, chosen: Sequence[TargetLinear]) -> list[TargetLinear]:
    """The first of some linears: those within the first 24th of the model's weights, or all in a small model.

    Linears over one input are taken together. The first ones may lie within a twelfth; beyond it there are none.
    """
    constant = constant_values(graph)
    whole = sum(op.result.type.elements for op in graph.ops if op.kind.name in ("const", "random"))
    passed, reached = 0, dict[str, int]()
    for op in graph.find("linear"):
        weight = op.operands[1]
        passed += weight.type.elements if weight.name in constant else 0
        reached[op.name] = passed
    points = calibration_points(target.op for target in chosen)
    ends = sorted(((max(reached[op.name] for op in point.ops), point.ops) for point in points), key=itemgetter(0))
    limit = max(whole * _PART, _SMALL)
    within = [
        ops for number, (end, ops) in enumerate(ends) if end <= limit or (not number and end <= whole * _FIRST_PART)
    ]
    taken = {op.name for ops in within for op in ops}
    return [target for target in chosen if target.op.name in taken]
