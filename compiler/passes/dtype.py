"""The floating-point type that a model computes in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from compiler.errors import PassError
from compiler.ir.analysis import stored_values
from compiler.ir.dtypes import COMPUTE_DTYPES, DType
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import Replacement, RewriteBuilder, sweep
from compiler.passes.registry import register

_LONG = {dtype.value: name for name, dtype in COMPUTE_DTYPES.items()}


@register("dtype")
@dataclass(frozen=True)
class ChangeDType:
    """Compute in another floating-point type: weights, caches and everything made from them.

    Each weight is converted once, from the type in which it is stored, or, if it is computed from others, from the
    float32 in which that is done. What is computed in float32 on purpose stays: the angles of rotary positions, ALiBi
    biases until they meet the scores.
    """

    to: Annotated[
        Literal["float32", "float16", "bfloat16", "f32", "f16", "bf16"], "the type; the short spellings mean the same"
    ]

    def __post_init__(self) -> None:
        name = _LONG.get(self.to, self.to)
        if name not in COMPUTE_DTYPES:
            raise PassError(f"models compute in {', '.join(COMPUTE_DTYPES)}, not in {self.to!r}")
        object.__setattr__(self, "to", name)

    def __call__(self, graph: Graph) -> Graph:
        """The graph in the new type; the fact `dtype` says so."""
        new = COMPUTE_DTYPES[self.to]
        old = compute_dtype(graph)
        if old is not None and old is not new:
            conversion = _Conversion(graph, old, new)
            graph = sweep(
                graph,
                conversion.visit,
                pass_name="dtype",
                retype=True,
                inputs={name: Value(name, value.type.with_dtype(new)) for name, value in _states(graph, old).items()},
                adapt=conversion.adapt,
            )
        if graph.facts.get("dtype") == new.value:
            return graph
        return replace(graph, facts=FrozenDict({**graph.facts, "dtype": new.value}))


def compute_dtype(graph: Graph) -> DType | None:
    """The type that the model computes in: the fact `dtype`, else the commonest type of floating-point results."""
    fact = graph.facts.get("dtype")
    for dtype in COMPUTE_DTYPES.values():
        if fact == dtype.value:
            return dtype
    counts = Counter(v.type.dtype for op in graph.ops for v in op.results if v.type.dtype.is_float)
    return counts.most_common(1)[0][0] if counts else None


def _states(graph: Graph, dtype: DType) -> dict[str, Value]:
    return {name: value for name, (value, _) in graph.states().items() if value.type.dtype is dtype}


def _domain(graph: Graph, dtype: DType) -> set[str]:
    """The values that are computed in `dtype` because the model is, and not on purpose.

    In a float16 model all that is float16 is; what is float32 is so on purpose. In a float32 model the type does not
    tell, but what is float32 on purpose comes from positions, not from weights or caches.
    """
    if dtype is not DType.f32:
        return {value.name for op in graph.ops for value in op.results if value.type.dtype is dtype}
    made = set(_states(graph, dtype))
    domain = set(made)
    for op in graph.ops:
        if op.kind.name not in ("const", "random") and not any(value.name in made for value in op.operands):
            continue
        floats = [value for value in op.results if value.type.dtype.is_float]
        made.update(value.name for value in floats)
        domain.update(value.name for value in floats if value.type.dtype is dtype)
    return domain


# What these make of a weight is the same numbers in other places.
_MOVES = frozenset({"const", "random", "cast", "reshape", "transpose", "slice", "split", "concat", "shard", "literal"})
_SCALED = frozenset({"quantize", "dequantize"})


def _computed_weights(graph: Graph) -> tuple[set[str], set[str]]:
    """The float32 values of which weights are computed as an engine is written, and which of them running ops read.

    They stay in float32, so that what is computed of weights is rounded once.
    """
    stored = stored_values(graph)
    computed: set[str] = set()
    for op in graph.ops:
        sums = op.kind.name not in _MOVES and op.kind.name not in _SCALED
        if op.name in stored and op.operands and (sums or any(value.name in computed for value in op.operands)):
            computed.update(value.name for value in op.results if value.type.dtype is DType.f32)
    inner = set(computed)
    for op in reversed(graph.ops):
        users = graph.users.get(op.name, ())
        if op.name in stored and users and all(user.name in inner for user in users):
            inner.update(value.name for value in op.results)
    read = {
        value.name
        for op in graph.ops
        if op.name not in stored and op.kind.name not in _SCALED
        for value in op.operands
        if value.name in computed
    }
    return inner, read


class _Conversion:
    """From one type to another, in one sweep."""

    def __init__(self, graph: Graph, old: DType, new: DType) -> None:
        self.old = old
        self.new = new
        kept, self.read = _computed_weights(graph) if old is DType.f32 else (set(), set())
        self.domain = _domain(graph, old) - kept
        self.converted: dict[str, Value] = {}

    def visit(self, op: Op, b: RewriteBuilder) -> Replacement:
        """Change what says the old type by itself; all other types follow from the operands'."""
        if op.name in self.read and len(op.results) == 1:
            made = b.again(op)
            assert isinstance(made, Value)
            return b.cast(made, dtype=self.new)
        if op.name not in self.domain:
            return None
        if op.kind.name == "const" and op.result.type.dtype is self.old:
            stored = b.const(data=op.attrs["data"], name="stored")
            return b.cast(stored, dtype=self.new)
        if op.attrs.get("dtype") is not self.old or len(op.results) != 1:
            return None
        if op.kind.name == "cast" and op.operands[0].type.dtype is self.new:
            return op.operands[0]
        return b.again(op, dtype=self.new)

    def adapt(self, op: Op, operands: tuple[Value, ...], b: RewriteBuilder) -> list[Value]:
        """The operands of an op that refuses to mix types, those of the old type converted."""
        return [self._convert(value, b) if value.type.dtype is self.old else value for value in operands]

    def _convert(self, value: Value, b: RewriteBuilder) -> Value:
        if value.name not in self.converted:
            self.converted[value.name] = self._made_anew(value, b)
        return self.converted[value.name]

    def _made_anew(self, value: Value, b: RewriteBuilder) -> Value:
        """The value in the new type, rounded once."""
        producer = b.producer(value)
        # Beside the value, not within the op that happens to use it first.
        prefix, b.prefix = b.prefix, ""
        try:
            name = f"{value.name}.{self.new}"
            if producer is not None and producer.kind.name == "literal":
                attrs: dict[str, Any] = {**producer.attrs, "dtype": self.new}
                return b.literal(**attrs, name=name)
            source = _unrounded(producer, value)
            return source if source.type.dtype is self.new else b.cast(source, dtype=self.new, name=name)
        finally:
            b.prefix = prefix


def _unrounded(producer: Op | None, value: Value) -> Value:
    """The source of a cast that rounds, or of one from integers; else the value itself."""
    if producer is None or producer.kind.name != "cast":
        return value
    source = producer.operands[0]
    rounds = source.type.dtype.bits > value.type.dtype.bits
    return source if rounds or not source.type.dtype.is_float else value
