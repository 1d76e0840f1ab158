"""The rewriting of a step graph that gives it virtual tokens.

Virtual tokens have the ids after the vocabulary's: first those that are embeddings, then those of prefixes. Where the
model looks up its tokens, and where keys and values enter the caches, those of virtual tokens are looked up in tables
of their own. The model's own tables stay as they are, so that a tied head has no logits for virtual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from compiler.adapters.adapter import PromptAdapter
from compiler.errors import PassError
from compiler.frontends.composed import append_stored
from compiler.ir.analysis import constant_values
from compiler.ir.cache_layout import LINEAR, place_of_cache
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value, with_operands
from compiler.ir.rewrite import Replacement, RewriteBuilder, sweep
from compiler.ir.step import TOKEN_IDS, B, S
from compiler.passes.notes import note
from compiler.store.stored_tensor import StoredTensor

_SCOPE = "virtual"
"""The scope of what all lookups of virtual tokens share."""


def add_virtual_tokens(graph: Graph, adapters: Sequence[PromptAdapter], *, pass_name: str) -> Graph:
    """The graph that knows virtual tokens.

    Args:
        graph: a step graph of one rank over linear caches.
        adapters: those of embeddings, then those of prefixes; their virtual tokens have the ids from the vocabulary's
            size on, in that order.
        pass_name: recorded in the origin of new ops.

    Raises:
        PassError: if an adapter does not fit the model, or the model looks up tokens or keeps keys in another way.
    """
    return _Rewriting(graph, adapters, pass_name).result()


class _Range(NamedTuple):
    """Virtual tokens of one kind in a step: which of the tokens they are, and their rows in a table.

    Attributes:
        inside: `bool[B,S]`.
        rows: `i32[B,S]`; 0 for all other tokens.
    """

    inside: Value
    rows: Value


@dataclass(frozen=True)
class _Entry:
    """Where keys or values enter a cache.

    Attributes:
        operand: which operand of the op they are.
        part: which part of the rows of a prefix they take, all layers' keys and values counted.
        heads: how many heads the cache has.
        width: the width of each.
    """

    operand: int
    part: int
    heads: int
    width: int


class _Rewriting:
    def __init__(self, graph: Graph, adapters: Sequence[PromptAdapter], pass_name: str) -> None:
        self.graph, self.pass_name = graph, pass_name
        self.numbers = {adapter: number for number, adapter in enumerate(adapters)}
        self.embedded = [adapter for adapter in adapters if not adapter.is_prefix]
        self.prefixes = [adapter for adapter in adapters if adapter.is_prefix]
        self.vocabulary = int(graph.facts["vocab_size"])
        self.tokens = next(value for value in graph.inputs if value.name == TOKEN_IDS)
        self.lookups = self._token_lookups()
        self.quantized = False
        self.entries = self._cache_entries() if self.prefixes else {}
        self.shared: dict[str, Value] = {}

    def result(self) -> Graph:
        """The rewritten graph."""
        if self.quantized:
            note(
                "the caches are quantized already, by scales that know nothing of the virtual tokens: what is beyond "
                f"their range is cut (write {self.pass_name} before kv, which then measures them, too)"
            )
        return sweep(self.graph, self._visit, pass_name=self.pass_name)

    def _token_lookups(self) -> set[str]:
        """The lookups of the step's tokens in a constant table; everything that reads tokens must be one."""
        constant = constant_values(self.graph)
        readers = self.graph.users.get(TOKEN_IDS, ())
        for op in readers:
            if op.kind.name != "embedding" or op.operands[0].name not in constant:
                raise PassError(
                    f"{op.kind.name} %{op.name} from {op.origin} reads the tokens, and is no lookup in a table of "
                    "weights: it would meet ids of virtual tokens",
                    hint=f"write {self.pass_name} before the pass that made it",
                )
            self._check_width(op)
        if not readers:
            raise PassError("the model looks up no tokens", hint=f"leave {self.pass_name} out")
        return {op.name for op in readers}

    def _check_width(self, op: Op) -> None:
        width = op.result.type.shape[-1]
        for adapter in self.embedded:
            if adapter.width != width:
                raise _other_model(adapter, f"has embeddings of {adapter.width} (token_dim); the model's have {width}")

    def _cache_entries(self) -> dict[str, _Entry]:
        """Where keys and values enter caches, by the name of the op that reads them there."""
        entries = {}
        for name, (cache, successor) in self.graph.states().items():
            op = self.graph.producers.get(successor.name)
            if op is None or op.kind.name != "kv_update":
                raise PassError(f"the cache %{name} is not written by a kv_update", hint=f"leave {self.pass_name} out")
            heads, width = cache.type.shape[LINEAR.HEAD], cache.type.shape[LINEAR.WIDTH]
            assert isinstance(heads, int)
            assert isinstance(width, int)
            place = place_of_cache(name)
            if place is None:
                raise PassError(f"the cache %{name} is none of a layer", hint=f"leave {self.pass_name} out")
            layer, which = place
            self._check_cache(name, layer, heads, width)
            made = self.graph.producers.get(op.operands[1].name)
            # Of a quantized cache it is what is quantized.
            reader, operand = (made, 0) if made is not None and made.kind.name == "quantize" else (op, 1)
            self.quantized = self.quantized or reader is not op
            entries[reader.name] = _Entry(operand, 2 * layer + "kv".index(which), heads, width)
        return entries

    def _check_cache(self, name: str, layer: int, heads: int, width: int) -> None:
        for adapter in self.prefixes:
            assert adapter.layers is not None
            if adapter.width != heads * width or adapter.heads != heads or layer >= adapter.layers:
                raise _other_model(
                    adapter,
                    f"has {adapter.layers} layers whose {adapter.heads} heads have {adapter.width} columns "
                    f"(token_dim); the cache %{name} has {heads} heads with {heads * width}",
                )

    def _visit(self, op: Op, b: RewriteBuilder) -> Replacement:
        if op.name in self.lookups:
            return self._look_up(op, b)
        entry = self.entries.get(op.name)
        if entry is None:
            return None
        own = self._enter(op, entry, b)
        operands = tuple([own if at == entry.operand else value for at, value in enumerate(op.operands)])
        b.ops.append(with_operands(op, operands))
        return op.results

    def _look_up(self, op: Op, b: RewriteBuilder) -> Value:
        """The embeddings of a step's tokens; virtual tokens that are none are looked up as the token 0."""
        rows = b.embedding(op.operands[0], self._real_tokens(b), name="rows")
        if not self.embedded:
            return rows
        count = sum(adapter.virtual_tokens for adapter in self.embedded)
        found = self._range("embedded", self.vocabulary, count, b)
        tables = [self._table(adapter, b) for adapter in self.embedded]
        table = self._joined(tables, rows.type.dtype, b)
        own = b.embedding(table, found.rows, name="virtual_rows")
        inside = self._once("embedded.rows", lambda: b.reshape(found.inside, shape=(B, S, 1), name="embedded.rows"), b)
        return b.where(inside, own, rows)

    def _enter(self, op: Op, entry: _Entry, b: RewriteBuilder) -> Value:
        """The keys or values `[B,heads,S,width]` that enter a cache, with those of prefixes in their places."""
        new = op.operands[entry.operand]
        first = self.vocabulary + sum(adapter.virtual_tokens for adapter in self.embedded)
        count = sum(adapter.virtual_tokens for adapter in self.prefixes)
        found = self._range("prefix", first, count, b)
        columns = entry.heads * entry.width
        parts = [
            b.slice(self._table(adapter, b), axis=1, start=entry.part * columns, size=columns, name="prefix_columns")
            for adapter in self.prefixes
        ]
        rows = b.embedding(self._joined(parts, new.type.dtype, b), found.rows, name="prefix_rows")
        rows = b.reshape(rows, shape=(B, S, entry.heads, entry.width), name="prefix_by_head")
        heads = b.transpose(rows, perm=(0, 2, 1, 3), name="prefix")
        inside = self._once("prefix.rows", lambda: b.reshape(found.inside, shape=(B, 1, S, 1), name="prefix.rows"), b)
        return b.where(inside, heads, new, name="with_prefix")

    def _real_tokens(self, b: RewriteBuilder) -> Value:
        """`i32[B,S]`: the step's tokens, 0 in the place of virtual ones."""

        def make() -> Value:
            real = b.less(self.tokens, self._number(self.vocabulary, "first", b), name="is_real")
            return b.where(real, self.tokens, self._number(0, "zero", b), name="real_tokens")

        return self._once("real_tokens", make, b)

    def _range(self, name: str, first: int, count: int, b: RewriteBuilder) -> _Range:
        """The virtual tokens with `count` ids from `first` on."""

        def inside() -> Value:
            start, stop = self._number(first, f"{name}.first", b), self._number(first + count, f"{name}.end", b)
            low = b.less_equal(start, self.tokens, name=f"{name}.from")
            return b.logical_and(low, b.less(self.tokens, stop, name=f"{name}.to"), name=f"{name}.inside")

        def rows() -> Value:
            own = b.sub(self.tokens, self._number(first, f"{name}.first", b), name=f"{name}.own_ids")
            return b.where(found, own, self._number(0, "zero", b), name=f"{name}.ids")

        found = self._once(f"{name}.inside", inside, b)
        return _Range(found, self._once(f"{name}.ids", rows, b))

    def _table(self, adapter: PromptAdapter, b: RewriteBuilder) -> Value:
        """The tensor of an adapter as it is stored."""
        name = f"table.{self.numbers[adapter]}"

        def make() -> Value:
            turned = isinstance(adapter.table, StoredTensor) and adapter.table.perm is not None
            return append_stored(b, adapter.table, f"{name}.transposed" if turned else name, before=name)

        return self._once(name, make, b)

    def _joined(self, tables: Sequence[Value], dtype: DType, b: RewriteBuilder) -> Value:
        """Tables one below the other, in the type of what their rows stand for."""
        cast = [table if table.type.dtype is dtype else b.cast(table, dtype=dtype, name="table") for table in tables]
        return cast[0] if len(cast) == 1 else b.concat(*cast, axis=0, name="tables")

    def _number(self, value: int, name: str, b: RewriteBuilder) -> Value:
        def make() -> Value:
            return b.literal(dtype=self.tokens.type.dtype, shape=(1,), values=(value,), name=name)

        return self._once(f"{name}={value}", make, b)

    def _once(self, key: str, make: Callable[[], Value], b: RewriteBuilder) -> Value:
        """What `make` appends, in a scope of its own, the first time that it is asked for."""
        if key not in self.shared:
            prefix, b.prefix = b.prefix, f"{_SCOPE}."
            self.shared[key] = make()
            b.prefix = prefix
        return self.shared[key]


def _other_model(adapter: PromptAdapter, why: str) -> PassError:
    return PassError(f"the adapter {adapter.path} {why}", hint="give an adapter that was trained for this checkpoint")
