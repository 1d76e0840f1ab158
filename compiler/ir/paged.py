"""Packed steps over paged caches: the rewriting of a linear step graph.

A linear step has a row for each sequence, padded to the longest, and caches with as many rows. A packed step has the
new tokens of all sequences one after the other, and pools of blocks of which a block table gives each sequence some.

The packed graph is the linear one with a single row of `T` tokens. What works token by token stays as it is. Only what
tells tokens and sequences apart is replaced: positions become an input, `kv_update` and `attention` their paged forms,
and the wanted logits are chosen among all tokens. Whatever else reads lengths, slots or whole caches is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from compiler.errors import GraphError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.causal import causal_patterns, window_of
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import DimRange, Graph
from compiler.ir.matching import Match, Miss
from compiler.ir.mesh import with_facts
from compiler.ir.op import Op, Value
from compiler.ir.packed_step import BLOCK_TABLES, PACKED_INPUTS, TOKEN_POSITIONS, TOKEN_ROWS
from compiler.ir.paged_layout import CACHE_BLOCK, ONE_ROW, PagedLayout
from compiler.ir.patterns import Pattern
from compiler.ir.rewrite import Replacement, RewriteBuilder, sweep
from compiler.ir.specialize import bind_dims
from compiler.ir.step import LOGITS, NEW_LEN, PAST_LEN, STEP_INPUTS, C, R, StepDim, T
from compiler.ir.types import TensorType

DEFAULT_BLOCK = 64
"""How many tokens a block holds unless told otherwise."""

PASS_NAME = "cache"

_HINT = (
    "paged caches need attention in one op over causal positions: apply fuse-attention first, and leave cache=paged "
    "out for a model whose attention it cannot fuse (--explain says why)"
)


def paged(graph: Graph, block: int = DEFAULT_BLOCK) -> Graph:
    """The graph of packed steps over pools of blocks that computes what a linear step graph does.

    Its inputs are `PACKED_INPUTS` and, under the names of the caches, pools `[N, block, heads, width]`. The ranges of
    the linear dims stay: they say how many sequences, and how many tokens of each, the graph is for.

    Args:
        graph: a step graph with fused attention, or that of one of its ranks.
        block: how many tokens a block holds.

    Returns:
        The packed graph; `graph` itself if it is one with such blocks.

    Raises:
        GraphError: naming the op, if something reads caches, lengths or positions in a way that has no paged form.
    """
    known = graph.facts.get(CACHE_BLOCK)
    if known == block:
        return graph
    if known is not None:
        raise GraphError(f"the caches are paged already, in blocks of {known} tokens", hint="page caches once")
    if block < 1:
        raise GraphError(f"a block of {block} tokens holds nothing", hint=f"use a block of {DEFAULT_BLOCK} tokens")
    missing = {StepDim.BATCH, StepDim.LENGTH, StepDim.CAPACITY} - graph.dims.keys()
    if missing:
        raise GraphError(
            f"the graph has no dim {', '.join(sorted(missing))}, which every step has",
            hint="page caches before sizes are fixed",
        )
    return _Rewriting(graph, PagedLayout(block)).result()


class _Rewriting:
    """One rewriting. All visits see the graph with one row of `T` tokens."""

    def __init__(self, graph: Graph, layout: PagedLayout) -> None:
        self.graph, self.layout = graph, layout
        self.one_row = bind_dims(graph, {StepDim.BATCH: ONE_ROW, StepDim.LENGTH: T})
        self.inputs = {name: Value(name, type_) for name, type_ in PACKED_INPUTS.items()}
        self.addresses = tuple([self.inputs[name] for name in (TOKEN_POSITIONS, TOKEN_ROWS, BLOCK_TABLES)])
        self.pools = {
            name: Value(name, self._pool_type(name, value.type)) for name, (value, _) in graph.states().items()
        }
        self.pool_values = {*self.pools}
        """The values that have the blocks of a pool."""
        self.positions: set[str] = set()
        """The values that are the positions of the tokens."""
        self.rows: dict[str, Value] = {}
        """What stands for packed inputs where the linear graph has rows of them, by the input's name."""

    def result(self) -> Graph:
        """The packed graph."""
        types = {value.name: value for value in self.one_row.inputs if value.name in PACKED_INPUTS}
        swapped = {**self.pools, **{name: self.inputs[name] for name in types}}
        swept = sweep(self.one_row, self._visit, pass_name=PASS_NAME, retype=True, inputs=swapped)
        for op in swept.ops:
            self._check_left(op)
        own = [value for value in self.inputs.values() if value.name in types or value in self.addresses]
        used = {value.name for op in swept.ops for value in op.operands}
        inputs = [value for value in own if value.name in types or value.name in used]
        others = [value for value in swept.inputs if value.name not in STEP_INPUTS]
        packed = replace(swept, inputs=(*inputs, *others), dims=FrozenDict(self._dims()))
        return with_facts(packed, **{CACHE_BLOCK: self.layout.block})

    def _pool_type(self, name: str, type_: TensorType) -> TensorType:
        if not LINEAR.fits(type_):
            raise GraphError(f"the cache {name!r} is {type_}, whose dims are not those of {LINEAR.text}", hint=_HINT)
        return type_.with_shape(*self.layout.dims(type_.shape[LINEAR.HEAD], type_.shape[LINEAR.WIDTH]))

    def _dims(self) -> dict[str, DimRange]:
        dims = self.graph.dims
        batch, length, capacity = (dims[dim] for dim in (StepDim.BATCH, StepDim.LENGTH, StepDim.CAPACITY))
        table = self.layout.blocks_for(capacity.max)
        wanted = dims.get(StepDim.WANTED, DimRange(1, 1, 1))
        return {
            **dims,
            StepDim.TOKENS: DimRange(1, batch.opt, batch.max * length.max),
            StepDim.TABLE: DimRange(1, table, table),
            StepDim.BLOCKS: DimRange(1, batch.max * table, 2**31 // self.layout.block),
            StepDim.WANTED: DimRange(wanted.min, wanted.opt * batch.opt, wanted.max * batch.max),
        }

    def _visit(self, op: Op, b: RewriteBuilder) -> Replacement:
        if _counts_positions(op, b):
            self.positions.add(op.name)
            return b.reshape(self.inputs[TOKEN_POSITIONS], shape=(ONE_ROW, T))
        if op.kind.name == "kv_update":
            return self._update(op, b)
        if op.kind.name == "attention":
            return self._attention(op, b)
        if any(value.name in self.pool_values for value in op.operands):
            return self._read(op, b)
        operands = tuple([self._row(b, value.name) if value.name in self.inputs else value for value in op.operands])
        if self.one_row.outputs.get(LOGITS) in op.results:
            row = b.emit(op.kind, operands, op.attrs, ["row"])[0]
            return b.reshape(row, shape=(R, row.type.shape[-1]))
        return None if operands == op.operands else b.emit(op.kind, operands, op.attrs, [v.name for v in op.results])

    def _row(self, b: RewriteBuilder, name: str) -> Value:
        """A packed input as the one row of the graph."""
        if name not in self.rows:
            value = self.inputs[name]
            scope, b.prefix = b.prefix, ""
            self.rows[name] = b.reshape(value, shape=(ONE_ROW, *value.type.shape), name=f"{name}.row")
            b.prefix = scope
        return self.rows[name]

    def _update(self, op: Op, b: RewriteBuilder) -> Replacement:
        pool, new, at, count = op.operands
        if pool.name not in self.pools or (at.name, count.name) != (PAST_LEN, NEW_LEN):
            self._refuse(op, f"which does not write the next {NEW_LEN} tokens of a cache after {PAST_LEN} others")
        result = b.paged_kv_update(pool, new, *self.addresses)
        self.pool_values.add(op.name)
        return result

    def _read(self, op: Op, b: RewriteBuilder) -> Replacement:
        """What dequantizes a cache dequantizes its blocks, with a scale for each head as before."""
        pool, *parameters = op.operands
        if (
            pool.name not in self.pool_values
            or op.kind.name != "dequantize"
            or any(value.type.shape[LINEAR.POSITION] != 1 for value in parameters)
        ):
            capped = (
                ", and whose scores are capped, which attention in one op does not do" if self._is_capped(op) else ""
            )
            self._refuse(op, f"which reads all of a cache{capped}")
        moved = [b.reshape(value, shape=self.layout.from_linear(value.type.shape)) for value in parameters]
        result = b.dequantize(pool, *moved, dtype=op.attrs["dtype"])
        self.pool_values.add(op.name)
        return result

    def _is_capped(self, product: Op) -> bool:
        """Whether a product becomes probabilities by way of a bound on the scores (`cap * tanh(score / cap)`)."""
        found, todo = set[str](), [product.name]
        while todo:
            for user in self.one_row.users.get(todo.pop(), ()):
                of_scores = any(StepDim.CAPACITY in value.type.symbols for value in user.results)
                if of_scores and user.kind.name == "tanh":
                    return True
                if of_scores and user.kind.name != "softmax" and user.name not in found:
                    found.add(user.name)
                    todo.append(user.name)
        return False

    def _attention(self, op: Op, b: RewriteBuilder) -> Replacement:
        q, k, v, mask, *bias = op.operands
        if k.name not in self.pool_values or v.name not in self.pool_values:
            self._refuse(op, "whose keys and values are not caches")
        window = self._window(op, mask, b)
        slopes = self._slopes(op, bias[0], b) if bias else None
        positions, rows, tables = self.addresses
        scale, rounded = op.attrs["scale"], op.attrs["rounded"]
        return b.op(
            "paged_attention", q, k, v, positions, rows, tables, slopes, scale=scale, window=window, rounded=rounded
        )

    def _window(self, op: Op, mask: Value, b: RewriteBuilder) -> int:
        """How many positions back a causal mask lets a token see; -1 for all."""
        found = self._matched(_PATTERNS.mask, mask, b)
        if isinstance(found, Miss):
            self._refuse(op, f"whose mask is not that of causal attention ({found.reason})")
        if "window" not in found.values:
            return -1
        width = window_of(b.producer(found["window"]))
        if width is None:
            self._refuse(op, f"whose window %{found['window'].name} is no number")
        return width

    def _slopes(self, op: Op, bias: Value, b: RewriteBuilder) -> Value:
        found = self._matched(_PATTERNS.bias, bias, b)
        if isinstance(found, Miss):
            self._refuse(op, f"whose bias is not that of ALiBi ({found.reason})")
        return found["slopes"]

    def _matched(self, pattern: Pattern, value: Value, b: RewriteBuilder) -> Match | Miss:
        """A match whose positions are those of the tokens."""
        producer = b.producer(value)
        if producer is None:
            return Miss(0, f"%{value.name} is an input")
        found = pattern.match(producer, b)
        if isinstance(found, Match) and found["positions"].name not in self.positions:
            return Miss(0, f"%{found['positions'].name} are not the positions of the tokens")
        return found

    def _check_left(self, op: Op) -> None:
        """GraphError if an op means something else where all tokens lie in one row."""
        names = {value.name for value in op.operands}
        if lengths := sorted(names & ({*STEP_INPUTS} - {*PACKED_INPUTS})):
            self._refuse(op, f"which reads {', '.join(lengths)}")
        if op.kind.name == "iota" and op.attrs["size"] == T:
            self._refuse(op, "which counts the tokens of a row")
        if any(StepDim.CAPACITY in value.type.symbols for value in op.results):
            self._refuse(op, "which has an element for each token that a cache can hold")

    def _refuse(self, op: Op, why: str) -> NoReturn:
        raise GraphError(f"caches cannot be paged for {op.kind.name} %{op.name} from {op.origin}, {why}", hint=_HINT)


_PATTERNS = causal_patterns(T, C)


def _counts_positions(op: Op, b: RewriteBuilder) -> bool:
    """Whether an op gives the positions of a row's tokens: those that are cached already, and then one by one."""
    found = _PATTERNS.positions.match(op, b)
    return isinstance(found, Match) and found["past"].name == PAST_LEN
