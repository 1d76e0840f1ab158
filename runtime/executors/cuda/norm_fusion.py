"""Sums and norms in one call: what branches add to a hidden state, and the norms that the next branches begin with.

    hidden + linear(context) + linear(activated) -> layer_norm -> ...

The products of the branches are left in parts, which the norm's kernel sums up with the rest: the sum is rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from compiler.ir.op import Op, Value
from runtime.executors.cuda.dataflow import Dataflow
from runtime.executors.cuda.kernels.norms import Kind, add_norm, norm
from runtime.executors.cuda.kernels.products import MOST_ROWS, Product, Rounded, Section, can_serve, row_count
from runtime.executors.cuda.product_fusion import (
    MakeProduct,
    WeightPart,
    bias_of,
    is_product,
    product_form,
    rows_of,
    weight_part,
)
from runtime.executors.torch.lowering import Fusion, Lowering, plain_line

_NORMS = ("layer_norm", "rms_norm")
_MOST_INPUTS = 2
"""Of so many linears the inputs are multiplied in one product."""


@dataclass(frozen=True)
class Sum:
    """A sum of hidden states.

    Attributes:
        result: the sum, `[1, T, H]`.
        ops: the additions and the linears.
        linears: the linears that are added up, whose results nothing else uses.
        vectors: constants `[H]` that are added.
        others: what else is added, of the type of the sum.
    """

    result: Value
    ops: tuple[Op, ...]
    linears: tuple[Op, ...]
    vectors: tuple[Value, ...]
    others: tuple[Value, ...]


def sum_of(flow: Dataflow, value: Value) -> Sum | None:
    """What a value is the sum of, through all additions whose results only it uses; None if it is no sum of states."""
    root = flow.maker(value, "add")
    if root is None or len(value.type.shape) != 3:
        return None
    ops, linears, vectors, others = [root], [], [], []
    waiting = [*root.operands[::-1]]
    while waiting:
        part = waiting.pop()
        inner = flow.maker(part, "add", "linear") if flow.only_user(part) else None
        if part.name in flow.constant and part.type.shape == value.type.shape[-1:]:
            vectors.append(part)
        elif part.type != value.type:
            return None
        elif inner is not None and inner.kind.name == "add":
            ops.append(inner)
            waiting += inner.operands[::-1]
        elif inner is not None and is_product(flow, inner):
            ops.append(inner)
            linears.append(inner)
        else:
            others.append(part)
    return Sum(value, tuple(ops), tuple(linears), tuple(vectors), tuple(others))


def norm_fusions(flow: Dataflow, make: MakeProduct) -> Iterator[Fusion]:
    """A fusion for each value that norms are taken of, with the sum that it is, if it is one."""
    by_input: dict[str, list[Op]] = {}
    for op in flow.graph.ops:
        stored = all(value.name in flow.constant for value in op.operands[1:])
        if op.kind.name in _NORMS and stored and len(op.result.type.shape) == 3 and op.name not in flow.claimed:
            by_input.setdefault(op.operands[0].name, []).append(op)
    for norms in by_input.values():
        total = sum_of(flow, norms[0].operands[0])
        if total is not None and total.others:
            ops = flow.claim((*total.ops, *norms))
            yield Fusion("sum and norm", ops, _sum_lines(flow, total, norms, make))
        else:
            for op in norms:
                yield Fusion("norm", flow.claim((op,)), _norm_lines(op))


def sum_fusions(flow: Dataflow, make: MakeProduct) -> Iterator[Fusion]:
    """A fusion for each sum of two linears or more that no norm is taken of."""
    for op in reversed(flow.graph.ops):
        total = sum_of(flow, op.result) if op.kind.name == "add" and op.name not in flow.claimed else None
        if total is not None and len(total.linears) > 1:
            yield Fusion("sum", flow.claim(total.ops), _sum_lines(flow, total, (), make))


class NormCall:
    """A norm with its parameters."""

    def __init__(self, kind: Kind, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        self.kind, self.weight, self.bias, self.eps = kind, weight, bias, eps

    @classmethod
    def of(cls, state: Lowering, op: Op) -> NormCall:
        """The norm of an op."""
        parameters = [state.load(value).to(state.device) for value in op.operands[1:]]
        weight, bias = [*parameters, None, None][:2]
        return cls(cast(Kind, op.kind.name), weight, bias, op.attrs["eps"])

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of `x [1, T, H]`."""
        return norm(x.squeeze(0), self.weight, self.bias, self.eps, self.kind).unsqueeze(0)


class SumCall:
    """A sum of hidden states, and the first norm that is taken of it, if any is.

    Attributes:
        products: the products that are added up, and how many inputs each has.
        bias: what is added to each token, `f32[H]`, or None.
        dtype: what the sum is rounded to.
        norm: the norm.
    """

    def __init__(
        self, products: Sequence[tuple[Product, int]], bias: Tensor | None, dtype: torch.dtype, norm: NormCall | None
    ) -> None:
        self.products, self.bias, self.dtype, self.norm = [*products], bias, dtype, norm

    def __call__(self, *values: Tensor | Rounded) -> tuple[Tensor, ...]:
        """The sum, and the norm of it if there is one.

        Args:
            *values: the inputs of the products, product by product, and then what else is added; all `[1, T, ...]`.
        """
        rows = [rows_of(value) for value in values]
        parts: list[Tensor] = []
        for product, count in self.products:
            xs, rows = rows[:count], rows[count:]
            few = self.norm is not None and row_count(xs) <= MOST_ROWS
            parts.append(product.partial(xs) if few else product(xs))
        first, *others = (value for value in rows if isinstance(value, Tensor))
        if self.norm is None:
            return (self._sum([*parts, first, *others]).unsqueeze(0),)
        biases = [] if self.bias is None else [self.bias]
        parameters = (self.norm.weight, self.norm.bias, self.norm.eps, self.norm.kind)
        total, normed = add_norm(first, [*parts, *others], biases, *parameters, sum_dtype=self.dtype)
        return total.unsqueeze(0), normed.unsqueeze(0)

    def _sum(self, parts: Sequence[Tensor]) -> Tensor:
        if len(parts) == 1 and self.bias is None:
            return parts[0].to(self.dtype)
        total = parts[0].float()
        for part in parts[1:]:
            total = total + part
        return (total if self.bias is None else total + self.bias).to(self.dtype)


def _norm_lines(op: Op) -> Callable[[Lowering], Sequence[str]]:
    def lines(state: Lowering) -> Sequence[str]:
        call = state.hold(f"{op.name}.norm", NormCall.of(state, op))
        return [f"{state.ref(op.result)} = {call}({state.ref(op.operands[0])})"]

    return lines


def _sum_lines(
    flow: Dataflow, total: Sum, norms: Sequence[Op], make: MakeProduct
) -> Callable[[Lowering], Sequence[str]]:
    def lines(state: Lowering) -> Sequence[str]:
        dtype = state.dtype(total.result)
        served, left = _groups(state, flow, total.linears)
        products = [(make([parts], [Section(_width(total), None)], None, dtype), len(parts)) for _, parts in served]
        vectors = [state.load(value).to(state.device) for value in total.vectors]
        vectors += [bias for group, _ in served for op in group if (bias := bias_of(state, op)) is not None]
        bias = torch.stack([vector.float() for vector in vectors]).sum(0) if vectors else None
        call = SumCall(products, bias, dtype, NormCall.of(state, norms[0]) if norms else None)
        before = [plain_line(state, op) for op in left]
        inputs = [op.operands[0] for group, _ in served for op in group]
        others = [*total.others, *(op.result for op in left)]
        arguments = ", ".join(state.ref(value) for value in (*inputs, *others))
        results = "".join(f"{state.ref(value)}, " for value in (total.result, *(op.result for op in norms[:1])))
        line = f"{results}= {state.hold(f'{total.result.name}.sum', call)}({arguments})"
        return [*before, line, *(line for op in norms[1:] for line in _norm_lines(op)(state))]

    return lines


def _width(total: Sum) -> int:
    width = total.result.type.shape[-1]
    assert isinstance(width, int)
    return width


def _groups(
    state: Lowering, flow: Dataflow, linears: Sequence[Op]
) -> tuple[list[tuple[list[Op], list[WeightPart]]], list[Op]]:
    """Linears whose weights can be in one product, with the weights; and those that no product serves."""
    by_form: dict[object, list[Op]] = {}
    for op in linears:
        by_form.setdefault(product_form(flow, op), []).append(op)
    served, left = [], []
    for ops in by_form.values():
        for start in range(0, len(ops), _MOST_INPUTS):
            group = ops[start : start + _MOST_INPUTS]
            parts = [weight_part(state, op) for op in group]
            if can_serve([parts]) is None:
                served.append((group, parts))
                continue
            for op, part in zip(group, parts, strict=True):
                if can_serve([[part]]) is None:
                    served.append(([op], [part]))
                else:
                    left.append(op)
    return served, left
