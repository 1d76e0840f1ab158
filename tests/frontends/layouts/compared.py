"""Whether two checkpoints are one model: their lifted graphs compute the same with the same numbers, bit for bit."""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compiler.errors import LlmcError
from compiler.frontends import Limits, lift, open_checkpoint
from compiler.frontends.source_options import SourceOptions
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Op
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.verifier import verify
from tests.frontends.steps import random_rows, run_rows

LIMITS = Limits(max_batch=4, max_input=16, max_seq=24)


def lifted(path: Path, source: SourceOptions | None = None) -> Graph:
    """The graph of a checkpoint, verified, and proven to survive printing and parsing."""
    graph = lift(open_checkpoint(path, source=source), limits=LIMITS)
    verify(graph)
    assert parse_graph(print_graph(graph)) == graph
    return graph


def weights(graph: Graph) -> dict[str, Tensor]:
    """What the model's ops take from the checkpoint, by its name in the graph: merged, turned and cast."""
    interpreter = Interpreter(graph)
    values: dict[str, Tensor] = {}
    used: dict[str, Tensor] = {}
    for op in graph.ops:
        if _is_constant(op, values):
            results = interpreter.evaluate(op, [values[value.name] for value in op.operands], {})
            values |= {value.name: tensor for value, tensor in zip(op.results, results, strict=True)}
        else:
            used |= {value.name: values[value.name] for value in op.operands if value.name in values}
    return used


def _is_constant(op: Op, constant: Container[str]) -> bool:
    fixed = all(isinstance(dim, int) for value in op.results for dim in value.type.shape)
    return fixed and all(value.name in constant for value in op.operands)


def computation(graph: Graph) -> list[Any]:
    """The ops that depend on the inputs, without what weights are made of."""
    constant: set[str] = set()
    steps: list[Any] = []
    for op in graph.ops:
        if _is_constant(op, constant):
            constant |= {value.name for value in op.results}
        else:
            steps.append((op.kind.name, op.attrs, [str(v) for v in op.operands], [str(v) for v in op.results]))
    return steps


def assert_same_model(path: Path, expected: Path, *, source: SourceOptions | None = None) -> None:
    """Both lift to the same computation on the same weights; `source` is what is said of the first."""
    found, wanted = lifted(path, source), lifted(expected)
    assert computation(found) == computation(wanted)
    assert_same_tensors(weights(found), weights(wanted))
    assert found.facts == wanted.facts


def assert_same_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """The same names with the same bits."""
    assert found.keys() == wanted.keys()
    different = [name for name in wanted if not torch.equal(found[name], wanted[name])]
    assert not different, different


def assert_same_logits(path: Path, expected: Path, vocab: int) -> None:
    """The logits of random rows, in float64, agree up to the order in which products over turned weights are summed."""
    rows = random_rows(vocab, seed=1)
    for a, b in zip(run_rows(lifted(path), rows), run_rows(lifted(expected), rows), strict=True):
        assert (a - b).abs().max() <= 2.0**-40 * b.abs().max()


def refusal(path: Path) -> LlmcError:
    """The error of a checkpoint that cannot be lifted."""
    try:
        lift(open_checkpoint(path), limits=LIMITS)
    except LlmcError as error:
        return error
    raise AssertionError("it was lifted")
