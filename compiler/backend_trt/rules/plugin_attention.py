"""Attention of single tokens as a layer of the plug-in `llmc::attention`, from the rows of products to the context.

q, k, v [B, 1, heads * D] -> heads first -> rotary -> (quantize) -> kv_update -> (dequantize) -> attention -> context
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from compiler.backend_trt.emission import SHARED, Emission, TrtTensor
from compiler.backend_trt.rules.plugin_emission import add_plugin
from compiler.ir.analysis import stored_values
from compiler.ir.cache_layout import LINEAR
from compiler.ir.causal import causal_patterns, window_of
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.matching import Match
from compiler.ir.op import Op, Value
from compiler.ir.patterns import Pattern
from compiler.ir.step import NEW_LEN, PAST_LEN
from compiler.trt_network.attention import AttentionSpec
from compiler.trt_network.dtypes import BY_DTYPE

_HEADS_FIRST = (0, 2, 1, 3)
"""The permutation between `[B, 1, heads, D]` and `[B, heads, 1, D]`."""
_QUANTIZED = frozenset({DType.i8, DType.f8e4m3})


@dataclass(frozen=True)
class _Rows:
    """Rows of heads `[B, 1, heads * D]`, the ops that lay them out by heads, and the one that turns them."""

    value: Value
    ops: tuple[Op, ...]
    turn: Op | None


@dataclass(frozen=True)
class _Stored:
    """What is written to a cache, and the scale of an 8-bit one."""

    rows: _Rows
    update: Op
    ops: tuple[Op, ...]
    scale: Value | None

    @property
    def cache(self) -> Value:
        return self.update.operands[0]


@dataclass(frozen=True)
class PluginAttention:
    """An attention that becomes a layer of the plug-in.

    Attributes:
        at: the op in whose place the layer is added, and whose result the context is.
        ops: the ops that it stands for.
        q: what queries are made of.
        k: what is written to the cache of keys.
        v: what is written to that of values.
        slopes: of ALiBi; None without it.
        spec: what the layer computes; where queries, keys and values are read is added when it is emitted.
    """

    at: Op
    ops: tuple[Op, ...]
    q: _Rows
    k: _Stored
    v: _Stored
    slopes: Value | None
    spec: AttentionSpec

    @property
    def rows(self) -> tuple[Value, Value, Value]:
        """Queries, keys and values, `[B, 1, heads * D]`."""
        return self.q.value, self.k.rows.value, self.v.rows.value

    @property
    def reads(self) -> Iterator[Value]:
        """The values that the layer reads."""
        yield from (*self.rows, self.k.cache, self.v.cache)
        yield self.k.update.operands[2]
        if self.q.turn is not None:
            yield from self.q.turn.operands[1:]
        if self.slopes is not None:
            yield self.slopes


def plugin_attention(graph: Graph, kinds: Collection[str]) -> Mapping[str, PluginAttention]:
    """The attentions of a plan's graph that become layers of the plug-in, by the names of the ops in their places."""
    if "attention" not in kinds:
        return {}
    search = _Search(graph)
    found = (search.attention(op) for op in graph.find("attention"))
    return {each.at.name: each for each in found if isinstance(each, PluginAttention)}


def why_no_attention(graph: Graph) -> str:
    """Why the first attention of a graph is not for the plug-in, as a clause; empty if it is, or if there is none."""
    search = _Search(graph)
    return next((why for op in graph.find("attention") if isinstance(why := search.attention(op), str)), "")


class _Search:
    """Looks for attentions of the usual form."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self._stored = graph, stored_values(graph)
        self._outputs = {value.name for value in graph.outputs.values()}

    def producer(self, value: Value) -> Op | None:
        """See `MatchSource`."""
        return self.graph.producers.get(value.name)

    def is_constant(self, value: Value) -> bool:
        """See `MatchSource`."""
        return value.name in self._stored

    def attention(self, op: Op) -> PluginAttention | str:
        """An attention of the usual form; or what is unusual about it."""
        shape = op.operands[0].type.shape
        if shape[LINEAR.POSITION] != 1:
            return "it is for more than one token of a sequence"
        if op.result.type.dtype not in SHARED or not op.result.type.is_fixed:
            return "its sizes are not fixed"
        q = self._rows(op.operands[0])
        if q is None:
            return "its queries are not rows of heads that nothing else uses"
        k, v = (self._stored_rows(value) for value in op.operands[1:3])
        if k is None or v is None:
            return "what it reads is not what rows of heads were written as, with a stored scale for each head or none"
        if k.cache.type != v.cache.type or (k.scale is None) != (v.scale is None):
            return "its keys and values are cached in different ways"
        turns = [each and each.operands[1:] for each in (q.turn, k.rows.turn)]
        if turns[0] != turns[1] or v.rows.turn is not None:
            return "queries and keys are not turned alike, or values are turned"
        if q.turn and k.rows.turn and q.turn.attrs != k.rows.turn.attrs:
            return "queries and keys are not turned alike"
        window, slopes = self._window(op), self._slopes(op)
        if isinstance(window, str):
            return window
        if isinstance(slopes, str):
            return slopes
        if op.attrs["scale"] <= 0:
            return f"its scale is {op.attrs['scale']}"
        after = self._after(op)
        if after is None:
            return "its context is not laid out as rows of heads, or something else uses it"
        _, heads, _, width = map(int, op.operands[0].type.sizes({}))
        dtype = k.cache.type.dtype
        spec = AttentionSpec(
            heads, int(k.cache.type.sizes({})[LINEAR.HEAD]), width, op.attrs["scale"], ((0, 0),) * 3, window,
            2 * int(q.turn.operands[1].type.sizes({})[-1]) if q.turn else 0,
            bool(q.turn and q.turn.attrs["interleaved"]), slopes is not None,
            BY_DTYPE[dtype].name if k.scale is not None else None,
        )  # fmt: skip
        ops = (*q.ops, *k.rows.ops, *k.ops, *v.rows.ops, *v.ops, op, *after)
        return PluginAttention(after[-1], ops, q, k, v, slopes, spec)

    def _only_user(self, value: Value) -> Op | None:
        users = self.graph.users.get(value.name, ())
        return users[0] if len(users) == 1 and value.name not in self._outputs else None

    def _maker(self, value: Value, kind: str) -> Op | None:
        op = self.producer(value)
        return op if op is not None and op.kind.name == kind else None

    def _rows(self, value: Value) -> _Rows | None:
        """The rows that a value `[B, heads, 1, D]` is made of, if nothing else uses what lies between."""
        ops: tuple[Op, ...] = ()
        turn = self._maker(value, "rotary")
        if turn is not None:
            if not self._only_user(value):
                return None
            value, ops = turn.operands[0], (turn,)
        heads = self._maker(value, "transpose")
        if heads is None or heads.attrs["perm"] != _HEADS_FIRST or not self._only_user(value):
            return None
        split = self._maker(heads.operands[0], "reshape")
        if split is None or not self._only_user(split.result) or split.operands[0].type.rank != 3:
            return None
        return _Rows(split.operands[0], (*ops, heads, split), turn)

    def _stored_rows(self, value: Value) -> _Stored | None:
        """What was written to a cache that attention reads, dequantized or not."""
        ops: tuple[Op, ...] = ()
        read = self._maker(value, "dequantize")
        if read is not None:
            if len(read.operands) > 2 or not self._only_user(value):
                return None
            value, ops = read.operands[0], (read,)
        update = self._maker(value, "kv_update")
        if update is None or self.graph.outputs.get(update.operands[0].name) != update.result:
            return None
        cache, new, at, count = update.operands
        users = self.graph.users.get(update.name, ())
        if (at.name, count.name) != (PAST_LEN, NEW_LEN) or len(users) != 1 or not cache.type.is_fixed:
            return None
        scale = None
        if read is not None:
            write = self._maker(new, "quantize")
            if write is None or write.operands[1:] != read.operands[1:] or not self._only_user(new):
                return None
            new, scale = write.operands
            if cache.type.dtype not in _QUANTIZED or not self._is_scale_of_heads(scale):
                return None
            ops = (*ops, write)
        elif cache.type.dtype is not new.type.dtype:
            return None
        rows = self._rows(new)
        return None if rows is None else _Stored(rows, update, (*ops, update), scale)

    def _is_scale_of_heads(self, scale: Value) -> bool:
        alone = all(dim == 1 for axis, dim in enumerate(scale.type.shape) if axis != LINEAR.HEAD)
        return alone and scale.name in self._stored

    def _window(self, op: Op) -> int | str:
        found = self._matched(op, op.operands[3], bias=False)
        if found is None:
            return "its mask is not that of causal attention"
        if "window" not in found.values:
            return -1
        width = window_of(self.producer(found["window"]))
        return "its window is no number" if width is None else width

    def _slopes(self, op: Op) -> Value | str | None:
        if len(op.operands) < 5:
            return None
        found = self._matched(op, op.operands[4], bias=True)
        if found is None or found["slopes"].name not in self._stored:
            return "its bias is not that of ALiBi"
        return found["slopes"]

    def _matched(self, op: Op, value: Value, *, bias: bool) -> Match | None:
        """How a mask or a bias comes of the positions of the tokens; None if it does not."""
        patterns = causal_patterns(1, op.operands[1].type.shape[LINEAR.POSITION])
        found = self._match(patterns.bias if bias else patterns.mask, value)
        at = found and self._match(patterns.positions, found["positions"])
        return found if at is not None and at["past"].name == PAST_LEN else None

    def _match(self, pattern: Pattern, value: Value) -> Match | None:
        producer = self.producer(value)
        found = producer and pattern.match(producer, self)
        return found if isinstance(found, Match) else None

    def _after(self, op: Op) -> tuple[Op, Op] | None:
        """The ops that lay a context out as rows of heads."""
        moved = self._only_user(op.result)
        if moved is None or moved.kind.name != "transpose" or moved.attrs["perm"] != _HEADS_FIRST:
            return None
        merged = self._only_user(moved.result)
        if merged is None or merged.kind.name != "reshape" or merged.result.type.rank != 3:
            return None
        return moved, merged


def emit_attention(e: Emission, layer: PluginAttention) -> None:
    """Add a layer; it stands for the context and the next states of both caches."""
    tensors: list[TrtTensor] = []
    reads = []
    for value in layer.rows:
        tensor, start = e.columns.get(value.name) or (e[value], 0)
        names = [each.name for each in tensors]
        if tensor.name not in names:
            tensors.append(tensor)
            names.append(tensor.name)
        reads.append((names.index(tensor.name), start))
    inputs = [*tensors, e[layer.k.cache], e[layer.v.cache], e[layer.k.update.operands[2]]]
    inputs += [e[angles] for angles in layer.q.turn.operands[1:]] if layer.q.turn else []
    inputs += [e[layer.slopes]] if layer.slopes else []
    inputs += [_scales(e, scale, layer.spec.kv_heads) for scale in (layer.k.scale, layer.v.scale) if scale]
    added = add_plugin(e, replace(layer.spec, reads=tuple(reads)), inputs)
    e[layer.at.result] = e.layer(added)
    for number, stored in enumerate((layer.k, layer.v), 1):
        e[stored.update.result] = added.get_output(number)


def _scales(e: Emission, scale: Value, heads: int) -> TrtTensor:
    """The scales of a cache, one for each head."""

    def make() -> TrtTensor:
        return e.constant(f"{scale.name}/heads", e.source.tensor(scale).float().reshape(-1).expand(heads))

    return e.once(("cache scales", scale.name), make)
