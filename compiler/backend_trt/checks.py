"""What plans a graph gets, and whether they can be built, before anything is."""

from __future__ import annotations

from compiler.backend_trt.options import BuildOptions
from compiler.backend_trt.plans import PlanSpec, plan_specs
from compiler.backend_trt.quantized_weights import holds_weights
from compiler.backend_trt.support.capability import require_able
from compiler.backend_trt.support.check import require_support
from compiler.ir.chunks import elements_per_token
from compiler.ir.graph import Graph


def check_plans(graph: Graph, options: BuildOptions) -> tuple[PlanSpec, ...]:
    """The plans to build for a rank's graph, whose weights need not be there yet.

    Raises:
        TargetError: listing everything in it that TensorRT does not take, or naming a GPU that lacks one of its types.
    """
    require_able(graph, options.compute_capability)
    specs = wanted_plans(graph, options)
    for spec in specs:
        require_support(spec.specialize(graph))
    return specs


def wanted_plans(graph: Graph, options: BuildOptions) -> tuple[PlanSpec, ...]:
    """The plans that a graph gets; TargetError if the sizes asked for do not fit it."""
    return plan_specs(
        graph.dims,
        batches=options.batch_sizes,
        widths=options.prompt_sizes,
        capacities=options.capacities,
        facts=graph.facts,
        few=holds_weights(graph),
        product=max(1, elements_per_token(graph, 1, 1, holds_scores=lambda op: False)),
    )
