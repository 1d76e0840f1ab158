"""Loading the constants of a graph whose weights were written for a rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from compiler.errors import EngineError
from compiler.ir.evaluators.core import evaluator
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.tensor_data import view_bytes


def constant_loader(graph: Graph) -> Callable[[Value], Tensor]:
    """A function that gives the tensor of a constant; stored ones are views of the mapped files."""
    files: dict[str, Tensor] = {}

    def mapped(file: str) -> Tensor:
        if file not in files:
            path = Path(graph.root) / file
            try:
                files[file] = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
            except (OSError, RuntimeError) as error:
                raise EngineError(f"cannot read the weights {path}: {error}") from error
        return files[file]

    def load(value: Value) -> Tensor:
        op = graph.producers[value.name]
        if op.kind.name == "const":
            ref = op.attrs["data"]
            whole = mapped(ref.file)
            if ref.offset + ref.type.nbytes > whole.numel():
                raise EngineError(
                    f"{Path(graph.root) / ref.file} ends inside tensor {ref.name!r}",
                    hint="the file is truncated; compile again",
                )
            return view_bytes(whole[ref.offset : ref.offset + ref.type.nbytes], ref.type)
        if not op.operands:
            tensor: Tensor = evaluator(op.kind.name).compute(op.attrs, {})
            return tensor
        raise EngineError(
            f"%{value.name} is a constant that was not computed when the engine was built",
            hint="give the graph to compiler.store.ranks first",
        )

    return load
