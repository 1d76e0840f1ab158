"""Which ops of a packed step graph run together on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.ir.graph import Graph
from runtime.executors.cuda.attention_fusion import attention_fusions
from runtime.executors.cuda.dataflow import Dataflow
from runtime.executors.cuda.norm_fusion import norm_fusions, sum_fusions
from runtime.executors.cuda.product_fusion import MakeProduct, product_fusions
from runtime.executors.cuda.rounding_fusion import rounding_fusions
from runtime.executors.torch.lowering import Fusion


def find_fusions(graph: Graph, make: MakeProduct) -> list[Fusion]:
    """The fusions of a graph; no op is in two.

    Args:
        graph: the graph of packed steps of a rank.
        make: makes a product of weights.
    """
    return [*_found(Dataflow(graph), make)]


def _found(flow: Dataflow, make: MakeProduct) -> Iterator[Fusion]:
    yield from attention_fusions(flow)
    yield from rounding_fusions(flow)
    yield from norm_fusions(flow, make)
    yield from sum_fusions(flow, make)
    yield from product_fusions(flow, make)
