"""When values are last used."""

from collections.abc import Set

from compiler.ir.graph import Graph


def last_uses(graph: Graph, keep: Set[str] = frozenset()) -> list[tuple[str, ...]]:
    """For each op, the values that nothing needs after it (its own unused results included).

    Outputs and the values in `keep` are never among them.
    """
    needed = {value.name for value in graph.outputs.values()} | keep
    dead_after: list[tuple[str, ...]] = []
    for op in reversed(graph.ops):
        names = {value.name for value in (*op.operands, *op.results)} - needed
        dead_after.append(tuple(sorted(names)))
        needed |= names
    return dead_after[::-1]
