"""The scheduler: which sequences take which tokens in the next step.

Requests enter and leave at any step. In a step every sequence in progress gets its next token, and what is left of the
step's budget of tokens goes to prompts, chunk by chunk, in the order of their priority and arrival. A request that
comes with a higher priority than one in progress takes its rows if there are no others; the other is computed again
later, from its tokens, and loses nothing.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field

from runtime.generation.row_cache import LEAST_SHARED, RowCache, Shared
from runtime.generation.sequence import NO_ROW, Sequence, SequenceGroup, common_length

STEP_TOKENS = 512
"""How many tokens a step takes at most, if nothing is said."""


@dataclass
class StepPlan:
    """What is to be done in a step, in this order.

    Attributes:
        copies: rows to be copied first, as pairs of source and destination.
        decodes: sequences that get one token.
        chunks: sequences that get several, with their number.
    """

    copies: list[tuple[int, int]] = field(default_factory=list)
    decodes: list[Sequence] = field(default_factory=list)
    chunks: list[tuple[Sequence, int]] = field(default_factory=list)

    def copy(self, source: int, destination: int) -> None:
        """Have a row copied. All copies are made at once, so one of a copy is one of its source."""
        origin = next((earlier for earlier, to in self.copies if to == source), source)
        if origin != destination:
            self.copies.append((origin, destination))


class Scheduler:
    """Plans steps over the rows of a session.

    Args:
        rows: how many sequences there can be at once.
        step_tokens: how many tokens a step may take; sequences in progress get theirs in any case.
    """

    def __init__(self, rows: int, *, step_tokens: int = STEP_TOKENS) -> None:
        self.cache = RowCache(rows)
        self.waiting: list[SequenceGroup] = []
        self.running: list[SequenceGroup] = []
        self.preemptions = 0
        self._step_tokens = step_tokens

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    def add(self, group: SequenceGroup) -> None:
        """Take up a request, whose sequences exist and have no rows."""
        insort(self.waiting, group, key=lambda each: each.order)

    def remove(self, group: SequenceGroup) -> None:
        """Forget a request: it has ended, or nobody wants it any more."""
        if group in self.waiting:
            self.waiting.remove(group)
            return
        self.running.remove(group)
        self._release(group.sequences)

    def end(self, sequence: Sequence) -> None:
        """A sequence has ended; its row is free. Its request has ended with the last of them."""
        group = sequence.group
        self.cache.release(sequence)
        group.sequences.remove(sequence)
        group.finished.append(sequence)
        if not group.sequences:
            self.running.remove(group)

    def forget_caches(self) -> None:
        """Let all requests in progress be computed again, and nothing be shared with what the caches held."""
        for group in self.running:
            self._release(group.sequences)
            group.beam_logits.clear()
            insort(self.waiting, group, key=lambda each: each.order)
        self.running = []
        self.cache.forget()

    def plan(self) -> StepPlan:
        """What to do next; nothing if there is nothing to do."""
        plan = StepPlan()
        self._admit(plan)
        budget = self._step_tokens
        prompts: list[Sequence] = []
        for group in self.running:
            for sequence in self._ready(group, plan):
                if sequence.pending == 1:
                    plan.decodes.append(sequence)
                elif sequence.pending:
                    prompts.append(sequence)
        budget -= len(plan.decodes)
        for sequence in prompts:
            if budget <= 0 and (plan.decodes or plan.chunks):
                break
            count = max(1, min(sequence.pending, budget))
            plan.chunks.append((sequence, count))
            budget -= count
        return plan

    def _ready(self, group: SequenceGroup, plan: StepPlan) -> Iterable[Sequence]:
        """The sequences of a request that can take tokens: the others wait for what they share with the first."""
        first, *others = group.sequences
        behind = [other for other in others if other.cached == 0]
        if not behind:
            return group.sequences
        common = group.common
        if first.cached < min(common, len(first.tokens) - 1):
            return (first,)
        shared = min(first.cached, common)
        if shared:
            for other in behind:
                plan.copy(first.row, other.row)
                other.cached = shared
        return group.sequences

    def _admit(self, plan: StepPlan) -> None:
        """Give rows to waiting requests, as long as there are some."""
        while self.waiting:
            group = self.waiting[0]
            tokens = group.sequences[0].tokens
            if self._comes_soon(tokens, self.cache.longest_shared(tokens).length):
                return
            if self.cache.free < len(group.sequences) and not self._preempt(group):
                return
            shared = Shared(NO_ROW, 0) if group.wants_prompt_logits else self.cache.longest_shared(tokens)
            self.waiting.remove(group)
            for sequence in group.sequences:
                self.cache.take(sequence, near=shared.row if sequence is group.sequences[0] else NO_ROW)
            first = group.sequences[0]
            first.cached = shared.length
            if shared.length:
                plan.copy(shared.row, first.row)
            insort(self.running, group, key=lambda each: each.order)

    def _comes_soon(self, tokens: list[int], shared: int) -> bool:
        """Whether a request in progress is about to compute more of a text's beginning than there is of it yet."""
        for group in self.running:
            first = group.sequences[0]
            coming = min(common_length(tokens, first.tokens), len(tokens) - 1)
            if first.pending > 1 and coming >= max(shared, first.cached) + LEAST_SHARED:
                return True
        return False

    def _preempt(self, group: SequenceGroup) -> bool:
        """Make rows free for a request by taking them from such of lower priority, the last to come first."""
        lower = [other for other in self.running if other.priority < group.priority]
        missing = len(group.sequences) - self.cache.free
        if sum(len(other.sequences) for other in lower) < missing:
            return False
        while self.cache.free < len(group.sequences):
            victim = lower.pop()
            self.running.remove(victim)
            self._release(victim.sequences)
            self.preemptions += 1
            insort(self.waiting, victim, key=lambda each: each.order)
        return True

    def _release(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self.cache.release(sequence)
