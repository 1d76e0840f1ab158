"""Where the values of a lifted graph are to be seen in the modules of its `transformers` model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compiler.ir.analysis import constant_values
from compiler.ir.evaluators.core import evaluator
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value

_LAYOUT = ("reshape", "transpose", "split", "slice")
_NORMS = ("layer_norm", "rms_norm")


@dataclass(frozen=True)
class Tap:
    """A value of the graph in a module of the model.

    Attributes:
        name: the name of the value.
        module: the path of the module.
        is_input: whether it is what the module is given, not what it returns.
        features: which of the last axis of it make up the value; None for all.
    """

    name: str
    module: str
    is_input: bool = False
    features: Tensor | None = None


def find_taps(graph: Graph, model: Any) -> list[Tap]:
    """What of a lifted graph can be seen in a model: results and operands of linears, norms, embeddings, and layers.

    Args:
        graph: the graph, before any pass.
        model: the model of `transformers` with the modules that the graph's weights are named after.
    """
    finder = _Finder(graph, model)
    found: dict[str, Tap] = {}
    for tap in finder.taps():
        found.setdefault(tap.name, tap)
    return list(found.values())


class _Finder:
    def __init__(self, graph: Graph, model: Any) -> None:
        self._graph, self._constant = graph, constant_values(graph)
        self._modules: Mapping[str, Any] = dict(model.named_modules())
        self._prefix = f"{model.base_model_prefix}."
        self._rows: dict[Any, Tensor | None] = {}

    def taps(self) -> Iterator[Tap]:
        last: dict[str, Op] = {}
        for op in self._graph.ops:
            if op.name in self._constant:
                continue
            if (layer := self._layer(op.origin.module)) is not None:
                last[layer] = op
            yield from self._of(op)
        for layer, op in last.items():
            yield Tap(op.name, layer)

    def _of(self, op: Op) -> Iterator[Tap]:
        kind, path = op.kind.name, self._path(op.origin.module)
        if kind == "linear":
            yield from self._of_linear(op)
        elif kind in _NORMS and path is not None and not any(self._modules[path].children()):
            yield Tap(op.name, path)
            yield Tap(op.operands[0].name, path, is_input=True)
        elif kind == "embedding" and path is not None and isinstance(self._modules[path], torch.nn.Embedding):
            yield Tap(op.name, path)

    def _of_linear(self, op: Op) -> Iterator[Tap]:
        stored = self._stored(op.operands[1])
        path = None if stored is None else self._path(stored.attrs["data"].name.removesuffix(".weight"))
        if stored is None or path is None or isinstance(self._modules[path], torch.nn.Embedding):
            return  # a head that is tied to the embedding: its logits are those of the model
        transposed = type(self._modules[path]).__name__ == "Conv1D"
        features = self._features(op.operands[1], stored, axis=1 if transposed else 0)
        yield Tap(op.name, path, features=features)
        yield Tap(op.operands[0].name, path, is_input=True)

    def _layer(self, module: str) -> str | None:
        """The layer that a module is, or is a part of: one of a list of modules; None if it is in none."""
        path = self._path(module) or ""
        while path and not path.rpartition(".")[2].isdigit():
            path = path.rpartition(".")[0]
        return path or None

    def _path(self, module: str) -> str | None:
        """The module of the model that a checkpoint calls so: some leave the name of the inner model out."""
        for path in (module, self._prefix + module, module.removeprefix(self._prefix)):
            if module and path in self._modules:
                return path
        return None

    def _stored(self, value: Value) -> Op | None:
        """The stored tensor that a weight is a part of; None if more is done to it than to lay it out."""
        op = self._graph.producers.get(value.name)
        while op is not None and op.kind.name in _LAYOUT:
            op = self._graph.producers.get(op.operands[0].name)
        return op if op is not None and op.kind.name == "const" else None

    def _features(self, weight: Value, stored: Op, axis: int) -> Tensor | None:
        """Which output features of a stored weight, which lie along `axis`, the rows of `weight` are; None for all."""
        shape = stored.attrs["data"].type.shape
        chain = self._chain(weight)
        key = (shape, axis, tuple((op.kind.name, op.attrs, [r.name for r in op.results].index(n)) for op, n in chain))
        if key not in self._rows:
            numbers = torch.arange(shape[axis], dtype=torch.int32)
            numbers = (numbers if axis else numbers[:, None]).expand(shape)
            for op, name in chain:
                results = evaluator(op.kind.name).compute(op.attrs, {}, numbers)
                names = [result.name for result in op.results]
                numbers = results[names.index(name)] if isinstance(results, tuple) else results
            rows = numbers[:, 0].long()
            self._rows[key] = None if torch.equal(rows, torch.arange(shape[axis])) else rows
        return self._rows[key]

    def _chain(self, value: Value) -> list[tuple[Op, str]]:
        """The ops between a stored tensor and a value, with the name of the result that is used of each."""
        chain: list[tuple[Op, str]] = []
        op, name = self._graph.producers[value.name], value.name
        while op.kind.name != "const":
            chain.insert(0, (op, name))
            name = op.operands[0].name
            op = self._graph.producers[name]
        return chain
