"""What runs together of a graph, and of the rest why not. Asks the graph alone: neither weights nor a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compiler.ir.collectives import COLLECTIVES
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.step_interface import StepInterface
from compiler.ir.torch_types import to_torch
from runtime.executors.cuda.attention_fusion import why_apart as why_attention_is_apart
from runtime.executors.cuda.dataflow import Dataflow
from runtime.executors.cuda.fusions import find_fusions
from runtime.executors.cuda.kernels.products import Product, can_serve
from runtime.executors.cuda.norm_fusion import NORMS
from runtime.executors.cuda.product_fusion import WeightPart, why_no_product
from runtime.executors.torch.lowering import Fusion, running_ops
from runtime.executors.torch.packed import PackedWeight
from runtime.executors.torch.plain_ops import PlainOps, plain_ops

_NO_FUSION = "no fusion is for such operations"
_EXCHANGED = "ranks exchange it; where their GPUs share memory, sums run together with the products before them"
_HOSTS_WORK = ("paged_attention", "paged_kv_update")
"""The ops that, if no fusion has them, need to know on the host where tokens lie."""


@dataclass(frozen=True)
class FusedOps:
    """Fusions of one form.

    Attributes:
        name: what they are called.
        count: how many there are.
        ops: how many operations of each kind one of them computes.
    """

    name: str
    count: int
    ops: dict[str, int]

    def __str__(self) -> str:
        return f"{self.count} x {self.name} ({', '.join(f'{count} {kind}' for kind, count in self.ops.items())})"


@dataclass(frozen=True)
class Explanation:
    """How the executor runs a graph.

    Attributes:
        fused: what runs together.
        plain: what runs by torch's rules.
        captures: whether steps are captured as CUDA graphs.
        why_not_captured: why they are not, as the rest of a sentence.
    """

    fused: tuple[FusedOps, ...]
    plain: tuple[PlainOps, ...]
    captures: bool
    why_not_captured: str = ""

    def lines(self) -> Iterator[str]:
        """The fusions, a line each; then what is left, a line for each reason; then whether steps are captured."""
        yield from map(str, self.fused)
        for why in dict.fromkeys(each.why for each in self.plain):
            same = [each for each in self.plain if each.why == why]
            named = "" if why == _NO_FUSION else f" ({same[0].some})"
            yield f"by torch: {', '.join(map(str, same))}{named}: {why}"
        never = "" if self.captures else f"not captured: {self.why_not_captured}"
        yield f"steps are {never or 'captured as CUDA graphs'}"

    def to_json(self) -> dict[str, Any]:
        """All of it; the keys are in docs/cli.md."""
        return {
            "fused": [{"name": each.name, "count": each.count, "ops": each.ops} for each in self.fused],
            "by_torch": [each.to_json() for each in self.plain],
            "captures": self.captures,
            **({} if self.captures else {"why_not_captured": self.why_not_captured}),
        }


def explain(graph: Graph) -> Explanation:
    """How the executor runs a graph of packed steps."""
    return explanation_of(graph, find_fusions(graph, _never))


def explanation_of(graph: Graph, fusions: Sequence[Fusion]) -> Explanation:
    """The same where the fusions of the graph are known."""
    flow = Dataflow(graph)
    forms = Counter((fusion.name, tuple(Counter(op.kind.name for op in fusion.ops).items())) for fusion in fusions)
    fused = {op.name for fusion in fusions for op in fusion.ops}
    reasons = ((op, why_unserved(flow, op) if op.name in fused else _why_alone(flow, op)) for op in running_ops(graph))
    why_not = why_not_captured(graph, fusions)
    return Explanation(
        tuple(FusedOps(name, count, dict(ops)) for (name, ops), count in forms.items()),
        plain_ops((op, why) for op, why in reasons if why is not None),
        not why_not,
        why_not,
    )


def why_not_captured(graph: Graph, fusions: Sequence[Fusion]) -> str:
    """Why steps cannot be captured, as the rest of a sentence; empty if they can."""
    fused = {op.name for fusion in fusions for op in fusion.ops}
    apart = next((op for op in graph.ops if op.kind.name in _HOSTS_WORK and op.name not in fused), None)
    if apart is not None:
        return f"{apart.kind.name} %{apart.name} runs by torch's rules, which ask the host where tokens lie"
    return "" if StepInterface.of(graph).is_whole else "the graph is one stage of a model"


def why_unserved(flow: Dataflow, op: Op) -> str | None:
    """Why the kernels cannot multiply by the weight of a linear; None if they can, or if the op is no linear."""
    if op.kind.name != "linear":
        return None
    return can_serve([[_shape_of_weight(flow, op.operands[1])]])


def _why_alone(flow: Dataflow, op: Op) -> str:
    """Why an op is in no fusion."""
    kind = op.kind.name
    if kind == "linear":
        return why_no_product(flow, op)
    if kind == "paged_attention":
        return why_attention_is_apart(flow, op)
    if kind == "paged_kv_update":
        return "the attention over what it writes runs by itself"
    if kind in NORMS:
        return "its weight is computed while the model runs, or its input is not [1, tokens, features]"
    if kind in COLLECTIVES:
        return _EXCHANGED
    if kind in ("quantize", "dequantize"):
        return "it rounds neither by a stored scale nor by one of each token, or its rows are too long"
    return _NO_FUSION


def _shape_of_weight(flow: Dataflow, weight: Value) -> WeightPart:
    """A weight that has the form of a stored one, and no values."""
    packed = flow.packed.get(weight.name)
    rows, columns = weight.type.sizes({})
    if packed is None:
        return torch.empty(rows, columns, dtype=to_torch(weight.type.dtype), device="meta")
    q, scale, *zero = (value.type for value in packed.operands)
    stored = torch.uint8 if q.dtype is DType.i4 else to_torch(q.dtype)
    zeros = torch.zeros(scale.sizes({}), dtype=torch.int8) if zero else None
    scales = torch.empty(scale.sizes({}), device="meta")
    return PackedWeight(
        torch.empty(rows, columns, dtype=stored, device="meta"), scales, zeros, (rows, columns), q.dtype
    )


def _never(*arguments: Any) -> Product:
    raise AssertionError("no weight is read to explain a graph")
