"""The option `head` of `quant`: the weights of the head in 8 bits, whatever is done to other linears."""

from __future__ import annotations

from typing import Literal

from compiler.errors import PassError
from compiler.ir.analysis import constant_values
from compiler.ir.graph import Graph
from compiler.options import Option
from compiler.passes.quant.algorithms.scheme import IntegerScheme
from compiler.passes.quant.linears.rounded import Rounding, round_linears
from compiler.passes.quant.linears.targets import candidates, head_of

Head = Literal["none", "int8"]
"""What becomes of the head: it stays as it is, or its weights are rounded to 8 bits."""

HEAD_OPTION = Option("head", Head, "none", "int8: round the head's weights to the nearest of 8 bits, too")


def quantize_head(graph: Graph) -> Graph:
    """The graph with the weights of its head rounded to the nearest of 8 bits, with a scale for each output.

    A head that is tied to the embedding gets weights of its own: the embedding stays as it is.

    Raises:
        PassError: if no linear over constant weights makes the logits, or its weights are quantized already.
    """
    name = head_of(graph)
    target = next((each for each in candidates(graph) if each.op.name == name), None)
    if target is None:
        reason = "no linear over constant weights makes the logits"
        if name is not None and graph.producers[name].operands[1].name in constant_values(graph):
            reason = f"the head {name} is quantized already"
        raise PassError(f"head=int8: {reason}", hint="leave head= out")
    return round_linears(graph, [target], Rounding(IntegerScheme(8)), "int8")
