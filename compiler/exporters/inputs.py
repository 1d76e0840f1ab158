"""What is done to the inputs of a linear before they are multiplied: quantized, sorted, scaled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from compiler.ir.analysis import constant_values
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value

Scales = Literal["token", "static"]


@dataclass(frozen=True)
class InputForm:
    """What is done to the inputs of a linear.

    Attributes:
        dtype: the type that they are rounded to; None if they are not.
        by: whether each token has a scale, or one from calibration serves all.
        scale: the scale from calibration.
        zero: its zero point, if there is one.
        order: the order in which they are multiplied, `i32[K]`; None for their own.
        factor: what they are multiplied by, `[K]`; None for nothing.
        divisors: the tensor that a checkpoint divides them by instead, where the family has a place for one.
    """

    dtype: DType | None = None
    by: Scales = "token"
    scale: Value | None = None
    zero: Value | None = None
    order: Value | None = None
    factor: Value | None = None
    divisors: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing is done to them."""
        return self.dtype is None and self.order is None and self.factor is None

    def dividing(self, tensor: str) -> InputForm:
        """The same, where the checkpoint has a tensor to divide by."""
        return replace(self, divisors=tensor)


def input_form(graph: Graph, x: Value, *, factors: bool) -> tuple[InputForm, Value]:
    """What is done to the input of a linear, and to what; nothing, and `x` itself, if it is none of that.

    Args:
        graph: the graph.
        x: the input.
        factors: whether a product with a constant is something that is done to it.
    """
    form = InputForm()
    constant = constant_values(graph)
    while (op := graph.producers.get(x.name)) is not None:
        if form.dtype is None and (rounded := _rounded(graph, op)) is not None:
            added, x = rounded
            form = replace(added, order=form.order, factor=form.factor)
        elif form.order is None and (sort := _sorted(graph, op)) is not None:
            order, x = sort
            form = replace(form, order=order)
        elif factors and form.factor is None and op.kind.name == "mul" and op.operands[1].name in constant:
            x, factor = op.operands
            form = replace(form, factor=factor)
        else:
            break
    return form, x


def _rounded(graph: Graph, op: Op) -> tuple[InputForm, Value] | None:
    """`dequantize(quantize(x))`."""
    if op.kind.name != "dequantize":
        return None
    inner = graph.producers.get(op.operands[0].name)
    if inner is None or inner.kind.name != "quantize" or inner.operands[1:] != op.operands[1:]:
        return None
    x, scale, *zero = inner.operands
    dtype = op.operands[0].type.dtype
    if scale.name in constant_values(graph):
        return InputForm(dtype, "static", scale, zero[0] if zero else None), x
    return (InputForm(dtype), x) if not zero and _is_token_scale(graph, scale, x) else None


def _is_token_scale(graph: Graph, scale: Value, x: Value) -> bool:
    """Whether a scale comes from the largest value of each token: `clamp(scale(amax(x)))`."""
    value = scale
    for kind in ("clamp", "scale", "amax", "cast"):
        op = graph.producers.get(value.name)
        if op is None or op.kind.name != kind:
            if kind == "cast":
                break
            return False
        value = op.operands[0]
    return value == x


def _sorted(graph: Graph, op: Op) -> tuple[Value, Value] | None:
    """The order, and what is sorted: `transpose(gather_rows(transpose(x), order))`, as frontends write it."""
    if op.kind.name != "transpose" or op.attrs["perm"] != (0, 2, 1):
        return None
    gather = graph.producers.get(op.operands[0].name)
    if gather is None or gather.kind.name != "gather_rows":
        return None
    features = graph.producers.get(gather.operands[0].name)
    rows = graph.producers.get(gather.operands[1].name)
    if features is None or features.kind.name != "transpose" or rows is None or rows.kind.name != "broadcast":
        return None
    row = graph.producers.get(rows.operands[0].name)
    constant = constant_values(graph)
    if row is None or row.name not in constant:
        return None
    order = row.operands[0] if row.kind.name == "reshape" else row.result
    return order, features.operands[0]
