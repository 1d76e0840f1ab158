"""Hypothesis strategies for parts of the IR and for whole, well-typed graphs.

`graphs()` gives graphs that can be computed, from finite constants: for tests of meaning. `graphs(odd=True)` adds what
only the text has to cope with: names that need quotes, values that are not numbers, weights of files that do not exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from compiler.ir.builder import Builder
from compiler.ir.dims import Dim, symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange, Graph
from compiler.ir.op import Origin, Value
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType

SYMBOLS = ("B", "S", "past_len")
FLOATS = (DType.f32, DType.f16, DType.bf16)

plain_names = st.sampled_from(["x", "q", "k", "weight", "out", "attn.q", "layers.0", "a-b", "0", "ünï"])
odd_names = st.one_of(plain_names, st.text(min_size=1, max_size=6))


def dims(names: tuple[str, ...] = SYMBOLS) -> st.SearchStrategy[Dim]:
    """Integers and affine sums, of any sign."""
    term = st.builds(lambda name, factor: symbol(name) * factor, st.sampled_from(names), st.integers(-5, 5))
    return st.one_of(
        st.integers(-9, 99), st.builds(lambda terms, offset: sum(terms, offset), st.lists(term), st.integers(-9, 9))
    )


@st.composite
def graphs(draw: st.DrawFn, *, max_ops: int = 8, odd: bool = False) -> Graph:
    """A graph with up to `max_ops` ops over symbolic dims, in nested scopes; every result is defined before its use."""
    return _Drawing(draw, odd).graph(max_ops)


class _Drawing:
    """A graph under construction, drawn step by step."""

    def __init__(self, draw: st.DrawFn, odd: bool) -> None:
        self.draw = draw
        self.odd = odd
        self.names = odd_names if odd else plain_names
        self.b = Builder(draw(self.names))
        self.b.dims = {"B": DimRange(1, 2, 4), "S": DimRange(1, 3, 8)}
        self.values: list[Value] = []

    def graph(self, max_ops: int) -> Graph:
        """The finished graph."""
        draw, b = self.draw, self.b
        self.values += [b.input("x", draw(st.sampled_from(FLOATS)), symbol("B"), symbol("S"), 4)]
        self.values += [b.input("flag", DType.bool, symbol("B"), 1, 1)]
        for _ in range(draw(st.integers(0, max_ops))):
            self.step()
        for value in draw(st.lists(st.sampled_from(self.values), min_size=1, max_size=3)):
            # An output named like an input would be its next state, and have to have its type.
            b.output(draw(self.names.filter(lambda name: name not in ("x", "flag"))), value)
        if draw(st.booleans()):
            b.output("x", self.values[0])  # the state of a cache that nothing changes
        if self.odd:
            facts = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.just(math.nan), st.booleans())
            b.facts = draw(st.dictionaries(odd_names, facts, max_size=3))
        return b.build(draw(st.text(max_size=5)) if self.odd else ".")

    def step(self) -> None:
        """Append an op that some value fits."""
        makers = [self.source, self.unary, self.binary, self.reshape, self.transpose, self.split, self.where]
        make = self.draw(st.sampled_from([*makers, self.reference] if self.odd else makers))
        with self.b.scope(self.draw(self.names), self.draw(st.sampled_from([None, "", "h.0", "h.0.attn"]))):
            if self.odd:
                passes = self.draw(st.lists(st.sampled_from(["dtype", "quant=awq:group=128", "tp"]), max_size=2))
                self.b.origin = Origin(self.draw(st.one_of(st.just(self.b.origin.module), odd_names)), tuple(passes))
            made = make(self.draw(self.names))
        self.values += made if isinstance(made, tuple) else (made,)

    def pick(self, fits: Callable[[Value], bool] = lambda value: value.type.dtype.is_float) -> Value:
        """Any value made so far that fits; the first input is floating-point."""
        return self.draw(st.sampled_from([value for value in self.values if fits(value)]))

    def number(self) -> float:
        """A value for a float attribute: an int may stand for a float."""
        finite = st.one_of(st.integers(-3, 3), st.floats(-4, 4))
        special = st.sampled_from([math.inf, -math.inf, math.nan, -0.0, 1e300, 5e-324])
        return self.draw(st.one_of(finite, special) if self.odd else finite)

    def source(self, name: str) -> Any:
        """An op without operands."""
        shape = tuple(self.draw(st.lists(st.integers(1, 4), max_size=3)))
        dtype = self.draw(st.sampled_from(FLOATS))
        kind = self.draw(st.sampled_from(["literal", "full", "random", "iota"]))
        if kind == "iota":
            return self.b.iota(size=self.draw(st.sampled_from([3, symbol("S"), symbol("S") * 2 + 1])), name=name)
        if kind == "random":
            return self.b.random(key=self.draw(self.names), dtype=dtype, shape=shape, std=0.5, name=name)
        count = 1 if kind == "full" else math.prod(shape)
        values = tuple(self.number() for _ in range(count))
        return self.b.literal(dtype=dtype, shape=shape, values=values, name=name)

    def reference(self, name: str) -> Any:
        """A weight in a file that does not exist."""
        type_ = TensorType(self.draw(st.sampled_from(list(DType))), tuple(self.draw(st.lists(st.integers(0, 4)))))
        file, offset = self.draw(st.text()), self.draw(st.integers(0, 1 << 40))
        return self.b.const(data=TensorRef(type_, self.draw(st.text()), file, offset), name=name)

    def unary(self, name: str) -> Any:
        """An elementwise op or a normalization of one value."""
        x = self.pick()
        kind = self.draw(st.sampled_from(["gelu", "scale", "cast", "softmax", "layer_norm", "tanh"]))
        if kind == "gelu":
            return self.b.gelu(x, tanh=self.draw(st.booleans()), name=name)
        if kind == "scale":
            return self.b.scale(x, factor=self.number(), name=name)
        if kind == "cast":
            return self.b.cast(x, dtype=self.draw(st.sampled_from(FLOATS)), name=name)
        if kind == "tanh" or not x.type.rank:
            return self.b.tanh(x, name=name)
        if kind == "softmax":
            return self.b.softmax(x, axis=self.draw(st.integers(-x.type.rank, x.type.rank - 1)), name=name)
        return self.b.layer_norm(x, eps=self.draw(st.sampled_from([1e-5, 1e-6])), name=name)

    def binary(self, name: str) -> Any:
        """A value with another of its type: itself, if there is no other."""
        a = self.pick()
        b = self.pick(lambda value: value.type == a.type)
        kind = self.draw(st.sampled_from(["add", "sub", "mul", "less", "concat", "matmul"]))
        if kind == "concat" and a.type.rank:
            return self.b.concat(a, b, a, axis=self.draw(st.integers(0, a.type.rank - 1)), name=name)
        if kind == "matmul" and a.type.rank >= 2:
            return self.b.matmul(a, b, transpose_b=True, name=name)
        return getattr(self.b, kind if kind in ("add", "sub", "mul", "less") else "add")(a, b, name=name)

    def reshape(self, name: str) -> Any:
        """A dimension of one more, in any place."""
        x = self.pick(lambda value: True)
        at = self.draw(st.integers(0, x.type.rank))
        return self.b.reshape(x, shape=(*x.type.shape[:at], 1, *x.type.shape[at:]), name=name)

    def transpose(self, name: str) -> Any:
        """The dimensions in any order."""
        x = self.pick(lambda value: True)
        return self.b.transpose(x, perm=tuple(self.draw(st.permutations(range(x.type.rank)))), name=name)

    def split(self, name: str) -> Any:
        """Two results, where some dimension has a fixed size above one."""
        x = self.pick()
        axes = [i for i, dim in enumerate(x.type.shape) if isinstance(dim, int) and dim > 1]
        if not axes:
            return self.b.relu(x, name=name)
        axis = self.draw(st.sampled_from(axes))
        size = x.type.shape[axis]
        assert isinstance(size, int)
        names = (name, self.draw(self.names))
        return self.b.split(x, axis=axis, sizes=(1, size - 1), names=names)

    def where(self, name: str) -> Any:
        """A choice by a flag."""
        flag = self.pick(lambda value: value.type.dtype is DType.bool)
        fitting = [v for v in self.values if v.type.dtype.is_float and _compatible(v, flag)]
        if not fitting:
            return self.b.logical_and(flag, flag, name=name)
        x = self.draw(st.sampled_from(fitting))
        return self.b.where(flag, x, x, name=name)


def _compatible(a: Value, b: Value) -> bool:
    """Whether two values broadcast."""
    pairs = zip(reversed(a.type.shape), reversed(b.type.shape), strict=False)
    return all(p == q or 1 in (p, q) for p, q in pairs)
