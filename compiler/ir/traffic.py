"""Where the values of a graph are in memory, and what ops read of it; what is counted is in `compiler.ir.cost`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from compiler.ir.analysis import constant_values, stored_values
from compiler.ir.cache_layout import LINEAR
from compiler.ir.dims import Dim, evaluate
from compiler.ir.dtypes import DType
from compiler.ir.flops import Sizes, count
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.paged_layout import PagedLayout
from compiler.ir.step import StepDim
from compiler.ir.types import TensorType

UPDATES = frozenset({"kv_update", "paged_kv_update"})
"""The ops that write what is new into a cache."""

VIEWS = frozenset({"reshape", "transpose", "slice", "split", "broadcast", "shard", "dequantize"})
"""The ops that move nothing: their users read what is behind them."""


def nbytes(type_: TensorType, sizes: Sizes) -> int:
    """Bytes of a tensor where each symbolic dim has its size."""
    return (count(type_, sizes) * type_.dtype.bits + 7) // 8


class Load(NamedTuple):
    """What is read from memory when a value is read: a part of a tensor that is there.

    Attributes:
        name: the name of the value that is there.
        nbytes: how many bytes are read.
        of: `weights`, `caches` or `activations`.
    """

    name: str
    nbytes: int
    of: str

    def part(self, some: int, whole: int) -> Load:
        """What is read of some elements of the whole."""
        return self if some >= whole else self._replace(nbytes=-(-self.nbytes * some // whole))


class Memory:
    """Where each value of a graph is in memory.

    Attributes:
        loads: what is read when a value is read, by its name: known of the values before the op that `running` is at.
    """

    def __init__(self, graph: Graph, sizes: Sizes) -> None:
        self.graph, self.sizes = graph, sizes
        self.stored, self.constant = stored_values(graph), constant_values(graph)
        states = graph.states()
        self.loads: dict[str, tuple[Load, ...]] = {}
        for value in graph.inputs:
            self._place(value, "caches" if value.name in states else "activations")

    def _place(self, value: Value, of: str) -> None:
        self.loads[value.name] = (Load(value.name, nbytes(value.type, self.sizes), of),)

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
        elif op.kind.name in UPDATES:
            self.loads[op.name] = self.loads[op.operands[0].name]
        else:
            for value in op.results:
                self._place(value, "activations")

    def reads(self, op: Op) -> Iterator[Load]:
        """What the op reads; a value that is an operand twice is read once."""
        parts = _PARTS.get(op.kind.name)
        skipped = op.operands[0].name if op.kind.name in UPDATES else None
        seen: set[str] = set()
        for place, value in enumerate(op.operands):
            if value.name == skipped or value.name in seen:
                continue
            seen.add(value.name)
            some, whole = parts(op, place, self.sizes) if parts else (1, 1)
            for load in self.loads[value.name]:
                yield load.part(some, whole)

    def quantized(self, value: Value) -> DType | None:
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
