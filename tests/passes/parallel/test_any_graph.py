"""Whatever lies between linears, splitting them changes nothing: no sharding rule promises too much."""

from collections import Counter
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.errors import PassError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange, Graph
from compiler.ir.verifier import verify
from compiler.ir.virtual_ranks import VirtualRanks
from compiler.passes import run_pipeline
from tests.passes.checks import random_inputs

UNARY = ("relu", "gelu", "tanh", "softmax", "layer_norm", "cast")


def _is_fixed(value: Any) -> bool:
    return isinstance(value.type.shape[-1], int)


class Soup:
    """A graph whose ops are drawn one by one, between some linears at the start and one at the end."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.b = Builder("soup")
        self.b.dims = {"B": DimRange(1, 2, 4)}
        batch = draw(st.sampled_from([2, symbol("B")]))
        x = self.b.input("x", DType.f32, batch, 3, 6)
        self.values = [x, *(self.linear(x, draw(st.sampled_from([6, 12, 24]))) for _ in range(draw(st.integers(1, 3))))]
        kinds = ["unary", "binary", "factors", "transpose"] * 2 + ["linear", "matmul", "cut", "join"]
        for _ in range(draw(st.integers(0, 6))):
            self.values += getattr(self, draw(st.sampled_from(kinds)))()
        for role in "yz"[: draw(st.integers(1, 2))]:
            self.b.output(role, self.b.layer_norm(self.linear(self.pick(_is_fixed), 5)))

    def graph(self) -> Graph:
        graph = self.b.build()
        verify(graph)
        return graph

    def pick(self, fits=lambda value: True) -> Any:
        """A late value rather than an early one."""
        fitting = [value for value in self.values if fits(value)]
        return fitting[-1 - min(self.draw(st.integers(0, 3)), len(fitting) - 1)] if fitting else None

    def weight(self, *shape: int) -> Any:
        return self.b.random(key=f"w{len(self.b.ops)}", dtype=DType.f32, shape=shape, std=0.5)

    def _linear(self, x: Any, width: int) -> Any:
        bias = self.weight(width) if self.draw(st.booleans()) else None
        return self.b.linear(x, self.weight(width, x.type.shape[-1]), bias)

    def linear(self, x: Any = None, width: int = 12):
        if x is not None:
            return self._linear(x, width)
        return (self._linear(self.pick(_is_fixed), self.draw(st.sampled_from([6, 12]))),)

    def unary(self):
        x, kind = self.pick(), self.draw(st.sampled_from(UNARY))
        if kind == "softmax":
            return (self.b.softmax(x, axis=self.draw(st.integers(-x.type.rank, x.type.rank - 1))),)
        if kind == "cast":
            return (self.b.cast(x, dtype=DType.f32),)
        return (getattr(self.b, kind)(x),)

    def binary(self):
        a = self.pick()
        others = [value for value in self.values if value.type == a.type]
        constants = [self.weight(a.type.shape[-1])] if _is_fixed(a) else []
        b = self.draw(st.sampled_from([*others, *constants]))
        return (getattr(self.b, self.draw(st.sampled_from(["add", "mul", "sub"])))(a, b),)

    def factors(self):
        """Another shape: one axis as two, or two as one."""
        x = self.pick()
        shape = x.type.shape
        i = self.draw(st.integers(0, len(shape) - 1))
        if self.draw(st.booleans()) and i + 1 < len(shape) and all(isinstance(d, int) for d in shape[i : i + 2]):
            return (self.b.reshape(x, shape=(*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :])),)
        by = self.draw(st.sampled_from([2, 3]))
        if not isinstance(shape[i], int) or shape[i] % by or len(shape) > 4:
            return ()
        pair = self.draw(st.permutations([by, shape[i] // by]))
        return (self.b.reshape(x, shape=(*shape[:i], *pair, *shape[i + 1 :])),)

    def transpose(self):
        x = self.pick()
        return (self.b.transpose(x, perm=tuple(self.draw(st.permutations(range(x.type.rank))))),)

    def matmul(self):
        a = self.pick()
        other = self.pick(lambda b: b.type.shape[:-2] == a.type.shape[:-2] and b.type.shape[-1] == a.type.shape[-1])
        return (self.b.matmul(a, other, transpose_b=True),)

    def cut(self):
        x = self.pick(lambda value: _is_fixed(value) and value.type.shape[-1] % 2 == 0)
        if x is None:
            return ()
        half = x.type.shape[-1] // 2
        if self.draw(st.booleans()):
            return self.b.split(x, axis=-1, sizes=(half, half), names=("left", "right"))
        return (self.b.slice(x, axis=-1, start=self.draw(st.integers(0, half)), size=half),)

    def join(self):
        x = self.pick()
        axis = self.draw(st.integers(0, x.type.rank - 1))
        return (self.b.concat(x, x, axis=axis),) if isinstance(x.type.shape[axis], int) else ()


OUTCOMES: Counter[str] = Counter()


@settings(max_examples=300)
@given(st.composite(lambda draw: Soup(draw).graph())(), st.sampled_from([2, 3]))
def test_soup(graph, ranks):
    try:
        split = run_pipeline(graph, f"tp={ranks}").graph
    except PassError as error:
        OUTCOMES["whole" if "nothing to split" in error.message else "uneven"] += 1
        return
    OUTCOMES["split"] += 1
    inputs = random_inputs(graph)
    options = {"accumulate": torch.float64, "exact": True}
    expected, _ = VirtualRanks(graph, **options)(inputs, [{}])
    found, _ = VirtualRanks(split, **options)(inputs, [{}] * ranks)
    for role, tensor in expected.items():
        torch.testing.assert_close(found[role], tensor, rtol=1e-9, atol=1e-9)


def test_soups_were_split():
    """The test above is not about graphs that stay as they are."""
    assert OUTCOMES["split"] > 60, OUTCOMES
