"""What each kind of op computes, in torch: the table behind the interpreter.

An evaluator takes `(attrs, sizes, *operands)`: the attributes, the sizes of the symbolic dims, and the operands as
tensors; it returns the result or a tuple of results. Floating-point operands arrive in the accumulation type, and the
interpreter rounds the results; an evaluator registered as `exact` moves elements without arithmetic, and is given
them as they are. One registered as `stepwise` stands for several ops in a row, and can round between them: it is given
the keyword `rounding`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compiler.errors import GraphError
from compiler.ir.collectives import COLLECTIVES
from compiler.ir.dims import evaluate
from compiler.ir.products import product
from compiler.ir.torch_types import to_torch
from compiler.plugins import Registry, broken_hint

Attrs = Mapping[str, Any]
Sizes = Mapping[str, int]
Rounding = Callable[[Tensor], Tensor]


class Evaluator(NamedTuple):
    """How to compute a kind of op.

    Attributes:
        compute: the evaluator.
        exact: whether it only moves elements.
        stepwise: whether it takes `rounding`, which rounds a tensor to the element type of the op's result and gives it
            back in the accumulation type. Without it nothing is rounded between the steps.
    """

    compute: Callable[..., Any]
    exact: bool
    stepwise: bool = False


EVALUATORS = Registry[Evaluator]("the op {!r} has an evaluator already", GraphError)
"""The evaluators, by the kind of op."""
EVALUATOR_DECORATOR = "llmc.evaluates"
"""What registers an evaluator, as messages call it."""


def evaluates(
    kind: str, *, exact: bool = False, stepwise: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: register the function as the meaning of `kind`; GraphError if it has one already."""

    def register(compute: Callable[..., Any]) -> Callable[..., Any]:
        EVALUATORS.add(kind, Evaluator(compute, exact, stepwise), compute)
        return compute

    return register


def evaluator(kind: str, where: str = "") -> Evaluator:
    """The evaluator of `kind`; GraphError, saying where, if there is none."""
    found = EVALUATORS.find(kind)
    if found is None:
        raise GraphError(
            f"the interpreter does not know the op {kind!r}{where}",
            hint=broken_hint(f"register its meaning: @{EVALUATOR_DECORATOR}({kind!r})"),
        )
    return found


def _simple(kind: str, function: Callable[..., Any], *, exact: bool = False) -> None:
    evaluates(kind, exact=exact)(lambda attrs, sizes, *operands: function(*operands))


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "cos": torch.cos,
    "sin": torch.sin,
    "linear": product,
}
_CHOICES: dict[str, Callable[..., Any]] = {
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "where": torch.where,
}
for _kind, _function in _ARITHMETIC.items():
    _simple(_kind, _function)
for _kind, _function in _CHOICES.items():
    _simple(_kind, _function, exact=True)


# Long enough that rows of a weight differ, short enough to stay in a cache while a large weight is filled.
_PERIOD = 65_537


@evaluates("random", exact=True)
def _random(attrs: Attrs, sizes: Sizes) -> Tensor:
    """Uniform noise, repeated with period 65,537."""
    generator = torch.Generator().manual_seed(zlib.crc32(attrs["key"].encode()))
    mean, half_width, dtype = attrs["mean"], attrs["std"] * 3**0.5, to_torch(attrs["dtype"])
    period = torch.rand(_PERIOD, generator=generator) * (2 * half_width) + (mean - half_width)
    period = period.to(dtype)
    result = torch.empty(attrs["shape"], dtype=dtype)
    flat = result.view(-1)
    whole = flat.numel() // _PERIOD * _PERIOD
    flat[:whole].view(-1, _PERIOD).copy_(period)
    flat[whole:].copy_(period[: flat.numel() - whole])
    return result


@evaluates("literal", exact=True)
def _literal(attrs: Attrs, sizes: Sizes) -> Tensor:
    # By way of float64, which holds every value of the other floating-point types and of i32.
    wide = torch.float64 if attrs["dtype"].is_float else torch.int64
    values = torch.tensor(attrs["values"], dtype=wide).to(to_torch(attrs["dtype"]))
    shape = attrs["shape"]
    return torch.full(shape, values[0].item(), dtype=values.dtype) if len(values) == 1 else values.reshape(shape)


@evaluates("iota", exact=True)
def _iota(attrs: Attrs, sizes: Sizes) -> Tensor:
    return torch.arange(evaluate(attrs["size"], sizes), dtype=to_torch(attrs["dtype"]))


@evaluates("scale")
def _scale(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return torch.mul(x, attrs["factor"])


@evaluates("clamp")
def _clamp(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return x.clamp(attrs["min"], attrs["max"])


@evaluates("cast", exact=True)
def _cast(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return x.to(to_torch(attrs["dtype"]))


@evaluates("gelu")
def _gelu(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh" if attrs["tanh"] else "none")


@evaluates("reshape", exact=True)
def _reshape(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return x.reshape([evaluate(dim, sizes) for dim in attrs["shape"]])


@evaluates("transpose", exact=True)
def _transpose(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return x.permute(attrs["perm"])


@evaluates("slice", exact=True)
def _slice(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return x.narrow(attrs["axis"], evaluate(attrs["start"], sizes), evaluate(attrs["size"], sizes))


@evaluates("split", exact=True)
def _split(attrs: Attrs, sizes: Sizes, x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, attrs["sizes"], attrs["axis"])


@evaluates("concat", exact=True)
def _concat(attrs: Attrs, sizes: Sizes, *parts: Tensor) -> Tensor:
    return torch.cat(parts, attrs["axis"])


@evaluates("broadcast", exact=True)
def _broadcast(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return x.expand([evaluate(dim, sizes) for dim in attrs["shape"]])


@evaluates("embedding", exact=True)
def _embedding(attrs: Attrs, sizes: Sizes, table: Tensor, ids: Tensor) -> Tensor:
    return torch.nn.functional.embedding(ids, table)


@evaluates("gather_rows", exact=True)
def _gather_rows(attrs: Attrs, sizes: Sizes, x: Tensor, rows: Tensor) -> Tensor:
    return x[torch.arange(x.shape[0], device=x.device)[:, None], rows.long()]


@evaluates("transfer", exact=True)
def _transfer(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return x


@evaluates("shard", exact=True)
def _shard(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    raise GraphError(
        "which slice a shard is depends on the rank",
        hint="compiler.ir.mesh.rank_graph(graph, rank) is the graph of one rank, VirtualRanks runs all of them",
    )


def _together(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    raise GraphError("one rank alone cannot compute what ranks compute together")


for _kind in sorted(COLLECTIVES):
    evaluates(_kind)(_together)
