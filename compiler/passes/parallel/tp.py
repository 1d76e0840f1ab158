"""The pass `tp`: it splits each layer over ranks, for tensor parallelism (Shoeybi et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

# Importing this module registers the sharding rules.
import compiler.passes.parallel.sharding_rules  # noqa: F401
from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of, with_facts
from compiler.ir.trace import current_trace
from compiler.passes.merge_linears import merge_linears
from compiler.passes.notes import note
from compiler.passes.parallel.emit import emit
from compiler.passes.parallel.explain import note_collectives
from compiler.passes.parallel.graph_factors import GraphFactors
from compiler.passes.parallel.reductions import merge_reductions
from compiler.passes.parallel.sharding import Sharding, choose_sharding
from compiler.passes.parallel.unmerge import unmerge_linears
from compiler.passes.parallel.unsort import sorted_linears, unsort
from compiler.passes.parallel.vocabulary import heads
from compiler.passes.registry import register


@register("tp")
@dataclass(frozen=True)
class TensorParallel:
    """Split the work of each layer over ranks that hold a shard of the weights and of the caches each.

    Linears whose outputs another linear sums over are split in pairs: the first by outputs, the second by inputs, whose
    sums the ranks add up. Found by reasoning over the graph, not by names. Norms, embeddings and the output head stay
    whole; `embed` splits the latter two.
    """

    ranks: Annotated[int, "how many ranks share each layer"]

    def requires(self, graph: Graph) -> None:
        """The number of ranks must divide what is split: query heads, and the inner width of feed-forward layers."""
        if self.ranks < 1:
            raise PassError(f"tp={self.ranks} is no number of ranks", hint="tp=1 leaves the model on one rank")
        if mesh_of(graph).tp > 1:
            raise PassError(
                f"the graph is split over tp={mesh_of(graph).tp} ranks already", hint="name tp once in --passes"
            )

    def __call__(self, graph: Graph) -> Graph:
        """The graph that every rank of a stage runs, on its own shards."""
        if self.ranks == 1:
            return with_facts(graph, tp=1)
        apart = self._unsorted(unmerge_linears(graph, "tp"))
        factors = GraphFactors(apart)
        sharding = choose_sharding(factors, self.ranks)
        split = merge_reductions(emit(factors, sharding, self.ranks, "tp"), "tp")
        if apart is not graph:
            split = merge_linears(split)
        _explain(factors, sharding, split)
        _note_whole(factors, sharding)
        return with_facts(split, tp=self.ranks)

    def _unsorted(self, graph: Graph) -> Graph:
        """The graph in which linears that can be split by their inputs get them as they are, not sorted."""
        known = sorted_linears(graph)
        if not known:
            return graph
        sharding = choose_sharding(GraphFactors(unsort(graph, known, "tp")), self.ranks)
        rows = {op.name for pair in sharding.pairs for op in pair.rows}
        if undone := rows & known.keys():
            note(
                f"{len(undone)} quantized linears are stored dequantized: their weights are in the order of "
                "activations (desc_act), of which no rank has whole groups"
            )
        return unsort(graph, rows, "tp")


def _note_whole(factors: GraphFactors, sharding: Sharding) -> None:
    """Say which linears stay whole, but for the output head, which is for `embed` to split."""
    outputs = sharding.heads | {op.name for op in heads(factors.graph)}
    whole = [(op, reason) for op, reason in sharding.declined.values() if op.name not in outputs]
    if whole:
        op, reason = whole[0]
        more = f", and {len(whole) - 1} more" if len(whole) > 1 else ""
        note(
            f"{len(whole)} of {len(factors.contractions)} linears stay whole on every rank: %{op.name} from "
            f"{op.origin} ({reason}){more}; --explain lists them"
        )


def _explain(factors: GraphFactors, sharding: Sharding, split: Graph) -> None:
    trace = current_trace()
    if trace is None:
        return
    columns = {op.name: op for pair in sharding.pairs for op in pair.columns}
    rows = {op.name: op for pair in sharding.pairs for op in pair.rows}
    for name, ops in (("split by outputs", columns), ("split by inputs", rows)):
        record = trace.rule("tp", name)
        record.roots = ("linear",)
        record.met = {op.name for op in factors.contractions}
        for op in ops.values():
            record.apply(op)
    whole = trace.rule("tp", "whole")
    whole.roots, whole.met = ("linear",), {op.name for op in factors.contractions}
    for op, reason in sharding.declined.values():
        whole.decline(op, reason)
    note_collectives("tp", split)
