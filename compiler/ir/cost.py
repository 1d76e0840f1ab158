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

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

from compiler.ir.analysis import constant_values, stored_values
from compiler.ir.cache_layout import LINEAR
from compiler.ir.collectives import COLLECTIVES
from compiler.ir.dims import Dim, evaluate
from compiler.ir.dtypes import DType
from compiler.ir.flops import FLOPS, Sizes, count, each_element
from compiler.ir.graph import Graph
from compiler.ir.layers import layer_of
from compiler.ir.mesh_stages import SEND
from compiler.ir.op import Op, Value
from compiler.ir.paged_layout import PagedLayout, layout_of
from compiler.ir.step import StepDim, dim_sizes
from compiler.ir.types import TensorType

PRODUCTS = frozenset({"linear", "matmul", "attention", "paged_attention"})
"""The ops that compute products of matrices."""

_UPDATES = frozenset({"kv_update", "paged_kv_update"})

VIEWS = frozenset({"reshape", "transpose", "slice", "split", "broadcast", "shard", "dequantize"})
"""The ops that move nothing: their users read what is behind them."""


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
    memory = _Memory(graph, sizes)
    sent: dict[str, int] = {}
    for role, value in graph.outputs.items():
        if role.startswith(SEND):
            sent[value.name] = sent.get(value.name, 0) + nbytes(value.type, sizes)
    return StepCost(tuple(memory.cost(op, sent) for op in memory.running()))


def weights_read(graph: Graph) -> int:
    """The bytes of all weights that a step reads, each once; tables of embeddings, of which it reads rows, apart."""
    memory = _Memory(graph, step_sizes(graph, batch=1, new=1))
    read: dict[str, int] = {}
    for op in memory.running():
        if memory.is_view(op):
            continue
        for value in op.operands[1:] if op.kind.name == "embedding" else op.operands:
            for load in memory.loads[value.name]:
                if load.of == "weights":
                    read[load.name] = max(read.get(load.name, 0), load.nbytes)
    return sum(read.values())


def nbytes(type_: TensorType, sizes: Sizes) -> int:
    """Bytes of a tensor where each symbolic dim has its size."""
    return (count(type_, sizes) * type_.dtype.bits + 7) // 8


class _Load(NamedTuple):
    """What is read from memory when a value is read: a part of a tensor that is there."""

    name: str
    nbytes: int
    of: str  # the field of `Cost`

    def part(self, some: int, whole: int) -> _Load:
        return self if some >= whole else self._replace(nbytes=-(-self.nbytes * some // whole))


class _Memory:
    """Where each value of a graph is in memory."""

    def __init__(self, graph: Graph, sizes: Sizes) -> None:
        self.graph, self.sizes = graph, sizes
        self.stored, self.constant = stored_values(graph), constant_values(graph)
        states = graph.states()
        self.loads: dict[str, tuple[_Load, ...]] = {}
        for value in graph.inputs:
            self._place(value, "caches" if value.name in states else "activations")

    def _place(self, value: Value, of: str) -> None:
        self.loads[value.name] = (_Load(value.name, nbytes(value.type, self.sizes), of),)

    def running(self) -> Iterator[Op]:
        """The ops that run, in order; where their results are is known once the next one is asked for."""
        for op in self.graph.ops:
            if all(value.name in self.stored for value in op.results):
                for value in op.results:
                    self._place(value, "weights")
                continue
            yield op
            self._define(op)

    def is_view(self, op: Op) -> bool:
        """Whether an op moves nothing. Of what is packed, pieces are put together when an engine is stored."""
        return op.kind.name in VIEWS or (op.kind.name == "concat" and op.name in self.constant)

    def _define(self, op: Op) -> None:
        if op.kind.name == "concat" and self.is_view(op):
            self.loads[op.name] = tuple(load for value in op.operands for load in self.loads[value.name])
        elif self.is_view(op):
            whole = count(op.operands[0].type, self.sizes)
            behind = [load for value in op.operands for load in self.loads[value.name]]
            for value in op.results:
                some = count(value.type, self.sizes)
                self.loads[value.name] = tuple(load.part(some, whole) for load in behind)
        elif op.kind.name in _UPDATES:
            self.loads[op.name] = self.loads[op.operands[0].name]
        else:
            for value in op.results:
                self._place(value, "activations")

    def cost(self, op: Op, sent: Mapping[str, int]) -> OpCost:
        """What an op costs."""
        sends = sum(sent.get(value.name, 0) for value in op.results)
        if self.is_view(op):
            return OpCost(op, Cost(sent=sends), None)
        read = {"weights": 0, "caches": 0, "activations": 0}
        for load in self._reads(op):
            read[load.of] += load.nbytes
        updated = op.kind.name in _UPDATES
        new = op.operands[1] if updated else None
        written = sum(nbytes(value.type, self.sizes) for value in ((new,) if new is not None else op.results))
        flops = FLOPS.find(op.kind.name) or each_element
        cost = Cost(
            flops(op, self.sizes),
            **read,
            written=written,
            cached=written if updated else 0,
            sent=sends + _communicated(op, self.sizes),
        )
        return OpCost(op, cost, self._precision(op))

    def _reads(self, op: Op) -> Iterator[_Load]:
        """What the op reads; a value that is an operand twice is read once."""
        parts = _PARTS.get(op.kind.name)
        skipped = op.operands[0].name if op.kind.name in _UPDATES else None
        seen: set[str] = set()
        for place, value in enumerate(op.operands):
            if value.name == skipped or value.name in seen:
                continue
            seen.add(value.name)
            some, whole = parts(op, place, self.sizes) if parts else (1, 1)
            for load in self.loads[value.name]:
                yield load.part(some, whole)

    def _precision(self, op: Op) -> DType | None:
        if op.kind.name not in PRODUCTS:
            return None
        behind = [self._quantized(value) for value in op.operands[:2]]
        first = behind[0]
        return first if first is not None and first is behind[1] else op.operands[0].type.dtype

    def _quantized(self, value: Value) -> DType | None:
        """The element type that a value is dequantized from, if it is 8 bits; else None."""
        op = self.graph.producers.get(value.name)
        while op is not None and self.is_view(op):
            if op.kind.name == "dequantize":
                dtype = op.operands[0].type.dtype
                return dtype if dtype in (DType.i8, DType.f8e4m3) else None
            op = self.graph.producers.get(op.operands[0].name)
        return None


def _rows_of_table(op: Op, place: int, sizes: Sizes) -> tuple[int, int]:
    table, ids = (value.type for value in op.operands)
    return (count(ids, sizes), evaluate(table.shape[0], sizes)) if place == 0 else (1, 1)


def _rows_of_each(op: Op, place: int, sizes: Sizes) -> tuple[int, int]:
    rows: Dim = op.operands[1].type.shape[1]
    return (evaluate(rows, sizes), evaluate(op.operands[0].type.shape[1], sizes)) if place == 0 else (1, 1)


def _tokens_of_pool(op: Op, place: int, sizes: Sizes) -> tuple[int, int]:
    """Of a pool the tokens of each sequence that any of its new ones sees."""
    if place not in (1, 2):
        return 1, 1
    batch, length, window = sizes[StepDim.BATCH], sizes[StepDim.CAPACITY], op.attrs["window"]
    new = evaluate(op.operands[0].type.shape[LINEAR.POSITION], sizes) // batch
    seen = length if window < 0 else min(length, window + new)
    pool = op.operands[place].type.sizes(sizes)
    return batch * seen, pool[PagedLayout.BLOCK] * pool[PagedLayout.POSITION]


# Of which operands an op reads a part: `(count, whole)` of the operand at a place.
_PARTS: Mapping[str, Callable[[Op, int, Sizes], tuple[int, int]]] = {
    "embedding": _rows_of_table,
    "gather_rows": _rows_of_each,
    "paged_attention": _tokens_of_pool,
}


def _communicated(op: Op, sizes: Sizes) -> int:
    """The bytes that a rank sends in a collective, in a ring of ranks."""
    if op.kind.name not in COLLECTIVES:
        return 0
    parts: int = op.attrs["parts"]
    size = sum(nbytes(value.type, sizes) for value in op.results)
    return size * (parts - 1) * (1 if op.kind.name == "all_gather" else 2) // parts
