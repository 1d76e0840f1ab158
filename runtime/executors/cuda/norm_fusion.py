"""Sums and norms in one call: what branches add to a hidden state, and the norms that the next branches take.

    hidden + linear(context) + linear(activated) -> layer_norm -> ...

The products of the branches are left in parts, which the norm's kernel sums up with the rest: one rounding in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.op import Op, Value
from runtime.executors.cuda.dataflow import Dataflow, fixed
from runtime.executors.cuda.kernels.norms import MOST_ADDED, MOST_NORMS, Affine, Kind, add_norm, add_norm_of_rows, norm
from runtime.executors.cuda.kernels.products import Product, Rounded, Section, Use, can_serve, row_count
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

NORMS = ("layer_norm", "rms_norm")
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

    @property
    def is_one_call(self) -> bool:
        """Whether a kernel adds it all up and takes norms of it: a state, and not too much that is added to it."""
        return bool(self.others) and len(self.linears) + len(self.others) - 1 <= MOST_ADDED


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
    """A fusion for each value that norms are taken of, with the sum that it is, or has rows of, if it is one."""
    by_input: dict[tuple[object, ...], list[Op]] = {}
    for op in flow.graph.ops:
        stored = all(value.name in flow.constant for value in op.operands[1:])
        if op.kind.name in NORMS and stored and len(op.result.type.shape) == 3 and op.name not in flow.claimed:
            by_input.setdefault((op.operands[0].name, op.kind.name, op.attrs["eps"]), []).append(op)
    for norms in by_input.values():
        for start in range(0, len(norms), MOST_NORMS):
            yield _norm_fusion(flow, norms[start : start + MOST_NORMS], make)


def _norm_fusion(flow: Dataflow, norms: Sequence[Op], make: MakeProduct) -> Fusion:
    value = norms[0].operands[0]
    total = sum_of(flow, value)
    if total is not None and total.is_one_call:
        return Fusion("sum and norm", flow.claim((*total.ops, *norms)), _sum_lines(flow, total, norms, make))
    gather = flow.maker(value, "gather_rows") if len(flow.users(value)) == len(norms) else None
    if gather is not None and flow.only_user(gather.operands[0]):
        total = sum_of(flow, gather.operands[0])
        if total is not None and total.is_one_call:
            ops = flow.claim((*total.ops, gather, *norms))
            return Fusion("sum and norm of rows", ops, _sum_lines(flow, total, norms, make, gather.operands[1]))
    return Fusion("norm", flow.claim((*norms,)), _norm_lines(norms))


def sum_fusions(flow: Dataflow, make: MakeProduct) -> Iterator[Fusion]:
    """A fusion for each sum of two linears or more that no norm is taken of."""
    for op in reversed(flow.graph.ops):
        total = sum_of(flow, op.result) if op.kind.name == "add" and op.name not in flow.claimed else None
        if total is not None and len(total.linears) > 1:
            yield Fusion("sum", flow.claim(total.ops), _sum_lines(flow, total, (), make))


class NormCall:
    """Norms of one value, with their parameters."""

    def __init__(self, kind: Kind, eps: float, affines: Sequence[Affine]) -> None:
        self.kind, self.eps, self.affines = kind, eps, [*affines]

    @classmethod
    def of(cls, state: Lowering, ops: Sequence[Op]) -> NormCall:
        """The norms of ops, of one kind and with one epsilon."""
        stored = [[state.load(value).to(state.device) for value in op.operands[1:]] for op in ops]
        affines = [Affine(*[*tensors, None, None][:2]) for tensors in stored]
        return cls("layer_norm" if ops[0].kind.name == "layer_norm" else "rms_norm", ops[0].attrs["eps"], affines)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """The norms of `x [1, T, H]`."""
        return tuple(each.unsqueeze(0) for each in norm(x.squeeze(0), self.affines, self.eps, self.kind))


class SumCall:
    """A sum of hidden states, and norms that are taken of it, if any are.

    Attributes:
        products: the products that are added up, and how many inputs each has.
        bias: what is added to each token, `f32[H]`, or None.
        dtype: what the sum is rounded to.
        norms: the norms, or None.
        gathers: whether only some rows are wanted, and only of the norms.
    """

    def __init__(
        self,
        products: Sequence[tuple[Product, int]],
        bias: Tensor | None,
        dtype: torch.dtype,
        norms: NormCall | None,
        *,
        gathers: bool = False,
    ) -> None:
        self.products, self.bias, self.dtype, self.norms, self.gathers = [*products], bias, dtype, norms, gathers

    def __call__(self, *values: Tensor | Rounded) -> tuple[Tensor, ...]:
        """The sum, and the norms of it if there are some; or the norms of rows.

        Args:
            *values: the inputs of the products, product by product, and then what else is added; all `[1, T, ...]`.
                Then, if it `gathers`, which rows are wanted, `i32[1, R]`.
        """
        rows = [rows_of(value) for value in values]
        wanted = _tensor(rows.pop()) if self.gathers else None
        if wanted is not None and wanted.shape[0] < row_count(rows[:1]):
            rows, wanted = [_selected(each, wanted) for each in rows], None
        parts: list[Tensor] = []
        for product, count in self.products:
            xs, rows = rows[:count], rows[count:]
            few = self.norms is not None and product.has_kernel(xs)
            parts.append(product.partial(xs) if few else product(xs))
        others = [_tensor(value) for value in rows]
        if self.norms is None:
            return (self._sum([*parts, *others]).unsqueeze(0),)
        first, *others = others
        biases = [] if self.bias is None else [self.bias]
        arguments = (first, [*parts, *others], biases, self.norms.affines, self.norms.eps, self.norms.kind)
        if wanted is not None:
            results = add_norm_of_rows(*arguments, sum_dtype=self.dtype, rows=wanted)
        else:
            results = add_norm(*arguments, sum_dtype=self.dtype)[1 if self.gathers else 0 :]
        return tuple(each.unsqueeze(0) for each in results)

    def _sum(self, parts: Sequence[Tensor]) -> Tensor:
        if len(parts) == 1 and self.bias is None:
            return parts[0].to(self.dtype)
        total = parts[0].float()
        for part in parts[1:]:
            total = total + part
        return (total if self.bias is None else total + self.bias).to(self.dtype)


def _tensor(value: Tensor | Rounded) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _selected(value: Tensor | Rounded, rows: Tensor) -> Tensor | Rounded:
    """Some rows of the input of a product, or of what is added."""
    if isinstance(value, Tensor):
        return value.index_select(0, rows)
    scale = value.scale if value.scale.dim() == 1 else value.scale.index_select(0, rows)
    return Rounded(value.q.index_select(0, rows), scale)


def _norm_lines(ops: Sequence[Op]) -> Callable[[Lowering], Sequence[str]]:
    def lines(state: Lowering) -> Sequence[str]:
        call = state.hold(f"{ops[0].name}.norm", NormCall.of(state, ops))
        results = "".join(f"{state.ref(op.result)}, " for op in ops)
        return [f"{results}= {call}({state.ref(ops[0].operands[0])})"]

    return lines


def _sum_lines(
    flow: Dataflow, total: Sum, norms: Sequence[Op], make: MakeProduct, wanted: Value | None = None
) -> Callable[[Lowering], Sequence[str]]:
    def lines(state: Lowering) -> Sequence[str]:
        dtype = state.dtype(total.result)
        served, left = product_groups(state, flow, total.linears)
        sections = [Section(fixed(total.result.type.shape[-1]), None)]
        products = [
            (
                make([parts], sections, None, dtype, Use(bool(norms), group[0].operands[0].name in flow.rounded)),
                len(parts),
            )
            for group, parts in served
        ]
        vectors = [state.load(value).to(state.device) for value in total.vectors]
        vectors += [bias for group, _ in served for op in group if (bias := bias_of(state, op)) is not None]
        bias = torch.stack([vector.float() for vector in vectors]).sum(0) if vectors else None
        gathers = wanted is not None
        call = SumCall(products, bias, dtype, NormCall.of(state, norms) if norms else None, gathers=gathers)
        before = [plain_line(state, op) for op in left]
        inputs = [op.operands[0] for group, _ in served for op in group]
        others = [*total.others, *(op.result for op in left), *([] if wanted is None else [wanted])]
        arguments = ", ".join(state.ref(value) for value in (*inputs, *others))
        results = [*([] if gathers else [total.result]), *(op.result for op in norms)]
        left_side = "".join(f"{state.ref(value)}, " for value in results)
        return [*before, f"{left_side}= {state.hold(f'{total.result.name}.sum', call)}({arguments})"]

    return lines


def product_groups(
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
