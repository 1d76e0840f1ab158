"""Digests of graphs: equal ones compute the same from the same weights, bit for bit, whatever values are called."""

import hashlib

import torch
from torch import Tensor

from compiler.exporters.template import comparable
from compiler.ir.analysis import stored_values
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter


def outputs_of(graph: Graph) -> dict[str, str]:
    """The digest of each output: of the ops behind it, and of the bytes of the constants that they use."""
    graph = comparable(graph, graph)
    interpreter, constant = Interpreter(graph), stored_values(graph)
    tensors: dict[str, Tensor] = {}
    digests = {value.name: f"input {value.name} {value.type}" for value in graph.inputs}
    for op in graph.ops:
        if all(value.name in constant for value in op.results):
            found = interpreter.evaluate(op, [tensors[value.name] for value in op.operands], {})
            for value, tensor in zip(op.results, found, strict=True):
                tensors[value.name] = tensor
                data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                digests[value.name] = _digest(str(value.type), data)
            continue
        operands = ",".join(digests[value.name] for value in op.operands)
        for i, value in enumerate(op.results):
            digests[value.name] = _digest(f"{op.kind.name} {op.attrs} {i} {value.type} {operands}")
    return {role: digests[value.name] for role, value in graph.outputs.items()}


def _digest(text: str, data: bytes = b"") -> str:
    return hashlib.sha256(text.encode() + data).hexdigest()
