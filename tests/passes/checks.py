"""Golden texts, and numeric equality through the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from textwrap import dedent

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.torch_types import to_torch
from compiler.ir.verifier import verify
from compiler.passes import Pass


def graph_of(body: str, dims: str = "") -> Graph:
    """The verified graph of a text that starts after the head; the dims B and S have ranges if they occur."""
    lines = dedent(body).strip("\n").split("\n")
    ranges = "".join(f"dim {name} = 1..{size}..8\n" for name, size in (("B", 2), ("S", 3)) if _occurs(name, body))
    graph = parse_graph(f'graph test\nroot "."\n{ranges}' + "\n".join(lines))
    verify(graph)
    return graph


def _occurs(name: str, body: str) -> bool:
    return any(f"{before}{name}{after}" in body for before in "[,*" for after in "],*")


def body_of(graph: Graph) -> str:
    """The text of a graph after its head."""
    return print_graph(graph).partition('root "."\n')[2]


def assert_golden(step: Pass, before: str, after: str) -> Graph:
    """The pass turns one text into the other, and the result verifies. Returns it."""
    result = step(graph_of(before))
    verify(result)
    assert body_of(result) == body_of(graph_of(after))
    return result


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Tensor]:
    """Inputs for a graph, each dim at its typical size; integers are 0, 1 or 2."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: range_.opt for name, range_ in graph.dims.items()}
    inputs = {}
    for value in graph.inputs:
        shape = value.type.sizes(sizes)
        if value.type.dtype.is_float:
            tensor = torch.randn(shape, generator=generator)
        else:
            tensor = torch.randint(2 if value.type.dtype is DType.bool else 3, shape, generator=generator)
        inputs[value.name] = tensor.to(to_torch(value.type.dtype))
    return inputs


def compute(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs; floating-point inputs are first rounded to what the graph takes."""
    wanted = {value.name: to_torch(value.type.dtype) for value in graph.inputs}
    return Interpreter(graph)({name: tensor.to(wanted[name]) for name, tensor in inputs.items()})


def assert_same_meaning(before: Graph, after: Graph, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Both graphs compute the same outputs: to the last bit, unless a tolerance is given."""
    inputs = random_inputs(before)
    expected, found = compute(before, inputs), compute(after, inputs)
    assert found.keys() == expected.keys()
    exact = rtol == atol == 0.0
    for role, tensor in expected.items():
        torch.testing.assert_close(
            found[role],
            tensor,
            rtol=rtol,
            atol=atol,
            equal_nan=True,
            check_dtype=exact,
            msg=partial("{}: {}".format, role),
        )
