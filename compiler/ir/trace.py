"""What rules did and why they did not: the text of `--explain`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from compiler.ir.folding import alike, span
from compiler.ir.matching import Miss
from compiler.ir.op import Op


@dataclass(frozen=True)
class RuleRefusal:
    """An op that a rule could have rewritten and did not.

    Attributes:
        op: the op.
        reason: why.
        depth: how many ops of the rule's pattern fitted, the root included; 0 if all of them did.
        close: whether the op at which it failed is of the right kind, and otherwise not as it should be.
    """

    op: Op
    reason: str
    depth: int = 0
    close: bool = False

    def __str__(self) -> str:
        return f"%{self.op.name} from {self.op.origin}: {self.reason}"


@dataclass
class RuleTrace:
    """What one rule of one pass did.

    Attributes:
        roots: what kinds of op the rule starts from.
        size: how many ops its pattern has at most.
        own: whether the rule is llmc's own.
        met: the ops of those kinds that it met, by name: a pass may sweep several times.
        applied: how often it replaced one.
        places: those that it replaced, by name.
        declined: those that matched but that it declined, by name.
        misses: those that are a root of the pattern and did not match below it, by name.
    """

    roots: tuple[str, ...] = ()
    size: int = 1
    own: bool = True
    met: set[str] = field(default_factory=set)
    applied: int = 0
    places: dict[str, Op] = field(default_factory=dict)
    declined: dict[str, RuleRefusal] = field(default_factory=dict)
    misses: dict[str, RuleRefusal] = field(default_factory=dict)

    @property
    def near(self) -> list[RuleRefusal]:
        """The misses that are worth a line, those first of which most fits.

        What is near is of the right kind but for an attribute, an operand or a binding; or half of a pattern of three
        ops or more. Less than that fits by chance: what a small pattern misses is most of a graph. But where a rule
        that is not llmc's own did nothing and nothing is near, its user wants to see what there is.
        """
        every = sorted(self.misses.values(), key=lambda miss: -miss.depth)
        near = [miss for miss in every if miss.close or (self.size > 2 and 2 * miss.depth >= self.size)]
        return near or ([] if self.own or self.applied or self.declined else every)

    @property
    def idle(self) -> bool:
        """Whether the rule did nothing, and nobody will ask why."""
        return not self.applied and not self.declined and self.size <= 2 and not self.near

    def apply(self, op: Op) -> None:
        """Record that the rule replaced `op`, whatever kept it from doing so in an earlier sweep."""
        self.applied += 1
        self.places[op.name] = op
        self.declined.pop(op.name, None)
        self.misses.pop(op.name, None)

    def decline(self, op: Op, reason: str) -> None:
        """Record that the rule matched `op` and declined it."""
        self.declined[op.name] = RuleRefusal(op, reason)

    def miss(self, op: Op, miss: Miss) -> None:
        """Record a failed match of an op that is a root of the pattern; of several sweeps that in which most fitted."""
        known = self.misses.get(op.name)
        if miss.depth > (known.depth if known else 0):
            self.misses[op.name] = RuleRefusal(op, miss.reason, miss.depth, miss.close)


class Trace:
    """Collects what rules did, over any number of passes.

    A pass is only a function of a graph, so the trace reaches its rules by way of the context: `with trace.active():`.
    """

    def __init__(self) -> None:
        self.rules: dict[tuple[str, str], RuleTrace] = {}
        self.notes: dict[str, list[str]] = {}

    def rule(self, pass_name: str, rule: str) -> RuleTrace:
        """The record of a pass's rule, made at the first call."""
        self.notes.setdefault(pass_name, [])
        return self.rules.setdefault((pass_name, rule), RuleTrace())

    def note(self, pass_name: str, line: str) -> None:
        """Record what a pass says about its result as a whole."""
        self.notes.setdefault(pass_name, []).append(line)

    @contextmanager
    def active(self) -> Iterator[Trace]:
        """Make this the trace that `current_trace` returns."""
        token = _CURRENT.set(self)
        try:
            yield self
        finally:
            _CURRENT.reset(token)

    def text(self, limit: int = 5) -> str:
        """A paragraph a pass, a few lines a rule; of each list the first `limit` entries."""
        passes: dict[str, dict[str, RuleTrace]] = {name: {} for name in self.notes}
        for (pass_name, name), rule in self.rules.items():
            passes.setdefault(pass_name, {})[name] = rule
        lines: list[str] = []
        for pass_name, rules in passes.items():
            lines.append(pass_name)
            idle = [name for name, rule in rules.items() if rule.idle]
            for name, rule in rules.items():
                if not rule.idle:
                    lines += _rule_lines(name, rule, limit)
            lines += [f"  {note}" for note in self.notes[pass_name]]
            if idle:
                lines.append(f"  nothing to do for {', '.join(idle)}")
        return "".join(f"{line}\n" for line in lines)


_CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


def current_trace() -> Trace | None:
    """The trace of the pipeline that runs now, if it keeps one."""
    return _CURRENT.get()


def _rule_lines(name: str, rule: RuleTrace, limit: int) -> Iterator[str]:
    if not rule.met:
        yield f"  {name}: met no {' or '.join(rule.roots) or 'op'}"
        return
    yield f"  {name}: applied to {rule.applied} of {len(rule.met)}"
    if rule.places:
        groups = list(alike(rule.places.values(), lambda op: op.name, lambda op: ""))
        places = [span([op.name for op in ops]) for ops in groups[:limit]]
        more = [f"{len(groups) - limit} more"] if len(groups) > limit else []
        yield f"    at {', '.join([*places, *more])}"
    yield from _listed("declined", rule.declined.values(), limit)
    yield from _listed("near miss", rule.near, limit, size=rule.size)


def _listed(what: str, refusals: Iterable[RuleRefusal], limit: int, *, size: int = 0) -> Iterator[str]:
    """A line for each refusal; those of layers that are refused alike share one."""
    groups = list(alike(refusals, lambda refusal: refusal.op.name, lambda refusal: refusal.reason))
    for group in groups[:limit]:
        how_near = f" ({group[0].depth} of {size} ops)" if size else ""
        names = span([refusal.op.name for refusal in group])
        yield f"    {what}{how_near} {names} from {group[0].op.origin}: {group[0].reason}"
    if left := sum(map(len, groups[limit:])):
        yield f"    ... and {left} more"
