"""What a step costs: floating-point operations, and the bytes that pass between memory and processor.

The cost is that of the graph, op by op, at sizes that are given; no executor is asked. What is counted:

- A multiplication and an addition are two operations. Ops on floating-point numbers count one operation an element, or
  what `costs` registers for their kind. Conversions between types, comparisons and integers count none.
- An op reads its operands and writes its results. A view (`reshape`, `transpose`, `slice`, `split`, `broadcast`) moves
  nothing, and `dequantize` is computed where its result is used: whoever reads the result reads what is behind it. So
  quantized weights and caches are read in the bytes in which they are stored.
- Weights, and what is computed from them when an engine is built, are there already.
- `embedding` reads the rows that it looks up. A cache is as long as the sequence, and is written only where it is new.
- `attention` computes the pairs that a causal mask shows: each new token with all that came before, and with itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

from compiler.ir.collectives import COLLECTIVES
from compiler.ir.dtypes import DType
from compiler.ir.flops import FLOPS, Sizes, each_element
from compiler.ir.graph import Graph
from compiler.ir.layers import layer_of
from compiler.ir.mesh_stages import SEND
from compiler.ir.op import Op
from compiler.ir.paged_layout import PagedLayout, layout_of
from compiler.ir.step import StepDim, dim_sizes
from compiler.ir.traffic import UPDATES, Memory, nbytes

PRODUCTS = frozenset({"linear", "matmul", "attention", "paged_attention"})
"""The ops that compute products of matrices."""


@dataclass(frozen=True)
class Cost:
    """What an op, a layer or a step costs.

    Attributes:
        flops: floating-point operations.
        weights: bytes of weights that are read.
        caches: bytes of caches that are read.
        activations: bytes of other values that are read.
        written: bytes that are written, those of caches included.
        cached: bytes that are written to caches.
        sent: bytes that this rank sends to others.
    """

    flops: int = 0
    weights: int = 0
    caches: int = 0
    activations: int = 0
    written: int = 0
    cached: int = 0
    sent: int = 0

    @property
    def read(self) -> int:
        """All bytes that are read."""
        return self.weights + self.caches + self.activations

    @property
    def moved(self) -> int:
        """All bytes that are read or written, if each op runs by itself."""
        return self.read + self.written

    @property
    def least(self) -> int:
        """The bytes that are moved however well ops are fused: weights and caches, and what is new in caches."""
        return self.weights + self.caches + self.cached

    @property
    def intensity(self) -> float:
        """Floating-point operations for each byte that is moved; 0 if none is."""
        return self.flops / self.moved if self.moved else 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class OpCost(NamedTuple):
    """The cost of an op.

    Attributes:
        op: the op.
        cost: what it costs.
        precision: the element type of its products, where it computes any: i8 or f8e4m3 where both operands are
            quantized; None for an op that computes no products.
    """

    op: Op
    cost: Cost
    precision: DType | None


@dataclass(frozen=True)
class StepCost:
    """The cost of a step.

    Attributes:
        ops: that of each op that runs, in order; ops that are computed when an engine is built are not among them.
    """

    ops: tuple[OpCost, ...]

    @cached_property
    def total(self) -> Cost:
        """The sum of all ops."""
        return total(each.cost for each in self.ops)

    @cached_property
    def by_op(self) -> Mapping[str, OpCost]:
        """The cost of each op by its name."""
        return {each.op.name: each for each in self.ops}

    @cached_property
    def by_layer(self) -> Mapping[str, Cost]:
        """The cost of each layer (`layers.0`, `embed` ...), in the order of the graph."""
        layers: dict[str, Cost] = {}
        for each in self.ops:
            layer = layer_of(each.op.name)
            layers[layer] = layers.get(layer, Cost()) + each.cost
        return layers


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    return sum(costs, Cost())


def step_sizes(graph: Graph, *, batch: int, new: int, past: int = 0) -> dict[str, int]:
    """The sizes of a step's dims, for `graph_cost`; a dim that is no step's has its usual size.

    Args:
        graph: the graph of a step.
        batch: how many sequences there are.
        new: how many tokens each of them gets.
        past: how many tokens each of them has in the caches already.
    """
    layout, length = layout_of(graph), past + new
    sizes = dim_sizes(batch=batch, length=new, wanted=1, capacity=length)
    if isinstance(layout, PagedLayout):
        blocks = layout.blocks_for(length)
        sizes |= dim_sizes(wanted=batch, tokens=batch * new, blocks=batch * blocks) | {StepDim.TABLE: blocks}
    return {name: dim.opt for name, dim in graph.dims.items()} | sizes


def graph_cost(graph: Graph, sizes: Sizes) -> StepCost:
    """What a graph costs at given sizes; of a graph for several ranks, take `rank_graph` of each first.

    Args:
        graph: the graph.
        sizes: the size of each symbolic dim, such as `step_sizes` gives them.

    Raises:
        KeyError: if a dim has no size.
    """
    memory = Memory(graph, sizes)
    sent: dict[str, int] = {}
    for role, value in graph.outputs.items():
        if role.startswith(SEND):
            sent[value.name] = sent.get(value.name, 0) + nbytes(value.type, sizes)
    return StepCost(tuple(_cost(memory, op, sent) for op in memory.running()))


def weights_read(graph: Graph) -> int:
    """The bytes of all weights that a step reads, each once; tables of embeddings, of which it reads rows, apart."""
    memory = Memory(graph, step_sizes(graph, batch=1, new=1))
    read: dict[str, int] = {}
    for op in memory.running():
        if memory.is_view(op):
            continue
        for value in op.operands[1:] if op.kind.name == "embedding" else op.operands:
            for load in memory.loads[value.name]:
                if load.of == "weights":
                    read[load.name] = max(read.get(load.name, 0), load.nbytes)
    return sum(read.values())


def _cost(memory: Memory, op: Op, sent: Mapping[str, int]) -> OpCost:
    """What an op costs."""
    sends = sum(sent.get(value.name, 0) for value in op.results)
    if memory.is_view(op):
        return OpCost(op, Cost(sent=sends), None)
    read = {"weights": 0, "caches": 0, "activations": 0}
    for load in memory.reads(op):
        read[load.of] += load.nbytes
    updated = op.kind.name in UPDATES
    new = op.operands[1] if updated else None
    written = sum(nbytes(value.type, memory.sizes) for value in ((new,) if new is not None else op.results))
    flops = FLOPS.find(op.kind.name) or each_element
    cost = Cost(
        flops(op, memory.sizes),
        **read,
        written=written,
        cached=written if updated else 0,
        sent=sends + _communicated(op, memory.sizes),
    )
    return OpCost(op, cost, _precision(memory, op))


def _precision(memory: Memory, op: Op) -> DType | None:
    if op.kind.name not in PRODUCTS:
        return None
    behind = [memory.quantized(value) for value in op.operands[:2]]
    first = behind[0]
    return first if first is not None and first is behind[1] else op.operands[0].type.dtype


def _communicated(op: Op, sizes: Sizes) -> int:
    """The bytes that a rank sends in a collective, in a ring of ranks."""
    if op.kind.name not in COLLECTIVES:
        return 0
    parts: int = op.attrs["parts"]
    size = sum(nbytes(value.type, sizes) for value in op.results)
    return size * (parts - 1) * (1 if op.kind.name == "all_gather" else 2) // parts
