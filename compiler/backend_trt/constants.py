"""The values of a plan's constants: in the rank's weights file, rows of a tensor there, or computed from others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from torch import Tensor

from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Op, Value
from compiler.trt_network.dtypes import BY_DTYPE
from compiler.trt_network.record import Quantized, TensorRecord, Weight

Load = Callable[[Value], Tensor]
"""Gives the tensor of a stored constant; mapped files keep memory small."""


@dataclass
class Constants:
    """The constants of a graph.

    Attributes:
        graph: a graph whose weights are stored tensors, and ops over them.
        load: gives the stored ones.
    """

    graph: Graph
    load: Load

    def __post_init__(self) -> None:
        self._interpreter = Interpreter(self.graph)

    def weight(self, value: Value) -> Weight | None:
        """Where a constant lies in the weights file; None for one that is computed."""
        op = self.graph.producers[value.name]
        if op.kind.name == "const":
            return Weight(op.attrs["data"].name)
        if op.kind.name == "slice" and op.attrs["axis"] == 0 and (whole := self.weight(op.operands[0])) is not None:
            row = prod(value.type.sizes({})[1:]) * value.type.dtype.bits // 8
            return Weight(whole.tensor, whole.offset + op.attrs["start"] * row)
        return self._quantized(op) if op.kind.name == "dequantize" else None

    def _quantized(self, op: Op) -> Weight | None:
        """A weight to dequantize when it is loaded; None unless its parts are stored."""
        producers = [self.graph.producers[value.name] for value in op.operands]
        if any(producer.kind.name != "const" for producer in producers):
            return None
        codes, scale, *zero = (
            TensorRecord(producer.attrs["data"].name, BY_DTYPE[value.type.dtype].name, value.type.sizes({}))
            for producer, value in zip(producers, op.operands, strict=True)
        )
        quantized = Quantized(codes, scale, zero[0] if zero else None, BY_DTYPE[op.result.type.dtype].name)
        return Weight(codes.name, quantized=quantized)

    def tensor(self, value: Value) -> Tensor:
        """The values of a constant, contiguous."""
        op = self.graph.producers[value.name]
        if op.kind.name == "const":
            return self.load(value)
        results = self._interpreter.evaluate(op, [self.tensor(operand) for operand in op.operands], {})
        return results[op.results.index(value)].contiguous()
