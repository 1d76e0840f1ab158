"""Rewriting graphs: one forward sweep with a substitution.

`sweep` visits each op once, in order, with its operands already rewritten; what the visitor returns replaces the op's
results from there on. Types of an op that is kept are inferred after the visit, so that a visitor whose operands have
changed their shapes can give the op other attributes. Ops that nothing touches are shared with the old graph, not
copied, and ops that nothing needs any more are dropped at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from operator import is_
from typing import Any

from compiler.errors import GraphError, PluginError
from compiler.ir.analysis import is_constant
from compiler.ir.builder import Builder
from compiler.ir.collection import no_collection
from compiler.ir.frozen import EMPTY
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value, with_types
from compiler.ir.running_pass import running_pass
from compiler.ir.types import TensorType
from compiler.plugins import blame, place_of

Replacement = Value | Sequence[Value] | None


class RewriteBuilder(Builder):
    """The builder that a visitor appends ops to; new values are named after the op being visited.

    Attributes:
        pass_name: the pass whose work new ops are.
        author: what a replacement of the op being visited is the work of, where it is not the pass alone: a rule.
    """

    def __init__(self, graph: Graph, pass_name: str) -> None:
        super().__init__(graph.name)
        self.taken = set(graph.values)
        self.pass_name = pass_name
        self.author = ""
        # Indexes over self.ops[:self._indexed], caught up when a visitor asks: most sweeps never do.
        self._producers: dict[str, Op] = {}
        self._constants: set[str] = set()
        self._indexed = 0

    def visiting(self, op: Op) -> None:
        """Name and attribute what is emitted next after `op`."""
        self.author = ""
        self.prefix = op.results[0].name + "."
        self.origin = op.origin.touched_by(self.pass_name) if self.pass_name else op.origin

    def again(self, op: Op, **attrs: Any) -> Value | tuple[Value, ...]:
        """The op once more, on its operands, with some of its attributes changed. Returns what stands for its results.

        Raises:
            GraphError: if the operands or attributes break the kind's rule.
        """
        names = tuple([op.kind.name] * len(op.results))
        made = self.emit(op.kind, op.operands, {**op.attrs, **attrs}, names)
        return made if len(made) > 1 else made[0]

    def take(self, x: Value, blocks: Iterable[int], *, axis: int = 0, width: int = 1) -> Value:
        """Some blocks of `x` along an axis, side by side: rows or columns of weights, or those of attention heads.

        Args:
            x: the value, whose axis consists of blocks.
            blocks: which of them, the first being 0, in the order that they shall have.
            axis: the axis.
            width: the size of a block.

        Raises:
            GraphError: if a block lies outside.
        """
        taken = [self.slice(x, axis=axis, start=block * width, size=width) for block in blocks]
        return self.concat(*taken, axis=axis)

    def producer(self, value: Value) -> Op | None:
        """The op behind a value of the graph rewritten so far; None for an input."""
        self._catch_up()
        return self._producers.get(value.name)

    def is_constant(self, value: Value) -> bool:
        """Whether a value depends on no input and has a fixed shape, so that it costs nothing when the model runs."""
        self._catch_up()
        return value.name in self._constants

    def _catch_up(self) -> None:
        for op in self.ops[self._indexed :]:
            for value in op.results:
                self._producers[value.name] = op
            if is_constant(op, self._constants):
                self._constants.update(value.name for value in op.results)
        self._indexed = len(self.ops)

    def retract(self, count: int) -> None:
        """Forget the ops after the first `count`: what a rule appended before it declined. Nothing may use them."""
        for op in self.ops[count:]:
            self.taken.difference_update(value.name for value in op.results)
            self._unindex(op)
        del self.ops[count:]
        self._indexed = min(self._indexed, count)

    def rename_last(self, like: tuple[Value, ...]) -> tuple[Value, ...]:
        """Give the results of the op appended last, which nothing uses yet, the names of `like`; returns them."""
        last = self.ops[-1]
        for value in last.results:
            self.taken.discard(value.name)
        if self._indexed == len(self.ops):
            self._unindex(last)
        # Values of the same name and type are interchangeable: the old ones serve again.
        renamed = tuple(
            [
                old if old.type is new.type else Value(old.name, new.type)
                for old, new in zip(like, last.results, strict=True)
            ]
        )
        self.ops[-1] = Op(last.kind, last.operands, last.attrs, renamed, last.origin)
        return renamed

    def _unindex(self, op: Op) -> None:
        for value in op.results:
            self._producers.pop(value.name, None)
            self._constants.discard(value.name)
        self._indexed = min(self._indexed, len(self.ops) - 1)


Visitor = Callable[[Op, RewriteBuilder], Replacement]
Adapter = Callable[[Op, tuple[Value, ...], RewriteBuilder], Sequence[Value]]


@no_collection()
def sweep(
    graph: Graph,
    visit: Visitor,
    *,
    pass_name: str | None = None,
    retype: bool = False,
    inputs: Mapping[str, Value | TensorType | None] = EMPTY,
    adapt: Adapter | None = None,
) -> Graph:
    """Rewrite a graph in one forward sweep.

    Args:
        graph: the graph; it is not changed.
        visit: called as `visit(op, builder)` with the op on its rewritten operands; its results still have the types
            that they had in `graph`. Returns None to keep the op, or the values that stand for its results from here
            on: values of the graph so far, or of ops that it appends to the builder.
        pass_name: recorded in the origin of new ops; the pass that the pipeline runs if None.
        retype: whether a replacement may have another type than what it replaces; ops downstream are inferred anew.
        inputs: by name, what becomes of an input of the graph: another type, or a value of the same name that has it;
            or None for a cache that goes, together with its next state.
        adapt: called as `adapt(op, operands, builder)` if an op that is kept refuses its rewritten operands (their
            types changed); returns operands that it takes.

    Returns:
        The rewritten graph without dead ops; `graph` itself if nothing changed.

    Raises:
        GraphError: if a replacement has another type and `retype` is off, an op downstream refuses its operands, or one
            that stays uses a cache that goes.
        PluginError: if a visitor returns something else than values, or one that is not llmc's own raises anything but
            an `LlmcError`; file and line are named.
    """
    builder = RewriteBuilder(graph, running_pass() if pass_name is None else pass_name)
    ops = builder.ops
    given = {name: Value(name, new) if isinstance(new, TensorType) else new for name, new in inputs.items()}
    substitution: dict[str, Value] = {name: value for name, value in given.items() if value is not None}
    for original in graph.ops:
        builder.visiting(original)
        op = _substituted(original, substitution)
        before = len(ops)
        try:
            replacement = visit(op, builder)
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told whose it is, and where
            blame(error, visit, f"the visit of {op.kind.name} %{op.name} from {op.origin}")
        if replacement is None:
            if op is not original:
                op = _inferred(op, original, builder, adapt)
            ops.append(op)
            if op is not original:
                _record(substitution, original, op.results)
            continue
        values = _values(original, replacement, visit)
        if not retype:
            _check_types(original, values, builder.author or builder.pass_name)
        # The op that replaces another takes its name, so that a diff shows one changed line and no renamed value.
        if len(ops) > before and ops[-1].results == values and len(values) == len(original.results):
            values = builder.rename_last(original.results)
        if values != original.results:
            _record(substitution, original, values)
    gone = {name for name, value in given.items() if value is None}
    if not substitution and not gone and len(ops) == len(graph.ops) and all(map(is_, ops, graph.ops)):
        return eliminate_dead(graph)
    outputs = {role: substitution.get(v.name, v) for role, v in graph.outputs.items() if role not in gone}
    swept = eliminate_dead(graph.with_ops(tuple(ops), outputs))
    if given:
        kept = [given.get(value.name, value) for value in graph.inputs]
        swept = replace(swept, inputs=tuple([value for value in kept if value is not None]))
    if gone:
        _check_unused(swept, gone)
    return swept


def _values(original: Op, replacement: object, visit: Visitor) -> tuple[Value, ...]:
    """What a visitor has returned, as values: one for each result of the op."""
    values = tuple(replacement) if isinstance(replacement, (list, tuple)) else (replacement,)
    wrong = next((value for value in values if not isinstance(value, Value)), None)
    if wrong is not None or not values:
        raise PluginError(
            f"the visit of {original.kind.name} %{original.name} from {original.origin} returned {replacement!r} "
            f"({place_of(visit)})",
            hint="a visit returns None, a value, or one value for each result of the op",
        )
    return values


def _substituted(op: Op, substitution: Mapping[str, Value]) -> Op:
    """The op on its rewritten operands, its results as they were."""
    if not substitution:
        return op
    for value in op.operands:
        if value.name in substitution:
            break
    else:
        return op
    operands = tuple([substitution.get(value.name, value) for value in op.operands])
    return Op(op.kind, operands, op.attrs, op.results, op.origin)


def _inferred(op: Op, original: Op, builder: RewriteBuilder, adapt: Adapter | None) -> Op:
    """The op with results of the types that its operands give."""
    for new, old in zip(op.operands, original.operands, strict=True):
        if new.type is not old.type and new.type != old.type:
            break
    else:
        return op
    try:
        return with_types(op)
    except GraphError as error:
        if adapt is not None:
            operands = tuple(adapt(original, op.operands, builder))
            return _inferred(Op(op.kind, operands, op.attrs, op.results, op.origin), original, builder, None)
        raise GraphError(
            f"{op.kind.name} %{op.name} from {op.origin} cannot take its new operands: {error.message}", hint=error.hint
        ) from None


def _check_unused(graph: Graph, gone: Set[str]) -> None:
    for op in graph.ops:
        for value in op.operands:
            if value.name in gone:
                raise GraphError(
                    f"{op.kind.name} %{op.name} from {op.origin} still uses the cache %{value.name}, which goes"
                )


def _record(substitution: dict[str, Value], original: Op, values: Sequence[Value]) -> None:
    if len(values) != len(original.results):
        raise GraphError(
            f"{original.kind.name} %{original.name} from {original.origin} has {len(original.results)} results but "
            f"{len(values)} replacements"
        )
    for old, new in zip(original.results, values, strict=True):
        if old != new:
            substitution[old.name] = new


def _check_types(original: Op, values: Sequence[Value], author: str) -> None:
    for old, new in zip(original.results, values, strict=False):
        if old.type != new.type:
            raise GraphError(
                f"{author or 'a rewrite'} replaces {original.kind.name} %{old.name} from {original.origin}, of type "
                f"{old.type}, by %{new.name} of type {new.type}",
                hint="a replacement keeps the type; a pass that changes types sweeps with retype=True",
            )


def eliminate_dead(graph: Graph) -> Graph:
    """The graph without ops whose results nothing needs; `graph` itself if there are none. Inputs stay."""
    needed = {value.name for value in graph.outputs.values()}
    kept: list[Op] = []
    for op in reversed(graph.ops):
        if any(value.name in needed for value in op.results):
            kept.append(op)
            needed.update(value.name for value in op.operands)
    if len(kept) == len(graph.ops):
        return graph
    return graph.with_ops(tuple(reversed(kept)), graph.outputs)
