"""The kinds of op, by name: `ops.relu` is what `op.kind` is for a relu."""

from __future__ import annotations

from collections.abc import Iterator

import compiler.ir.ops  # noqa: F401 - registers the ops
from compiler.ir.op import OPS, OpKind, op_kind


class OpKinds:
    """Every kind of op as an attribute, those of plug-ins too, with its docstring and signature under `help`.

        activations = [op for op in graph.ops if op.kind in (ops.gelu, ops.relu)]

    A name that no op has is a GraphError with a suggestion, so that a misspelt one cannot pass for an op that is not
    in the graph. Iterating gives the names.
    """

    def __getattr__(self, name: str) -> OpKind:
        if name.startswith("_"):
            raise AttributeError(name)
        return op_kind(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(OPS))

    def __dir__(self) -> list[str]:
        return sorted(OPS)


ops = OpKinds()
