"""Leaving the linears as they are whose quantization would cost a model most."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.ir.comparison import kl_divergence
from compiler.ir.graph import Graph
from compiler.passes.quant.calibration.source import CalibrationSource, current_calibration
from compiler.passes.quant.calibration.windows import window_logits
from compiler.passes.quant.linears.replace import Emit, rewrite_linears

_WINDOWS = 8


def quantize_linears(graph: Graph, emits: Mapping[str, Emit], kl_budget: float | None) -> Graph:
    """The graph with linears replaced, but for those that cost most.

    What a linear costs is the divergence of the model's predictions when it alone is quantized; such small costs add
    up. Linears are left as they are, those with the highest cost for each weight first, until the rest costs no more
    than the budget. As cross-entropy grows by about the divergence, so does the logarithm of perplexity.

    Args:
        graph: the graph.
        emits: what replaces a linear, by its name.
        kl_budget: the largest mean KL divergence from the graph's own predictions, in nats per token; None: any.

    Raises:
        PassError: if there is a budget, and no data to measure with.
    """
    if kl_budget is None:
        return rewrite_linears(graph, emits)
    calibration = current_calibration()
    costs = divergences(graph, emits, calibration)
    weights = {op.name: op.operands[1].type.elements for op in graph.find("linear") if op.name in emits}
    kept, left = dict(emits), sum(costs.values())
    for name in sorted(costs, key=lambda name: -costs[name] / weights[name]):
        if left <= kl_budget:
            break
        left -= costs[name]
        del kept[name]
    calibration.report.leave(emits.keys() - kept.keys())
    return rewrite_linears(graph, kept)


def divergences(graph: Graph, emits: Mapping[str, Emit], calibration: CalibrationSource) -> dict[str, float]:
    """The mean KL divergence, in nats per token, that each linear causes when it alone is replaced, by its name.

    The model runs on eight windows once for each linear, and all of it is in memory.
    """
    windows = calibration.at_most(_WINDOWS, graph).windows(graph)
    expected = [logits.log_softmax(-1) for logits in window_logits(graph, windows, calibration.place)]
    costs = {}
    for done, (name, emit) in enumerate(emits.items()):
        quantized = rewrite_linears(graph, {name: emit})
        found = (logits.log_softmax(-1) for logits in window_logits(quantized, windows, calibration.place))
        costs[name] = sum(map(kl_divergence, expected, found)) / windows.numel()
        calibration.progress(done + 1, len(emits))
    return costs
