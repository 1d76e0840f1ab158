"""Products together: linears of one input as one product, with the activations that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from runtime.executors.cuda.dataflow import Dataflow, fixed
from runtime.executors.cuda.kernels.products import Product, Rounded, Section, Use, can_serve
from runtime.executors.cuda.kernels.weights import LEAST_GROUP
from runtime.executors.torch.lowering import Fusion, Lowering, plain_line
from runtime.executors.torch.packed import PackedWeight
from runtime.executors.torch.quantized import load_packed

WeightPart = Tensor | PackedWeight
MakeProduct = Callable[[Sequence[Sequence[WeightPart]], Sequence[Section], Tensor | None, torch.dtype, Use], Product]

_ACTIVATIONS = ("relu", "gelu", "silu")


def is_product(flow: Dataflow, op: Op) -> bool:
    """Whether an op multiplies by a stored weight, and is in no fusion."""
    return op.kind.name == "linear" and op.name not in flow.claimed and not why_no_product(flow, op)


def why_no_product(flow: Dataflow, op: Op) -> str:
    """Why no product is made of a linear, as the rest of a sentence; empty if one is."""
    _, weight, *bias = op.operands
    if weight.name not in flow.constant and weight.name not in flow.packed:
        return "its weight is computed while the model runs"
    if any(value.name not in flow.constant for value in bias):
        return "its bias is computed while the model runs"
    return "" if len(op.result.type.shape) == 3 else "its result is not [1, tokens, features]"


def product_form(flow: Dataflow, op: Op) -> tuple[object, ...]:
    """What linears must have in common to be in one product."""
    x, weight, *_ = op.operands
    packed = flow.packed.get(weight.name)
    if packed is None:
        return ("dense", weight.type.dtype)
    q, scale, *zero = packed.operands
    columns, groups = fixed(q.type.shape[1]), fixed(scale.type.shape[1])
    return (q.type.dtype, columns // groups if groups > 1 else 0, bool(zero), x.name in flow.rounded)


def takes_rounded(flow: Dataflow, op: Op, dtype: DType) -> bool:
    """Whether an op is a product, served by kernels, with a weight of the 8-bit type that its input is rounded to."""
    packed = flow.packed.get(op.operands[1].name) if is_product(flow, op) else None
    if packed is None or len(packed.operands) > 2 or packed.operands[0].type.dtype is not dtype:
        return False
    columns, groups = (fixed(value.type.shape[1]) for value in packed.operands)
    return groups == 1 or columns // groups % LEAST_GROUP == 0


def rows_of(value: Tensor | Rounded) -> Tensor | Rounded:
    """A value `[1, T, K]` as products take it: `[T, K]`. What is rounded has that shape."""
    return value if isinstance(value, Rounded) else value.squeeze(0)


def weight_part(state: Lowering, op: Op) -> WeightPart:
    """The weight of a linear as the engine stores it."""
    weight = op.operands[1]
    if weight.name in state.packed:
        return load_packed(state, state.packed[weight.name])
    return state.load(weight)


def bias_of(state: Lowering, op: Op) -> Tensor | None:
    """The bias of a linear `[N]`, if it has one."""
    return state.load(op.operands[2]).to(state.device) if len(op.operands) > 2 else None


@dataclass(frozen=True)
class _Member:
    """A linear of a product, and what makes its activation."""

    linear: Op
    activation: Op | None

    @property
    def ops(self) -> tuple[Op, ...]:
        return (self.linear,) if self.activation is None else (self.linear, self.activation)

    @property
    def result(self) -> Value:
        return self.ops[-1].result

    @property
    def section(self) -> Section:
        size = fixed(self.linear.result.type.shape[-1])
        return Section(size, None if self.activation is None else activation_name(self.activation))


def activation_name(op: Op) -> str:
    """What `Section` calls an activation."""
    return "gelu_tanh" if op.kind.name == "gelu" and op.attrs["tanh"] else op.kind.name


def product_fusions(flow: Dataflow, make: MakeProduct) -> Iterator[Fusion]:
    """A fusion for the linears of each input that no other fusion has."""
    groups: dict[tuple[object, ...], list[_Member]] = {}
    for op in flow.graph.ops:
        if is_product(flow, op):
            user = flow.only_user(op.result)
            activates = user is not None and user.kind.name in _ACTIVATIONS and user.name not in flow.claimed
            key = (op.operands[0].name, op.result.type.dtype, *product_form(flow, op))
            groups.setdefault(key, []).append(_Member(op, user if activates else None))
    for members in groups.values():
        ops = flow.claim(tuple(op for member in members for op in member.ops))
        use = Use(rounded=members[0].linear.operands[0].name in flow.rounded)
        yield Fusion("product", ops, _product_lines(members, use, make))


class ProductCall:
    """A product whose result is cut into its sections."""

    def __init__(self, product: Product, sizes: Sequence[int]) -> None:
        self.product, self.sizes = product, [*sizes]

    def __call__(self, x: Tensor | Rounded) -> tuple[Tensor, ...]:
        """The sections `[1, T, size]` of the product with `x [1, T, K]`."""
        result = self.product([rows_of(x)]).unsqueeze(0)
        return result.split(self.sizes, -1) if len(self.sizes) > 1 else (result,)


def _product_lines(members: Sequence[_Member], use: Use, make: MakeProduct) -> Callable[[Lowering], Sequence[str]]:
    def lines(state: Lowering) -> Sequence[str]:
        first = members[0].linear
        parts = [[weight_part(state, member.linear)] for member in members]
        sections = [member.section for member in members]
        if can_serve(parts) is not None:
            return _apart(state, members)
        biases = [bias_of(state, member.linear) for member in members]
        bias = joined_bias(biases, [section.size for section in sections])
        product = make(parts, sections, bias, state.dtype(first.result), use)
        call = state.hold(f"{first.name}.product", ProductCall(product, [section.size for section in sections]))
        results = "".join(f"{state.ref(member.result)}, " for member in members)
        return [f"{results}= {call}({state.ref(first.operands[0])})"]

    return lines


def joined_bias(biases: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor | None:
    """Biases one after the other, with zeros where there is none; None if there is none at all."""
    known = next((bias for bias in biases if bias is not None), None)
    if known is None:
        return None
    return torch.cat([known.new_zeros(n) if bias is None else bias for bias, n in zip(biases, sizes, strict=True)])


def _apart(state: Lowering, members: Sequence[_Member]) -> list[str]:
    """The ops one by one, by the rules of the torch executor."""
    return [plain_line(state, op) for member in members for op in member.ops]
