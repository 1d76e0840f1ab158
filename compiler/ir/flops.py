"""How many floating-point operations ops take; what is counted is in `compiler.ir.cost`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from compiler.errors import GraphError
from compiler.ir.dims import evaluate
from compiler.ir.op import Op
from compiler.ir.paged_layout import PagedLayout
from compiler.ir.step import StepDim
from compiler.ir.types import TensorType
from compiler.plugins import Registry

Sizes = Mapping[str, int]
"""The size of each symbolic dim."""
Flops = Callable[[Op, Sizes], int]


def count(type_: TensorType, sizes: Sizes) -> int:
    """The elements of a tensor where each symbolic dim has its size."""
    return prod(type_.sizes(sizes))


FLOPS = Registry[Flops]("the cost of the op {!r} is registered already", GraphError)
"""How many floating-point operations an op takes, by kind."""


def costs(*kinds: str) -> Callable[[Flops], Flops]:
    """Decorator: the function says how many floating-point operations an op of these kinds takes.

    It is called as `flops(op, sizes)`, with the size of each symbolic dim. An op without one takes one operation for
    each element of its results if they are floating-point, else none.
    """

    def register(rule: Flops) -> Flops:
        for kind in kinds:
            FLOPS.add(kind, rule, rule)
        return rule

    return register


def each_element(op: Op, sizes: Sizes) -> int:
    """One operation for each element of the results that are floating-point."""
    return sum(count(value.type, sizes) for value in op.results if value.type.dtype.is_float)


@costs("cast", "quantize", "where", "concat", "embedding", "gather_rows", "literal", "kv_update", "paged_kv_update")
@costs("all_gather", "transfer")
def _none(op: Op, sizes: Sizes) -> int:
    return 0


@costs("linear")
def _linear(op: Op, sizes: Sizes) -> int:
    outputs, features = count(op.result.type, sizes), evaluate(op.operands[1].type.shape[1], sizes)
    return outputs * (2 * features + (len(op.operands) > 2))


@costs("matmul")
def _matmul(op: Op, sizes: Sizes) -> int:
    return 2 * count(op.result.type, sizes) * evaluate(op.operands[0].type.shape[-1], sizes)


@costs("softmax")
def _softmax(op: Op, sizes: Sizes) -> int:
    return SOFTMAX * count(op.result.type, sizes)  # the largest, the difference, exp, the sum, the quotient


@costs("layer_norm")
def _layer_norm(op: Op, sizes: Sizes) -> int:
    # The sum, the difference, its square, their sum, the quotient; then weight and bias.
    return (5 + len(op.operands) - 1) * count(op.result.type, sizes)


@costs("rms_norm")
def _rms_norm(op: Op, sizes: Sizes) -> int:
    return (3 + len(op.operands) - 1) * count(op.result.type, sizes)  # the square, the sum, the quotient


@costs("rotary")
def _rotary(op: Op, sizes: Sizes) -> int:
    batch, heads, length, _ = op.result.type.sizes(sizes)
    return 6 * batch * heads * length * evaluate(op.operands[1].type.shape[2], sizes)


@costs("attention")
def _attention(op: Op, sizes: Sizes) -> int:
    batch, heads, length, width = op.operands[0].type.sizes(sizes)
    _, _, capacity, context = op.operands[2].type.sizes(sizes)
    return batch * heads * visible_pairs(length, capacity - length) * (2 * width + 2 * context + SOFTMAX)


@costs("paged_attention")
def _paged_attention(op: Op, sizes: Sizes) -> int:
    _, heads, tokens, width = op.operands[0].type.sizes(sizes)
    context = evaluate(op.operands[2].type.shape[PagedLayout.WIDTH], sizes)
    batch, length = sizes[StepDim.BATCH], sizes[StepDim.CAPACITY]
    new = tokens // batch
    pairs = visible_pairs(new, length - new, op.attrs["window"])
    return batch * heads * pairs * (2 * width + 2 * context + SOFTMAX)


SOFTMAX = 5
"""Operations for each element of a softmax."""


def visible_pairs(new: int, past: int, window: int = -1) -> int:
    """How many pairs of tokens attention computes: each of `new` ones with itself and all before it, `past` included.

    Args:
        new: how many tokens a sequence gets.
        past: how many it has; less than 0 counts as 0.
        window: how many tokens back one sees; -1 for all.
    """
    past = max(past, 0)
    if window < 0:
        return new * past + new * (new + 1) // 2
    return sum(min(past + i, window) + 1 for i in range(new))
