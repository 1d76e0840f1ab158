"""The interpreter: the meaning of a graph, computed op by op in torch.

It is the oracle for passes and targets, gathers statistics through observers, and is where a new op starts. It is
written to be obviously right, not fast; executors are fast.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import compiler.ir.evaluators.blocks
import compiler.ir.evaluators.nn
import compiler.ir.evaluators.paged
import compiler.ir.evaluators.quant
import compiler.ir.evaluators.unpack  # noqa: F401 - registers the evaluators
from compiler.errors import GraphError, LlmcError, PluginError, is_out_of_memory
from compiler.ir.analysis import constant_values, last_uses
from compiler.ir.collectives import COLLECTIVES, Communicate, alone
from compiler.ir.dims import Affine
from compiler.ir.evaluators.core import EVALUATORS, evaluator
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.tensor_data import read_const
from compiler.ir.torch_types import from_torch, to_torch
from compiler.plugins import blame

Observer = Callable[[Op, Sequence[Tensor], Sequence[Tensor]], None]


class Interpreter:
    """Runs a graph.

    Args:
        graph: the graph; its constants are read from the files they point at, on first use, and kept.
        accumulate: the type that floating-point arithmetic is done in, `torch.float32` or `torch.float64`.
        exact: never round: every floating-point value has type `accumulate`, whatever the graph says. With float64
            this is what the model would compute in real numbers.
        observers: called after each op with `(op, operands, results)`, as they stand in the graph's types.
        device: where to compute.
        communicate: how a rank computes collectives with the others; only a rank that is alone needs none.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        accumulate: torch.dtype = torch.float32,
        exact: bool = False,
        observers: Sequence[Observer] = (),
        device: str | torch.device = "cpu",
        communicate: Communicate = alone,
    ) -> None:
        self.graph = graph
        self.accumulate = accumulate
        self.exact = exact
        self.observers = tuple(observers)
        self.device = torch.device(device)
        self.communicate = communicate
        self._constants: dict[str, Tensor] = {}
        self._constant_names = constant_values(graph)
        self._last_uses = last_uses(graph, keep=self._constant_names)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph on one tensor for each input; returns the outputs by role.

        Raises:
            GraphError: if an input is missing, unknown, or has another type or shape than declared.
        """
        steps = self.steps(inputs)
        try:
            op, operand = next(steps)
            while True:
                op, operand = steps.send(self.communicate(op, operand))
        except StopIteration as done:
            outputs: dict[str, Tensor] = done.value
            return outputs

    @torch.no_grad()
    def steps(self, inputs: Mapping[str, Tensor]) -> Generator[tuple[Op, Tensor], Tensor, dict[str, Tensor]]:
        """A call that pauses at each collective: it yields the op with its operand, and takes the op's result.

        Raises:
            GraphError: like a call.
        """
        sizes = bind_inputs(self.graph, inputs, any_float=self.exact)
        values = {name: self._received(tensor) for name, tensor in inputs.items()}
        values.update(self._constants)
        for op, dead in zip(self.graph.ops, self._last_uses, strict=True):
            if op.results[0].name in self._constants:
                continue
            operands = [values[value.name] for value in op.operands]
            if op.kind.name in COLLECTIVES:
                results: tuple[Tensor, ...] = (self._typed((yield op, self._widened(operands[0])), op.result),)
            else:
                results = self.evaluate(op, operands, sizes)
            for value, tensor in zip(op.results, results, strict=True):
                values[value.name] = tensor
                if value.name in self._constant_names:
                    self._constants[value.name] = tensor
            for observer in self.observers:
                observer(op, operands, results)
            for name in dead:
                del values[name]
        return {role: values[value.name] for role, value in self.graph.outputs.items()}

    def evaluate(self, op: Op, operands: Sequence[Tensor], sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
        """The results of one op, in the types that the graph gives them."""
        try:
            if op.kind.name == "const":
                results: Any = read_const(op, self.graph.root).to(self.device)
            else:
                rule = evaluator(op.kind.name, f", which %{op.name} from {op.origin} is")
                given = operands if rule.exact else [self._widened(tensor) for tensor in operands]
                steps = {"rounding": lambda x: self._widened(self._typed(x, op.result))} if rule.stepwise else {}
                results = rule.compute(op.attrs, sizes, *given, **steps)
        except LlmcError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            where = f"{op.kind.name} %{op.name} from {op.origin}"
            if not EVALUATORS.is_own(op.kind.name):
                blame(error, rule.compute, f"the evaluator of {where}")
            raise GraphError(f"the interpreter failed at {where}: {error}") from error
        tensors = results if isinstance(results, tuple) else (results,)
        if not EVALUATORS.is_own(op.kind.name):
            _check_results(op, tensors, sizes)
        return tuple(self._typed(tensor, value) for tensor, value in zip(tensors, op.results, strict=True))

    def _widened(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.accumulate) if tensor.is_floating_point() else tensor

    def _received(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device)
        return self._widened(tensor) if self.exact else tensor

    def _typed(self, tensor: Tensor, value: Value) -> Tensor:
        tensor = tensor.to(self.device)
        if self.exact and value.type.dtype.is_float:
            return tensor.to(self.accumulate)
        return tensor.to(to_torch(value.type.dtype))


def _check_results(op: Op, tensors: tuple[Any, ...], sizes: Mapping[str, int]) -> None:
    """PluginError if an evaluator that is not llmc's own gives other results than the op's type rule says."""
    found = [list(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}" for x in tensors]
    try:
        wanted = [list(value.type.sizes(sizes)) for value in op.results]
    except KeyError:  # a dim that no input shows by itself
        return
    if found != wanted:
        raise PluginError(
            f"the evaluator of {op.kind.name} %{op.name} from {op.origin} gives {', '.join(map(str, found))} where its "
            f"type rule says {', '.join(str(value.type) for value in op.results)}, here {', '.join(map(str, wanted))} "
            f"({EVALUATORS.place(op.kind.name)})",
            hint="mend the evaluator, or the type rule",
        )


def bind_inputs(graph: Graph, inputs: Mapping[str, Tensor], *, any_float: bool = False) -> dict[str, int]:
    """The sizes of the symbolic dims that the inputs' shapes imply.

    With `any_float`, a floating-point input may come in any floating-point type.

    Raises:
        GraphError: if an input is missing, unknown, or has another type or shape than declared.
    """
    unknown = sorted(inputs.keys() - {value.name for value in graph.inputs})
    if unknown:
        raise GraphError(f"the graph has no input {', '.join(unknown)}")
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        if value.name not in inputs:
            raise GraphError(f"the input %{value.name} is missing")
        tensor = inputs[value.name]
        right_dtype = from_torch(tensor.dtype) is value.type.dtype or (
            any_float and tensor.is_floating_point() and value.type.dtype.is_float
        )
        if not right_dtype or tensor.dim() != value.type.rank:
            raise GraphError(
                f"the input %{value.name} is {value.type}; a {tensor.dtype} of {list(tensor.shape)} was given"
            )
        for dim, size in zip(value.type.shape, tensor.shape, strict=True):
            if isinstance(dim, Affine) and len(dim.terms) == 1 and dim.terms[0][1] == 1 and not dim.offset:
                sizes.setdefault(dim.terms[0][0], size)
    for value in graph.inputs:
        shape = tuple(inputs[value.name].shape)
        if shape != value.type.sizes(sizes):
            raise GraphError(f"the input %{value.name} is {value.type}; {list(shape)} was given where {sizes}")
    return sizes
