"""Passes that use `soft_gate`."""

from dataclasses import dataclass
from typing import Annotated

import llmc
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep


@llmc.register_pass("gate")
@dataclass(frozen=True)
class Gate:
    """Compute a soft gate in place of every activation function."""

    slope: Annotated[float, "how steep the gate is"] = 1.5

    def __call__(self, graph: Graph) -> Graph:
        """The graph with gates."""

        def visit(op: Op, b: RewriteBuilder) -> Value | None:
            if op.kind.name not in ("gelu", "relu"):
                return None
            return b.soft_gate(op.operands[0], slope=self.slope)

        return sweep(graph, visit, pass_name="gate")


def drop_gates(graph: Graph) -> Graph:
    """Leave gates out."""
    return sweep(graph, lambda op, b: op.operands[0] if op.kind.name == "soft_gate" else None, pass_name="drop-gates")
