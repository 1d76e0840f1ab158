"""An executor that interprets the engine's graph, op by op: slow, and the reference for the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.torch_types import to_torch


class InterpreterSession:
    """A batch whose caches are the tensors of the last step. See `runtime.executor.Session`."""

    def __init__(self, interpreter: Interpreter, batch: int, capacity: int) -> None:
        self.batch, self.capacity = batch, capacity
        self._interpreter = interpreter
        sizes = {"B": batch, "C": capacity}
        self._state = {
            name: torch.zeros(value.type.sizes(sizes), dtype=to_torch(value.type.dtype))
            for name, (value, _) in interpreter.graph.states().items()
        }

    def step(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor) -> Tensor:
        """See `runtime.executor.Session.step`."""
        step = {"token_ids": token_ids, "past_len": past_len, "new_len": new_len, "logit_pos": logit_pos}
        outputs = self._interpreter({**step, **self._state})
        self._state = {name: outputs[name] for name in self._state}
        return outputs["logits"]


class InterpreterExecutor:
    """A graph, interpreted. See `runtime.executor.Executor`."""

    name = "interpreter"

    def __init__(self, graph: Graph) -> None:
        self._interpreter = Interpreter(graph)

    @classmethod
    def load(cls, folder: Path, rank_files: Mapping[str, str]) -> InterpreterExecutor:
        """The executor of one rank of an engine's torch target."""
        return cls(read_graph(folder / rank_files["graph"]))

    def open(self, batch: int, capacity: int) -> InterpreterSession:
        """See `runtime.executor.Executor.open`."""
        dims = self._interpreter.graph.dims
        for what, size, limit in (("sequences", batch, dims["B"].max), ("tokens a sequence", capacity, dims["C"].max)):
            if size > limit:
                raise RequestError(f"{size} {what} were asked for; the engine was built for {limit}")
        return InterpreterSession(self._interpreter, batch, capacity)
