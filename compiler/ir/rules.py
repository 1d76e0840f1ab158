"""Rewriting by rules: a pattern, and what to put in place of what it matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from compiler.errors import PassError, PluginError
from compiler.ir.graph import Graph
from compiler.ir.matching import Match, Miss
from compiler.ir.op import Op, Value
from compiler.ir.patterns import Pattern
from compiler.ir.rewrite import Replacement, RewriteBuilder, Visitor, sweep
from compiler.ir.running_pass import running_pass
from compiler.ir.trace import RuleTrace, Trace, current_trace
from compiler.plugins import blame, is_own, place_of


@dataclass(frozen=True)
class Decline:
    """Returned by a rule that leaves what its pattern matched as it is, and says why.

    Attributes:
        reason: for `--explain`, such as "the middle type loses bits".
    """

    reason: str


Outcome = Value | Sequence[Value] | Decline | None
Apply = Callable[[Match, RewriteBuilder], Outcome]


@dataclass(frozen=True)
class Rule:
    """A pattern with what replaces it.

    Attributes:
        name: for `--explain`.
        pattern: what the root op must look like; its outermost part is an op.
        apply: called as `apply(match, builder)`. Returns the values that stand for the root's results from then on
            (existing ones, or results of ops that it appends to the builder), a `Decline`, or None to leave the op
            to the next rule without a word.

    Raises:
        PassError: if the pattern matches any value whatever.
    """

    name: str
    pattern: Pattern
    apply: Apply

    def __post_init__(self) -> None:
        if not self.pattern.kinds:
            raise PassError(f"the rule {self.name!r} starts from any value; the root of a rule's pattern must be an op")


def rule(pattern: Pattern, *, name: str | None = None) -> Callable[[Apply], Rule]:
    """Decorator: the function, with `pattern`, is a rule. Its name is the function's if none is given."""
    return lambda apply: Rule(name or apply.__name__, pattern, apply)


def apply_rules(
    graph: Graph, rules: Iterable[Rule], *, pass_name: str | None = None, trace: Trace | None = None
) -> Graph:
    """Rewrite a graph by rules in one forward sweep; at each op the first rule that applies wins.

    Args:
        graph: the graph; it is not changed.
        rules: tried in order.
        pass_name: recorded in the origin of new ops, and in the trace; the pass that the pipeline runs if None.
        trace: where to record what happened; the pipeline's own trace if none is given.

    Returns:
        The rewritten graph without dead ops; `graph` itself if no rule applied.

    Raises:
        PluginError: if a rule returns something else than it should, or one that is not llmc's own raises anything but
            an `LlmcError`; file and line are named.
        GraphError: if a replacement has another type than what it replaces.
    """
    return sweep(graph, rule_visitor(rules, pass_name=pass_name, trace=trace), pass_name=pass_name)


def rule_visitor(rules: Iterable[Rule], *, pass_name: str | None = None, trace: Trace | None = None) -> Visitor:
    """The visitor behind `apply_rules`, for a sweep that does more than apply rules."""
    name = running_pass() if pass_name is None else pass_name
    trace = trace or current_trace()
    by_kind: dict[str, list[tuple[Rule, RuleTrace]]] = {}
    for rule in rules:
        record = trace.rule(name, rule.name) if trace else RuleTrace()
        record.roots, record.size = tuple(sorted(rule.pattern.kinds)), rule.pattern.size
        record.own = is_own(rule.apply)
        for kind in record.roots:
            by_kind.setdefault(kind, []).append((rule, record))

    def visit(op: Op, builder: RewriteBuilder) -> Replacement:
        candidates = by_kind.get(op.kind.name)
        if candidates is None:
            return None
        for rule, record in candidates:
            replacement = _try(rule, op, builder, record)
            if replacement is not None:
                builder.author = f"the rule {rule.name!r}"
                return replacement
        return None

    return visit


def _try(rule: Rule, op: Op, builder: RewriteBuilder, record: RuleTrace) -> Replacement:
    """The replacement, if the rule applies; else the builder is as it was."""
    record.met.add(op.name)
    match = rule.pattern.match(op, builder)
    if isinstance(match, Miss):
        record.miss(op, match)
        return None
    before = len(builder.ops)
    try:
        outcome = rule.apply(match, builder)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user is told whose it is
        blame(error, rule.apply, f"the rule {rule.name!r} at {op.kind.name} %{op.name} from {op.origin}")
    if outcome is None or isinstance(outcome, Decline):
        builder.retract(before)
        builder.visiting(op)
        if outcome is not None:
            record.decline(op, outcome.reason)
        return None
    _check(rule, op, outcome)
    record.apply(op)
    return outcome


def _check(rule: Rule, op: Op, outcome: object) -> None:
    values = (outcome,) if isinstance(outcome, Value) else outcome
    if not isinstance(values, Sequence) or not all(isinstance(value, Value) for value in values):
        raise PluginError(
            f"the rule {rule.name!r} at {op.kind.name} %{op.name} from {op.origin} returned {outcome!r} "
            f"({place_of(rule.apply)})",
            hint="a rule returns a value, one value for each result of the root, a Decline or None",
        )
