"""What cannot be built, said before anything is."""

from __future__ import annotations

from dataclasses import dataclass

import compiler.backend_trt.rules  # noqa: F401 - registers the rules
from compiler.backend_trt.emission import COMPUTABLE, rule_of
from compiler.errors import TargetError
from compiler.ir.analysis import constant_values
from compiler.ir.graph import Graph
from compiler.ir.op import Op

_REWRITE = "rewrite it into other ops with a pass, or add a rule: compiler.backend_trt.emission.emits"
_SHOWN = 8


@dataclass(frozen=True)
class Unsupported:
    """An op that TensorRT cannot be given: what is missing, and the mend."""

    op: Op
    missing: str
    mend: str

    def __str__(self) -> str:
        return f"{self.op.kind.name} %{self.op.name} from {self.op.origin}: {self.missing}"


def unsupported(graph: Graph) -> list[Unsupported]:
    """Every op of a graph that cannot be emitted."""
    constant = constant_values(graph)
    found = []
    for op in graph.ops:
        if op.results[0].name in constant:
            continue
        if rule_of(op.kind.name) is None:
            found.append(Unsupported(op, "there is no rule for this kind of op", _REWRITE))
            continue
        reason = _reason(op)
        if reason:
            found.append(Unsupported(op, *reason))
    return found


def require_support(graph: Graph) -> None:
    """TargetError listing every op that cannot be emitted, if there is any."""
    found = unsupported(graph)
    if not found:
        return
    lines = [f"  {item}" for item in found[:_SHOWN]]
    lines += [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    raise TargetError(
        f"TensorRT cannot be given {len(found)} of the graph's {len(graph.ops)} ops:\n" + "\n".join(lines),
        hint="; ".join(dict.fromkeys(item.mend for item in found)),
    )


def _reason(op: Op) -> tuple[str, str] | None:
    for value in (*op.operands, *op.results):
        if value.type.dtype not in COMPUTABLE:
            return f"%{value.name} is {value.type}, which TensorRT does not compute in", "cast it: --dtype float32"
    if op.kind.name == "kv_update" and not isinstance(op.operands[0].type.shape[2], int):
        return f"the cache is {op.operands[0].type}; its capacity must be fixed", "bind its dim to a size"
    if op.kind.name == "linear" and op.operands[0].type.rank == 1:
        return "TensorRT multiplies tensors of two dims or more", "reshape the operand to [1, K]"
    return None
