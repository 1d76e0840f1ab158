"""All ranks of a mesh in one process: what a graph for several ranks means, without any of the machinery to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compiler.errors import GraphError
from compiler.ir.collectives import combine
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.mesh import mesh_of, rank_graph, received, sent
from compiler.ir.step import dim_sizes
from compiler.ir.step_interface import StepInterface
from compiler.ir.torch_types import to_torch

States = Sequence[Mapping[str, Tensor]]


class VirtualRanks:
    """Interprets a graph on every rank of its mesh: stage by stage, the ranks of a stage in lockstep.

    Args:
        graph: the graph; any, of one rank too.
        options: those of `Interpreter`.

    Raises:
        GraphError: if the graph cannot be cut into its ranks.
    """

    def __init__(self, graph: Graph, **options: Any) -> None:
        self._set([rank_graph(graph, rank) for rank in range(mesh_of(graph).size)], options)

    @classmethod
    def of(cls, graphs: Sequence[Graph], **options: Any) -> VirtualRanks:
        """The ranks whose graphs are given, in order; GraphError if there are not as many as their mesh has."""
        made = cls.__new__(cls)
        made._set(graphs, options)
        return made

    def _set(self, graphs: Sequence[Graph], options: Mapping[str, Any]) -> None:
        self.mesh, self.graphs = mesh_of(graphs[0]), tuple(graphs)
        if len(graphs) != self.mesh.size:
            raise GraphError(f"there are graphs of {len(graphs)} ranks; {self.mesh} has {self.mesh.size}")
        self.interpreters = tuple(Interpreter(own, **options) for own in graphs)

    def empty_states(self, batch: int, capacity: int) -> list[dict[str, Tensor]]:
        """The caches of each rank, all zero, for `batch` rows of `capacity` tokens."""
        sizes = dim_sizes(batch=batch, capacity=capacity)
        return [
            {
                name: torch.zeros(value.type.sizes(sizes), dtype=to_torch(value.type.dtype))
                for name, (value, _) in graph.states().items()
            }
            for graph in self.graphs
        ]

    def empty_pools(self, blocks: int) -> list[dict[str, Tensor]]:
        """The pools of each rank, all zero, of so many blocks, where caches are paged."""
        return [StepInterface.of(graph).empty_pools(blocks) for graph in self.graphs]

    def __call__(
        self, inputs: Mapping[str, Tensor], states: States
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """One step.

        Args:
            inputs: the inputs that are no caches; every rank takes those that its graph has.
            states: the caches of each rank.

        Returns:
            The outputs that are no caches, and the next state of each rank's caches.

        Raises:
            GraphError: if an input is missing or has another type than declared, or the ranks of a stage disagree about
                an output.
        """
        results: list[dict[str, Tensor]] = []
        for stage in range(self.mesh.pp):
            ranks = range(self.mesh.rank(stage, 0), self.mesh.rank(stage + 1, 0))
            results += self._lockstep(ranks, [self._given(rank, inputs, states[rank], results) for rank in ranks])
        outputs: dict[str, Tensor] = {}
        for rank, result in enumerate(results):
            for role in self._own_roles(rank):
                if role in outputs and not torch.equal(outputs[role], result[role]):
                    raise GraphError(f"rank {rank} computes another {role!r} than the other ranks of its stage")
                outputs[role] = result[role]
        return outputs, [{name: result[name] for name in state} for result, state in zip(results, states, strict=True)]

    def _own_roles(self, rank: int) -> list[str]:
        graph = self.graphs[rank]
        others = graph.states().keys() | {link.name for link in sent(graph)}
        return [role for role in graph.outputs if role not in others]

    def _given(
        self,
        rank: int,
        inputs: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        results: Sequence[Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """The inputs of a rank's graph, with what the stages before sent."""
        stage, place = self.mesh.place(rank)
        own = {value.name for value in self.graphs[rank].inputs}
        given = {name: tensor for name, tensor in {**inputs, **state}.items() if name in own}
        for link in received(self.graphs[rank]):
            peer = self.mesh.rank(link.stage, place)
            role = next(each.name for each in sent(self.graphs[peer]) if _matches(each.name, link.name, stage))
            given[link.name] = results[peer][role]
        return given

    def _lockstep(self, ranks: Sequence[int], given: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        runs = [self.interpreters[rank].steps(inputs) for rank, inputs in zip(ranks, given, strict=True)]
        done: list[dict[str, Tensor]] = []
        answer: Any = None
        while not done:
            asked = []
            for run in runs:
                try:
                    asked.append(run.send(answer))
                except StopIteration as end:
                    done.append(end.value)
            if asked and done:
                raise GraphError(f"some ranks wait at %{asked[0][0].name} while others have finished")
            if asked:
                answer = combine(asked[0][0], [operand for _, operand in asked])
        return done


def _matches(sent_as: str, received_as: str, stage: int) -> bool:
    """Whether an output's role and an input's name are the two ends of one transfer to `stage`."""
    _, to, value = sent_as.split(".", 2)
    return int(to) == stage and received_as.split(".", 2)[2] == value
