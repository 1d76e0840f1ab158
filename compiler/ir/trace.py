"""What rules did and why they did not: the text of `--explain`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from compiler.ir.matching import Miss
from compiler.ir.op import Op


@dataclass(frozen=True)
class RuleRefusal:
    """An op that a rule could have rewritten and did not.

    Attributes:
        op: the op.
        reason: why.
    """

    op: Op
    reason: str

    def __str__(self) -> str:
        return f"%{self.op.name} from {self.op.origin}: {self.reason}"


@dataclass
class RuleTrace:
    """What one rule of one pass did.

    Attributes:
        roots: what kinds of op the rule starts from.
        size: how many ops its pattern has at most.
        met: the ops of those kinds that it met, by name: a pass may sweep several times.
        applied: how many of them it replaced.
        declined: those that matched but that it declined, by name.
        depth: how many ops of the pattern the nearest misses have, the root included.
        misses: the nearest misses, by name.
    """

    roots: tuple[str, ...] = ()
    size: int = 1
    met: set[str] = field(default_factory=set)
    applied: int = 0
    declined: dict[str, RuleRefusal] = field(default_factory=dict)
    depth: int = 0
    misses: dict[str, RuleRefusal] = field(default_factory=dict)

    @property
    def near(self) -> bool:
        """Whether the nearest misses are worth a line: less than half of a pattern, or of a pair, fits by chance."""
        return self.size > 2 and 2 * self.depth >= self.size

    @property
    def idle(self) -> bool:
        """Whether the rule did nothing, and nobody will ask why: what a small pattern misses is most of a graph."""
        return not self.applied and not self.declined and self.size <= 2

    def apply(self, op: Op) -> None:
        """Record that the rule replaced `op`, whatever kept it from doing so in an earlier sweep."""
        self.applied += 1
        self.declined.pop(op.name, None)
        self.misses.pop(op.name, None)

    def decline(self, op: Op, reason: str) -> None:
        """Record that the rule matched `op` and declined it."""
        self.declined[op.name] = RuleRefusal(op, reason)

    def miss(self, op: Op, miss: Miss) -> None:
        """Record a failed match. Only the deepest count: a rule fails at most ops of its root's kind."""
        if miss.depth > self.depth:
            self.depth, self.misses = miss.depth, {}
        if miss.depth == self.depth:
            self.misses[op.name] = RuleRefusal(op, miss.reason)


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
    yield from _listed("declined", rule.declined.values(), limit)
    if rule.near:
        yield from _listed(f"nearest miss ({rule.depth} of {rule.size} ops)", rule.misses.values(), limit)


def _listed(what: str, refusals: Iterable[RuleRefusal], limit: int) -> Iterator[str]:
    every = list(refusals)
    for refusal in every[:limit]:
        yield f"    {what} {refusal}"
    if len(every) > limit:
        yield f"    ... and {len(every) - limit} more"
