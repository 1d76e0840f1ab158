"""Which ops TensorRT's messages speak of."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compiler.ir.graph import Graph
from compiler.ir.op import Op


def ops_named(graph: Graph, messages: Sequence[str]) -> list[Op]:
    """The ops whose layers the messages name, those named most precisely first."""
    text = "\n".join(messages)
    named = [op for op in graph.ops if any(_mentions(text, value.name) for value in op.results)]
    return sorted(named, key=lambda op: -len(op.name))


def _mentions(text: str, name: str) -> bool:
    return name in text and re.search(rf"(?<![\w.]){re.escape(name)}(?!\w|\.\w)", text) is not None
