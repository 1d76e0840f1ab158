"""What plans a graph gets, and whether they can be built, before anything is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from compiler.backend_trt.options import PLUGINS, BuildOptions
from compiler.backend_trt.plans import PlanSpec, plan_specs
from compiler.backend_trt.quantized_weights import weight_form
from compiler.backend_trt.rounded import rounded_inputs
from compiler.backend_trt.rules.plugin_attention import plugin_attention, why_no_attention
from compiler.backend_trt.rules.plugin_products import PluginProduct, plugin_products
from compiler.backend_trt.support.capability import require_able
from compiler.backend_trt.support.check import require_support
from compiler.errors import TargetError
from compiler.ir.analysis import packed_weights, stored_values
from compiler.ir.chunks import elements_per_token
from compiler.ir.graph import Graph
from compiler.ir.op import Op

_LEAST_FOR_TRITON = (8, 0)


def check_plans(graph: Graph, options: BuildOptions) -> tuple[PlanSpec, ...]:
    """The plans to build for a rank's graph, whose weights need not be there yet.

    Raises:
        TargetError: listing everything in it that TensorRT does not take, naming a GPU that lacks one of its types, or
            saying that there is nothing for plug-ins that are asked for.
    """
    require_able(graph, options.compute_capability)
    _require_triton(options)
    specs = wanted_plans(graph, options)
    graphs = [spec.specialize(graph) for spec in specs]
    for each in graphs:
        require_support(each)
    _require_use(graph.name, graphs, options)
    return specs


def _require_use(name: str, graphs: Sequence[Graph], options: BuildOptions) -> None:
    """TargetError if plug-ins are asked for that no plan has use of."""
    if "attention" in options.plugins and not any(plugin_attention(each, options.plugins) for each in graphs):
        reasons = [why for each in graphs if (why := why_no_attention(each))]
        raise TargetError(
            f"plugins={'+'.join(options.plugins)} was asked for, and no attention of {name} is of the form that the "
            f"plug-in computes: {reasons[0] if reasons else 'there is none in one op'}",
            hint="leave out attention; fuse-attention and the passes that the compiler adds make that form",
        )
    linears = [kind for kind in options.plugins if kind != "attention"]
    if linears and not any(products_of(each, linears) for each in graphs):
        raise TargetError(
            f"plugins={'+'.join(options.plugins)} was asked for, and no linear of {name} is of that kind",
            hint="quantize weights (--passes quant=int4:group=128), choose from "
            f"{', '.join(PLUGINS)}, or leave the option out",
        )


def wanted_plans(graph: Graph, options: BuildOptions) -> tuple[PlanSpec, ...]:
    """The plans that a graph gets; TargetError if the sizes asked for do not fit it."""
    return plan_specs(
        graph.dims,
        batches=options.batch_sizes,
        widths=options.prompt_sizes,
        capacities=options.capacities,
        facts=graph.facts,
        few=bool(held_weights(graph, options)),
        product=max(1, elements_per_token(graph, 1, 1, holds_scores=lambda op: False)),
    )


def products_of(graph: Graph, kinds: Collection[str]) -> Mapping[str, PluginProduct]:
    """The linears of a plan's graph that become layers of a plug-in, by their names; see `plugin_products`."""
    return plugin_products(graph, kinds, rounded_inputs(graph, packed_weights(graph), stored_values(graph)))


def held_weights(graph: Graph, options: BuildOptions) -> list[Op]:
    """The ops that dequantize weights which each plan will hold, because TensorRT takes them as constants only."""
    products = products_of(graph, options.plugins)
    return [
        op
        for op in packed_weights(graph).values()
        if weight_form(op) == "blocks" and not all(user.name in products for user in graph.users.get(op.name, ()))
    ]


def _require_triton(options: BuildOptions) -> None:
    """TargetError if plug-ins are wanted on GPUs that Triton's kernels are not for."""
    old = [one for one in options.compute_capability if tuple(map(int, one.split("."))) < _LEAST_FOR_TRITON]
    if options.plugins and old:
        least = ".".join(map(str, _LEAST_FOR_TRITON))
        raise TargetError(
            f"the kernels of plug-ins are for compute capability {least} and newer, not for {', '.join(old)}",
            hint=f"leave out the option plugins={'+'.join(options.plugins)}, or build for newer GPUs only",
        )
