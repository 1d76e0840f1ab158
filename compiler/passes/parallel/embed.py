"""The pass `embed`: it splits embedding tables and output heads over ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.errors import PassError
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep
from compiler.passes.notes import note
from compiler.passes.parallel.explain import note_collectives
from compiler.passes.parallel.vocabulary import heads, hidden_heads, token_lookups
from compiler.passes.registry import register


@register("embed")
@dataclass(frozen=True)
class SplitEmbedding:
    """Give each rank of `tp` a shard of the token embedding and of the output head, tied or not.

    The head is split along the vocabulary, and the logits are put together again. The table is split along the
    vocabulary too (each rank looks up the tokens it has; the ranks add up), or along the hidden dimension (each rank
    looks up its columns; they are put together). A vocabulary that the ranks do not divide is padded, and what the
    padding adds to the logits is cut off.
    """

    along: Annotated[Literal["vocab", "hidden", "off"], "how the table is split; off leaves table and head whole"]

    def requires(self, graph: Graph) -> None:
        """There must be ranks to split over, and the hidden dimension must split evenly."""
        if self.along == "off":
            return
        ranks = mesh_of(graph).tp
        if "tp" not in graph.facts:
            raise PassError(
                f"embed={self.along} splits over the ranks of tp, but the graph is for one rank",
                hint=f"write tp=N before it: --passes tp=2,embed={self.along}",
            )
        if not token_lookups(graph) and not heads(graph):
            raise PassError("embed finds neither a token embedding nor an output head", hint="leave embed out")
        for op in token_lookups(graph) if self.along == "hidden" else ():
            width = op.operands[0].type.shape[1]
            if not isinstance(width, int) or width % ranks:
                raise PassError(
                    f"embed=hidden cannot split the {width} columns of %{op.operands[0].name} evenly over tp={ranks}",
                    hint="embed=vocab pads the table, and works with any number of ranks",
                )

    def __call__(self, graph: Graph) -> Graph:
        """The graph with the table and the head in shards."""
        ranks = mesh_of(graph).tp
        if self.along == "off" or ranks == 1:
            return graph
        split = _Splitting(graph, ranks, self.along).graph()
        note_collectives("embed", split)
        self._note_whole(graph)
        return split

    def _note_whole(self, graph: Graph) -> None:
        """Say what stays whole of what was to be split."""
        if not token_lookups(graph):
            note("there is no lookup of tokens in a constant table, so that no token embedding is split")
        for op in hidden_heads(graph):
            note(
                f"the output head stays whole: {op.kind.name} %{op.name} from {op.origin} makes an output, and is no "
                "linear with constant weights"
            )


class _Splitting:
    def __init__(self, source: Graph, ranks: int, along: str) -> None:
        self.source = source
        self.ranks = ranks
        self.lookups = {op.name for op in token_lookups(source)}
        self.heads = {op.name for op in heads(source)}
        self.by_rows = along == "vocab"
        self.shards: dict[tuple[str, int], Value] = {}

    def graph(self) -> Graph:
        """The whole graph."""
        return sweep(self.source, self._visit, pass_name="embed")

    def _visit(self, op: Op, b: RewriteBuilder) -> Value | None:
        if op.name in self.lookups:
            return self._look_up_rows(op, b) if self.by_rows else self._look_up_columns(op, b)
        return self._head(op, b) if op.name in self.heads else None

    def _look_up_columns(self, op: Op, b: RewriteBuilder) -> Value:
        table, ids = op.operands
        rows = b.embedding(self._shard(table, 1, b), ids, name="columns")
        return b.all_gather(rows, axis=rows.type.rank - 1, parts=self.ranks)

    def _look_up_rows(self, op: Op, b: RewriteBuilder) -> Value:
        """Tokens of other ranks are looked up as the first of its own, and the result is replaced by zeros."""
        table, ids = op.operands
        shard = self._shard(table, 0, b)
        size = self._share(table, 0)
        zero, end = self._number(ids.type.dtype, 0, "zero", b), self._number(ids.type.dtype, size, "size", b)
        own = b.sub(ids, self._first_row(ids.type.dtype, size, b), name="own_ids")
        inside = b.logical_and(b.less_equal(zero, own, name="from"), b.less(own, end, name="to"), name="inside")
        rows = b.embedding(shard, b.where(inside, own, zero, name="safe_ids"), name="rows")
        inside = b.reshape(inside, shape=(*inside.type.shape, 1), name="inside_rows")
        nothing = self._number(rows.type.dtype, 0.0, "nothing", b)
        return b.all_reduce(b.where(inside, rows, nothing, name="own_rows"), parts=self.ranks)

    def _head(self, op: Op, b: RewriteBuilder) -> Value:
        x, *parameters = op.operands
        own = b.linear(x, *[self._shard(value, 0, b) for value in parameters], name="own")
        axis, size = own.type.rank - 1, op.result.type.shape[-1]
        every = b.all_gather(own, axis=axis, parts=self.ranks, name="padded")
        return every if every.type == op.result.type else b.slice(every, axis=axis, start=0, size=size)

    def _share(self, value: Value, axis: int) -> int:
        """How many rows or columns of a constant a rank has."""
        size = value.type.shape[axis]
        assert isinstance(size, int)
        return -(-size // self.ranks)

    def _first_row(self, dtype: DType, size: int, b: RewriteBuilder) -> Value:
        """`[1]`: the first row of each rank's shard."""
        firsts = tuple([rank * size for rank in range(self.ranks)])
        rows = b.literal(dtype=dtype, shape=(self.ranks,), values=firsts, name="first_rows")
        return b.shard(rows, axis=0, parts=self.ranks, name="first_row")

    def _number(self, dtype: DType, value: float, name: str, b: RewriteBuilder) -> Value:
        return b.literal(dtype=dtype, shape=(1,), values=(value,), name=name)

    def _shard(self, value: Value, axis: int, b: RewriteBuilder) -> Value:
        """A rank's shard of a constant, made once; padded with zeros where the ranks do not divide it."""
        key = value.name, axis
        if key not in self.shards:
            prefix, b.prefix = b.prefix, f"{value.name}."
            shape = value.type.shape
            if missing := self._share(value, axis) * self.ranks - shape[axis]:
                shape = (*shape[:axis], missing, *shape[axis + 1 :])
                zeros = b.literal(dtype=value.type.dtype, shape=shape, values=(0.0,), name="padding")
                value = b.concat(value, zeros, axis=axis, name="padded")
            self.shards[key] = b.shard(value, axis=axis, parts=self.ranks, name=f"shard{axis}")
            b.prefix = prefix
        return self.shards[key]
