"""Which ops of a packed step graph run together on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.ir.graph import Graph
from runtime.collectives.communicator import Communicator
from runtime.executors.cuda.attention_fusion import attention_fusions
from runtime.executors.cuda.dataflow import Dataflow
from runtime.executors.cuda.kernels.peer_sums import PeerSums
from runtime.executors.cuda.norm_fusion import norm_fusions, sum_fusions
from runtime.executors.cuda.product_fusion import MakeProduct, product_fusions
from runtime.executors.cuda.reduce_fusion import reduce_fusions
from runtime.executors.cuda.rounding_fusion import rounding_fusions
from runtime.executors.torch.lowering import Fusion


def find_fusions(
    graph: Graph, make: MakeProduct, peers: PeerSums | None = None, group: Communicator | None = None
) -> list[Fusion]:
    """The fusions of a graph; no op is in two.

    Args:
        graph: the graph of packed steps of a rank.
        make: makes a product of weights.
        peers: sums over the ranks of the graph's stage, where they share memory.
        group: these ranks.
    """
    return [*_found(Dataflow(graph), make, peers, group)]


def _found(flow: Dataflow, make: MakeProduct, peers: PeerSums | None, group: Communicator | None) -> Iterator[Fusion]:
    yield from attention_fusions(flow)
    yield from rounding_fusions(flow)
    if peers is not None and group is not None:
        yield from reduce_fusions(flow, make, peers, group)
    yield from norm_fusions(flow, make)
    yield from sum_fusions(flow, make)
    yield from product_fusions(flow, make)
