"""What rules did and why they did not: the text of `--explain`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from compiler.ir.op import Op
from compiler.ir.patterns import Miss


@dataclass(frozen=True)
class Refusal:
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
        met: how many ops of those kinds it met.
        applied: how many of them it replaced.
        declined: those that matched but that it declined, by name.
        depth: how many ops of the pattern the nearest misses have, the root included.
        misses: the nearest misses, by name.
    """

    roots: tuple[str, ...] = ()
    size: int = 1
    met: int = 0
    applied: int = 0
    declined: dict[str, Refusal] = field(default_factory=dict)
    depth: int = 0
    misses: dict[str, Refusal] = field(default_factory=dict)

    def decline(self, op: Op, reason: str) -> None:
        """Record that the rule matched `op` and declined it."""
        self.declined[op.name] = Refusal(op, reason)

    def miss(self, op: Op, miss: Miss) -> None:
        """Record a failed match. Only the deepest count: a rule fails at most ops of its root's kind."""
        if miss.depth > self.depth:
            self.depth, self.misses = miss.depth, {}
        if miss.depth == self.depth:
            self.misses[op.name] = Refusal(op, miss.reason)


class Trace:
    """Collects what rules did, over any number of passes.

    A pass is only a function of a graph, so the trace reaches its rules by way of the context: `with trace.active():`.
    """

    def __init__(self) -> None:
        self.rules: dict[tuple[str, str], RuleTrace] = {}

    def rule(self, pass_name: str, rule: str) -> RuleTrace:
        """The record of a pass's rule, made at the first call."""
        return self.rules.setdefault((pass_name, rule), RuleTrace())

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
        lines: list[str] = []
        for (pass_name, name), rule in self.rules.items():
            if pass_name not in lines:
                lines.append(pass_name)
            lines += _rule_lines(name, rule, limit)
        return "".join(f"{line}\n" for line in lines)


_CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


def current_trace() -> Trace | None:
    """The trace of the pipeline that runs now, if it keeps one."""
    return _CURRENT.get()


def _rule_lines(name: str, rule: RuleTrace, limit: int) -> Iterator[str]:
    if not rule.met:
        yield f"  {name}: met no {' or '.join(rule.roots) or 'op'}"
        return
    yield f"  {name}: applied to {rule.applied} of {rule.met}"
    yield from _listed("declined", rule.declined.values(), limit)
    if not rule.misses:
        return
    what = "nearest miss" if rule.depth > 1 else "no more than the root fits"
    yield from _listed(f"{what} ({rule.depth} of {rule.size} ops)", rule.misses.values(), limit)


def _listed(what: str, refusals: Iterable[Refusal], limit: int) -> Iterator[str]:
    every = list(refusals)
    for refusal in every[:limit]:
        yield f"    {what} {refusal}"
    if len(every) > limit:
        yield f"    ... and {len(every) - limit} more"
