"""How many bytes an engine will take, as far as it can be told before it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.ir.constants import needed_constants
from compiler.ir.graph import Graph
from compiler.targets import Target

# The graph's text, the tokenizer and the manifest: what an engine takes besides weights and the files of targets.
_BYTES_PER_OP = 300
_BYTES_OF_THE_REST = 1 << 18


def needed_bytes(ranks: Sequence[Graph], targets: Mapping[str, Target]) -> int:
    """About how many bytes an engine takes while it is written.

    Args:
        ranks: the graph of each rank, as it will be stored.
        targets: what it is built for.
    """
    own = sum(target.estimate_bytes(rank) for target in targets.values() for rank in ranks)
    return sum(map(_rank_bytes, ranks)) + own + _BYTES_OF_THE_REST


def _rank_bytes(graph: Graph) -> int:
    return sum(value.type.nbytes for value in needed_constants(graph)) + _BYTES_PER_OP * len(graph.ops)
