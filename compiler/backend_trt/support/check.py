"""What cannot be built, said before anything is."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from torch import Tensor

import compiler.backend_trt.rules  # noqa: F401 - registers the rules
from compiler.backend_trt.constants import Constants
from compiler.backend_trt.emission import COMPUTABLE, SHARED, rule_of
from compiler.backend_trt.support.declared import DEFAULT, EVERY, SUPPORT, Refusal, Setting, value_refusal
from compiler.errors import TargetError
from compiler.ir.analysis import packed_weights, stored_values
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value

_REWRITE = "rewrite it into other ops with a pass, or add a rule: llmc.emits"
_SHOWN = 8


@dataclass(frozen=True)
class Unsupported:
    """What TensorRT cannot be given.

    Attributes:
        where: the op with its name and where it came from, or the output.
        missing: what TensorRT lacks for it.
        hint: what to do about it.
    """

    where: str
    missing: str
    hint: str

    def __str__(self) -> str:
        return f"{self.where}: {self.missing}"


def unsupported(graph: Graph, types: Set[DType] = COMPUTABLE) -> list[Unsupported]:
    """Everything in a graph that cannot be built, by the table of `compiler.backend_trt.support.declared`.

    Args:
        graph: the graph of one plan.
        types: the element types that the emitter has names for.
    """
    constant, packed = stored_values(graph), packed_weights(graph)
    source = Constants(graph, _no_values)
    shown = {str(dim) for value in graph.inputs if _is_read(graph, value) for dim in value.type.shape}
    setting = Setting(graph, shown)
    layers = {name for name in constant if not _is_input(graph.value(name), source)}
    found = [
        Unsupported(f"{op.kind.name} %{op.name} from {op.origin}", *refusal)
        for op in graph.ops
        if op.name not in constant
        and op.name not in packed
        and (refusal := _refusal(op, setting, constant, layers, types))
    ]
    for role, value in graph.outputs.items():
        if value.name in constant or value.name not in graph.producers:
            is_layer = value.name in layers
            refusal = value_refusal(value, types & EVERY if is_layer else types, is_layer)
            found += [Unsupported(f"output {role}", *refusal)] if refusal else []
    return found


def require_support(graph: Graph) -> None:
    """TargetError listing everything that cannot be built, if there is any."""
    found = unsupported(graph)
    if not found:
        return
    lines = [f"  {item}" for item in found[:_SHOWN]]
    lines += [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    raise TargetError(
        f"TensorRT cannot be given {len(found)} of the graph's {len(graph.ops)} ops:\n" + "\n".join(lines),
        hint="; ".join(dict.fromkeys(item.hint for item in found)),
    )


def _is_input(constant: Value, source: Constants) -> bool:
    """Whether a constant becomes an input of the network: a stored matrix."""
    return constant.type.rank > 1 and constant.type.dtype in SHARED and source.weight(constant) is not None


def _no_values(value: Value) -> Tensor:
    raise TargetError(f"the values of %{value.name} are not at hand")


def _is_read(graph: Graph, value: Value) -> bool:
    return bool(graph.users.get(value.name)) or value in graph.outputs.values()


def _refusal(op: Op, setting: Setting, constant: Set[str], layers: Set[str], types: Set[DType]) -> Refusal | None:
    if rule_of(op.kind.name) is None:
        return Refusal("there is no rule for this kind of op", _REWRITE)
    for value in _given(op, constant):
        refusal = value_refusal(value, types, value.name in layers)
        if refusal:
            return refusal
    return SUPPORT.get(op.kind.name, DEFAULT).refusal(op, setting)


def _given(op: Op, constant: Set[str]) -> list[Value]:
    """What an op reads and makes, but for constant scales, which are given to its layer in another form."""
    scales = op.operands[1:2] if op.kind.name in ("quantize", "dequantize") else ()
    return [value for value in (*op.operands, *op.results) if value not in scales or value.name not in constant]
