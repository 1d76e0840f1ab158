"""What the ranks of a stage compute together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from compiler.errors import GraphError
from compiler.ir.op import Op

if TYPE_CHECKING:
    from torch import Tensor

COLLECTIVES = frozenset({"all_reduce", "all_max", "all_gather"})

Communicate = Callable[[Op, "Tensor"], "Tensor"]
"""Called as `communicate(op, operand)` on every rank of a stage, in the same order; returns the op's result."""


def combine(op: Op, operands: Sequence[Tensor]) -> Tensor:
    """The result of a collective, given the operands of all ranks of the stage in order.

    Raises:
        GraphError: if the op is for another number of ranks, or is no collective.
    """
    import torch

    if op.attrs["parts"] != len(operands):
        raise GraphError(
            f"{op.kind.name} %{op.name} from {op.origin} is for {op.attrs['parts']} ranks; {len(operands)} take part"
        )
    if op.kind.name == "all_gather":
        return torch.cat(tuple(operands), op.attrs["axis"])
    if op.kind.name == "all_max":
        return torch.stack(tuple(operands)).amax(0)
    total = operands[0]
    for other in operands[1:]:
        total = total + other
    return total


def alone(op: Op, operand: Tensor) -> Tensor:
    """The `Communicate` of a graph for one rank: it combines the tensor with those of no others."""
    return combine(op, [operand])
