"""Passes that use `soft_gate`."""

from dataclasses import dataclass
from typing import Annotated

import llmc
from llmc import ops


@llmc.register_pass("gate")
@dataclass(frozen=True)
class Gate:
    """Compute a soft gate in place of every activation function."""

    slope: Annotated[float, "how steep the gate is"] = 1.5

    def __call__(self, graph: llmc.Graph) -> llmc.Graph:
        """The graph with gates."""

        def visit(op: llmc.Op, b: llmc.RewriteBuilder) -> llmc.Value | None:
            if op.kind not in (ops.gelu, ops.relu):
                return None
            return b.soft_gate(op.operands[0], slope=self.slope)

        return llmc.sweep(graph, visit)


def drop_gates(graph: llmc.Graph) -> llmc.Graph:
    """Leave gates out."""
    return llmc.sweep(graph, lambda op, b: op.operands[0] if op.kind is ops.soft_gate else None)
