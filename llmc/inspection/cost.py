"""What the steps of a model cost, and the least time that a device needs for them: `llmc inspect --cost`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compiler.errors import RequestError
from compiler.ir.cost import Cost, OpCost, StepCost, graph_cost, step_sizes
from compiler.ir.files import read_graph
from compiler.ir.frozen import EMPTY
from compiler.ir.graph import Graph
from compiler.ir.mesh import Mesh, mesh_of, rank_graph
from compiler.ir.step import StepDim
from compiler.ir.step_interface import is_step
from llmc.inspection.facts import graph_files, open_subject
from llmc.naming import dumped_graphs
from llmc.pipeline import compose, rewrite
from llmc.step_cost import Device

DECODE, PROMPT, GRAPH = "decode", "prompt", "graph"
"""The steps: one more token of each sequence; a whole prompt of each; a graph that is no model's step."""


@dataclass(frozen=True)
class Bound:
    """The least time of a step, or of an op, on a device.

    Attributes:
        compute: seconds for its operations, at the peak of the element type of each product.
        memory: seconds for the bytes that must be moved.
    """

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """The larger of both."""
        return max(self.compute, self.memory)

    @property
    def by(self) -> str:
        """Which of both it is: `compute` or `memory`."""
        return "compute" if self.compute > self.memory else "memory"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "seconds": self.seconds, "by": self.by}


@dataclass(frozen=True)
class Step:
    """A step of each rank of a mesh.

    Attributes:
        name: `decode`, `prompt` or `graph`.
        new: how many tokens each sequence gets.
        past: how many it has in the caches.
        mesh: the ranks.
        ranks: what it costs each of them.
    """

    name: str
    new: int
    past: int
    mesh: Mesh
    ranks: tuple[StepCost, ...]

    def bound(self, device: Device) -> Bound:
        """The least time: that of the slowest rank of each stage, of one stage after the other."""
        tp = self.mesh.tp
        stages = [self.ranks[at : at + tp] for at in range(0, len(self.ranks), tp)]
        slowest = [max((fused_bound(rank, device) for rank in stage), key=lambda b: b.seconds) for stage in stages]
        return Bound(sum(b.compute for b in slowest), sum(b.memory for b in slowest))


@dataclass(frozen=True)
class CostReport:
    """What the steps of a graph cost.

    Attributes:
        name: the path, or the file in a folder of dumps.
        batch: how many sequences there are.
        length: how many tokens each of them has after the step.
        steps: the steps.
    """

    name: str
    batch: int
    length: int
    steps: tuple[Step, ...]

    def to_json(self, device: Device | None = None) -> dict[str, Any]:
        """As a JSON object; the keys are in docs/cli.md."""
        steps = {step.name: _step_json(step, device) for step in self.steps}
        return {"name": self.name, "batch": self.batch, "length": self.length, "steps": steps}


def fused_bound(step: StepCost, device: Device) -> Bound:
    """The least time of a step of a rank, however well its ops are fused: operations, and weights and caches."""
    return Bound(
        sum(each.cost.flops / device.peak(each.precision) for each in step.ops),
        step.total.least / device.bytes_per_second,
    )


def op_bound(each: OpCost, device: Device) -> Bound:
    """The least time of an op that runs by itself."""
    return Bound(each.cost.flops / device.peak(each.precision), each.cost.moved / device.bytes_per_second)


def one_by_one(ops: Sequence[OpCost], device: Device) -> float:
    """Seconds of ops that run one after the other."""
    return sum(op_bound(each, device).seconds for each in ops)


def cost_reports(
    path: str | Path,
    *,
    batch: int | None = None,
    length: int | None = None,
    dummy_weights: bool = False,
    source: Mapping[str, Any] = EMPTY,
    note: Callable[[str], None] = lambda text: None,
) -> list[CostReport]:
    """What the steps of what `path` names cost; of a folder of dumps, those of each graph. No weight is read.

    Args:
        path: a graph, an engine, a checkpoint (with the passes that every compilation adds) or a folder of dumps.
        batch: how many sequences there are; 1 if None.
        length: how many tokens each of them has after the step; as many as the graph takes if None.
        dummy_weights: as of `open_subject`, as is `source`.
        source: as above.
        note: called with a sentence about each thing that the user may not expect.

    Raises:
        RequestError: if a number is less than 1.
        LlmcError: as of `open_subject`.
    """
    for name, number in (("--batch", batch), ("--length", length)):
        if number is not None and number < 1:
            raise RequestError(f"{name} is {number}; it must be at least 1")
    if files := dumped_graphs(Path(path).expanduser()):
        return [_report(file.name, _ranks(read_graph(file)), batch, length, lambda text: None) for file in files]
    subject = open_subject(path, dummy_weights=dummy_weights, source=source, note=lambda text: None)
    if subject.manifest is not None:
        names = graph_files(subject.manifest, subject.path)
        graphs = [read_graph(subject.path / name) for name in names]
        return [_report(str(path), graphs, batch, length, note)]
    graph = subject.graph
    if subject.kind == "checkpoint":
        automatic = compose("", None)
        note(f"{path} is counted after the passes that every compilation adds: {', '.join(_names(automatic))}")
        graph = rewrite(graph, automatic).graph
    return [_report(str(path), _ranks(graph), batch, length, note)]


def _names(passes: Sequence[Any]) -> list[str]:
    from compiler.passes.pipeline import pass_name

    return [pass_name(step) for step in passes]


def _ranks(graph: Graph) -> list[Graph]:
    """The graph of each rank of its mesh."""
    mesh = mesh_of(graph)
    if mesh.size == 1 or "rank" in graph.facts:
        return [graph]
    return [rank_graph(graph, rank) for rank in range(mesh.size)]


def _report(
    name: str, ranks: Sequence[Graph], batch: int | None, length: int | None, note: Callable[[str], None]
) -> CostReport:
    first = ranks[0]
    mesh = mesh_of(first) if len(ranks) > 1 else Mesh()
    dims = first.dims
    if not is_step(first) and StepDim.CAPACITY not in dims:
        note(f"{name} is no step of a model: its dims have their usual sizes")
        sizes = {dim: sizes.opt for dim, sizes in dims.items()}
        return CostReport(name, 1, 1, (Step(GRAPH, 1, 0, mesh, tuple(graph_cost(graph, sizes) for graph in ranks)),))
    limits = {dim: dims[dim].max for dim in (StepDim.BATCH, StepDim.CAPACITY) if dim in dims}
    batch, length = batch or 1, length or limits.get(StepDim.CAPACITY, 1)
    for dim, wanted, what in ((StepDim.BATCH, batch, "sequences"), (StepDim.CAPACITY, length, "tokens of each")):
        if wanted > limits.get(dim, wanted):
            note(f"{name} takes at most {limits[dim]} {what}; it is counted for {wanted}")
    steps = []
    for step, new, past in ((DECODE, 1, length - 1), (PROMPT, length, 0)):
        costs = tuple(graph_cost(graph, step_sizes(graph, batch=batch, new=new, past=past)) for graph in ranks)
        steps.append(Step(step, new, past, mesh, costs))
    return CostReport(name, batch, length, tuple(steps))


def _step_json(step: Step, device: Device | None) -> dict[str, Any]:
    found: dict[str, Any] = {"new": step.new, "past": step.past, "mesh": asdict(step.mesh)}
    if device is not None:
        found["bound"] = step.bound(device).to_json()
    found["ranks"] = [
        {
            "total": cost_json(rank.total),
            **({"one_by_one": one_by_one(rank.ops, device)} if device else {}),
            "layers": {layer: cost_json(cost) for layer, cost in rank.by_layer.items()},
            "ops": [_op_json(each, device) for each in rank.ops if each.cost != Cost()],
        }
        for rank in step.ranks
    ]
    return found


def cost_json(cost: Cost) -> dict[str, Any]:
    """A cost as a JSON object: its fields, and what follows from them."""
    return {**asdict(cost), "read": cost.read, "moved": cost.moved, "least": cost.least, "intensity": cost.intensity}


def _op_json(each: OpCost, device: Device | None) -> dict[str, Any]:
    return {
        "name": each.op.name,
        "kind": each.op.kind.name,
        "precision": each.precision and each.precision.value,
        **cost_json(each.cost),
        **({"bound": op_bound(each, device).to_json()} if device else {}),
    }
