"""A graph, or those of all ranks of a mesh, interpreted, as a side of a trace."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from compiler.ir.analysis import constant_values
from compiler.ir.chunks import BUDGET, chunk_length
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Observer
from compiler.ir.op import Op
from compiler.ir.packed_step import PackedStep, SequenceStep
from compiler.ir.paged_layout import PagedLayout, layout_of
from compiler.ir.step import Step
from compiler.ir.types import TensorType
from compiler.ir.virtual_ranks import States, VirtualRanks
from llmc.dtypes import long_spelling
from llmc.tracing.source import Emit, Traced
from llmc.verification.padded import PaddedForm
from runtime.executors.memory import memory_for


class GraphSource:
    """A graph, interpreted: on all ranks of its mesh, in one process. See `llmc.tracing.source.Source`.

    Args:
        graphs: the graph, or those of all ranks, in order.
        words: what it is.
    """

    def __init__(self, graphs: Sequence[Graph], words: str) -> None:
        first = graphs[0]
        self.words, self.dtype = words, long_spelling(str(first.facts["dtype"]))
        whole = len(graphs) == 1 and "rank" not in first.facts
        self._ranks = VirtualRanks(first) if whole else VirtualRanks.of(graphs)
        self._forms = [PaddedForm(graph) for graph in self._ranks.graphs]
        mesh = self._ranks.mesh
        self.ranks = mesh.tp
        self.graphs = tuple(self._ranks.graphs[mesh.rank(stage, 0)] for stage in range(mesh.pp))
        self.values: dict[str, Traced] = {}
        self._stage_of: dict[str, int] = {}
        for stage, graph in enumerate(self.graphs):
            self._add(stage, graph, self._forms[mesh.rank(stage, 0)].types)
        self.quantizes = any(
            op.kind.name == "quantize" and op.name not in constant_values(graph)
            for graph in self.graphs
            for op in graph.ops
        )

    def _add(self, stage: int, graph: Graph, types: Mapping[str, TensorType]) -> None:
        constant = constant_values(graph)
        for op in graph.ops:
            for value in op.results:
                if value.name in types and value.name not in self.values:
                    self.values[value.name] = Traced(value.name, op, types[value.name], value.name in constant)
                    self._stage_of[value.name] = stage

    def chunk(self, length: int) -> int:
        """See `Source.chunk`; the logits of all tokens are counted, too."""
        graphs = self._ranks.graphs
        most = BUDGET // int(graphs[0].facts["vocab_size"])
        if isinstance(layout_of(graphs[0]), PagedLayout):
            heads = int(graphs[0].facts["heads"])
            return max(1, min(length, most, BUDGET // (heads * length)))
        return max(1, min(most, *(chunk_length(graph, 1, length, holds_scores=lambda op: True) for graph in graphs)))

    def run(self, steps: Sequence[Step], wanted: Collection[str], emit: Emit) -> None:
        """See `Source.run`."""
        length = sum(int(step.new_len[0]) for step in steps)
        layout = layout_of(self._ranks.graphs[0])
        blocks = layout.blocks_for(length) if isinstance(layout, PagedLayout) else 0
        ranks = VirtualRanks.of(self._ranks.graphs, keep_constants=len(steps) > 1)
        states: States = ranks.empty_pools(blocks) if blocks else ranks.empty_states(1, length)
        for number, step in enumerate(steps):
            packed = _packed(step, blocks) if blocks else None
            shown = _Shown(self, number, step, packed, wanted, emit)
            for rank, interpreter in enumerate(ranks.interpreters):
                interpreter.observers = (shown.observer(rank),)
            with memory_for(f"tracing {length} tokens"):
                _, states = ranks((packed or step)._asdict(), states)

    def owner(self, name: str) -> int:
        """The stage whose value of this name is shown."""
        return self._stage_of[name]

    def place(self, rank: int) -> tuple[int, int]:
        """The stage of a rank, and its place in it."""
        return self._ranks.mesh.place(rank)

    def shown(self, rank: int, name: str, tensor: Tensor, step: Step, packed: PackedStep | None) -> Tensor:
        """A value of a rank as in a padded step, without the places of caches that hold no token."""
        form = self._forms[rank]
        tensor = form.values({name: tensor}, step, packed)[name]
        for axis, dim in enumerate(form.types[name].shape):
            if dim == form.capacity:
                tensor = tensor.narrow(axis, 0, int(step.past_len[0] + step.new_len[0]))
        return tensor


class _Shown:
    """Shows the wanted values of one step, each as soon as all ranks of its stage have it."""

    def __init__(
        self,
        source: GraphSource,
        number: int,
        step: Step,
        packed: PackedStep | None,
        wanted: Collection[str],
        emit: Emit,
    ) -> None:
        self._source, self._number, self._step, self._packed, self._emit = source, number, step, packed, emit
        self._wanted = {name for name in wanted if number == 0 or not source.values[name].constant}
        self._parts: dict[str, list[Tensor]] = {}

    def observer(self, rank: int) -> Observer:
        stage, _ = self._source.place(rank)

        def observe(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
            for value, tensor in zip(op.results, results, strict=True):
                if value.name in self._wanted and self._source.owner(value.name) == stage:
                    self._add(rank, value.name, tensor)

        return observe

    def _add(self, rank: int, name: str, tensor: Tensor) -> None:
        """The ranks of a stage compute a value in order."""
        parts = self._parts.setdefault(name, [])
        parts.append(self._source.shown(rank, name, tensor, self._step, self._packed))
        if len(parts) == self._source.ranks:
            self._emit(self._number, name, self._parts.pop(name))


def _packed(step: Step, blocks: int) -> PackedStep:
    """A step of one row as packed tokens; the row is all that is in the pools."""
    return PackedStep.of(
        [SequenceStep(int(step.past_len[0]), step.token_ids[0].tolist(), range(blocks), step.logit_pos[0].tolist())]
    )
