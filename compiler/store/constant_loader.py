"""Loading the constants of a graph whose weights were written for a rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from compiler.errors import EngineError
from compiler.ir.evaluators.core import evaluator
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.store.mapped_file import MappedFile


def constant_loader(graph: Graph) -> Callable[[Value], Tensor]:
    """A function that gives the tensor of a constant; stored ones, and these reshaped, are views of the mapped files.

    It raises EngineError for a file that cannot be read or ends too early, and for a constant that is not stored.
    """
    files: dict[str, MappedFile] = {}

    def load(value: Value) -> Tensor:
        op = graph.producers[value.name]
        if op.kind.name == "const":
            ref = op.attrs["data"]
            if ref.file not in files:
                files[ref.file] = MappedFile(Path(graph.root) / ref.file)
            return files[ref.file].view(ref)
        if not op.operands:
            tensor: Tensor = evaluator(op.kind.name).compute(op.attrs, {})
            return tensor
        if op.kind.name == "reshape":
            return load(op.operands[0]).reshape(op.attrs["shape"])
        raise EngineError(
            f"%{value.name} is a constant that was not computed when the engine was built",
            hint="give the graph to compiler.store.write_ranks first",
        )

    return load
