"""The scheduler: which sequences take which tokens in the next step.

Requests enter and leave at any step. In a step every sequence in progress gets its next token, and what is left of the
step's budget of tokens goes to prompts, chunk by chunk, in the order of their priority and arrival.

Where the caches have no room left, a request gives up its place (preemption): for one that comes with a higher
priority, or for the next tokens of those in progress, the last to come of the lowest priority first. It is computed
again later, from its tokens, and loses nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

from runtime.generation.cache import LEAST_SHARED, SequenceCache
from runtime.generation.sequence import Sequence, SequenceGroup, common_length


@dataclass
class StepPlan:
    """What is to be computed in a step.

    Attributes:
        decodes: sequences that get one token.
        chunks: sequences that get several, with their number.
    """

    decodes: list[Sequence] = field(default_factory=list)
    chunks: list[tuple[Sequence, int]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """How many tokens are computed."""
        return len(self.decodes) + sum(count for _, count in self.chunks)


class Scheduler:
    """Plans steps over the sequences that a cache has room for.

    Args:
        cache: what gives sequences their places.
        step_tokens: how many tokens a step may take; sequences in progress get theirs in any case.

    Attributes:
        waiting: the requests that have no places, in order.
        running: the requests that have, in order.
        preemptions: how often a request has lost its places to others.
    """

    def __init__(self, cache: SequenceCache, *, step_tokens: int) -> None:
        self.cache = cache
        self.waiting: list[SequenceGroup] = []
        self.running: list[SequenceGroup] = []
        self.preemptions = 0
        self._step_tokens = step_tokens
        self._timed: list[SequenceGroup] = []

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    @property
    def waits_for_plan(self) -> bool:
        """Whether a request waits that the next plan may give places."""
        if not self.waiting:
            return False
        group = self.waiting[0]
        return self.cache.admits(group) or self._comes_before(group)

    @property
    def sequences(self) -> int:
        """How many sequences the requests in progress have."""
        return sum(len(group.sequences) for group in self.running)

    def late(self) -> list[SequenceGroup]:
        """The requests that have used up the time that they may take."""
        return [group for group in self._timed if group.is_late]

    def add(self, group: SequenceGroup) -> None:
        """Take up a request, whose sequences exist and have no places; RequestError if it can never be served."""
        self.cache.check(group)
        insort(self.waiting, group, key=_order)
        if group.params.max_time is not None:
            self._timed.append(group)

    def remove(self, group: SequenceGroup) -> None:
        """Forget a request: it has ended, or nobody wants it any more."""
        self._forget_time(group)
        if _taken(self.waiting, group):
            return
        _taken(self.running, group)
        self._release(group.sequences)

    def end(self, sequence: Sequence) -> None:
        """A sequence has ended; its place is free. Its request has ended with the last of them."""
        group = sequence.group
        self.cache.release(sequence)
        group.sequences.remove(sequence)
        group.finished.append(sequence)
        if not group.sequences:
            _taken(self.running, group)
            self._forget_time(group)

    def forget_caches(self) -> None:
        """Let all requests in progress be computed again, and nothing be shared with what the caches held."""
        while self.running:
            self._suspend(self.running[-1])
        self.cache.forget()

    def plan(self) -> StepPlan:
        """What to compute next; nothing if there is nothing to do."""
        ready = self._ready()  # before others come: those in progress need room to go on
        if self.admit():
            ready = self._ready()
        plan = StepPlan()
        prompts: list[Sequence] = []
        for sequence in ready:
            pending = len(sequence.tokens) - sequence.cached
            if pending == 1:
                plan.decodes.append(sequence)
            elif pending:
                prompts.append(sequence)
        budget = self._step_tokens - len(plan.decodes)
        for sequence in prompts:
            if budget <= 0 and (plan.decodes or plan.chunks):
                break
            count = max(1, min(sequence.pending, budget))
            plan.chunks.append((sequence, count))
            budget -= count
        return plan

    def admit(self, *, preempt: bool = True) -> bool:
        """Give waiting requests places, as long as there is room; returns whether one has got some.

        Args:
            preempt: whether requests of lower priority give up theirs for it.
        """
        if not self.waiting:
            return False
        admitted = False
        computing = _Beginnings(group.sequences[0] for group in self.running)
        while self.waiting:
            group = self.waiting[0]
            share = not group.wants_prompt_logits
            if share and self._comes_soon(group.sequences[0].tokens, computing):
                break
            if not self.cache.admits(group):
                if not (preempt and self._preempt_for(group)):
                    break
                computing = _Beginnings(group.sequences[0] for group in self.running)
            self.waiting.pop(0)
            self.cache.take(group, share=share)
            insort(self.running, group, key=_order)
            computing.add(group.sequences[0])
            admitted = True
        return admitted

    def prompts(self, others: int) -> tuple[list[tuple[Sequence, int]], bool]:
        """The next chunks of prompts in a step that need not be planned, beside sequences that get a token each.

        Args:
            others: how many sequences get one; all of their tokens that are known are in the caches.

        Returns:
            The chunks, and whether prompts are left after them.
        """
        budget, chunks = self._step_tokens - others, []
        for group in self.running:
            for sequence in group.sequences:
                if not (pending := sequence.pending):
                    continue
                count = min(pending, budget)
                if count > 0:
                    chunks.append((sequence, count))
                    budget -= count
                if count < pending:
                    return chunks, True
        return chunks, False

    def _ready(self) -> list[Sequence]:
        """The sequences in progress that can take tokens, with room for them, in order."""
        ready: list[Sequence] = []
        place = 0
        while place < len(self.running):  # a request that makes room for others is the last one
            sequences = self._able(self.running[place])
            for sequence in sequences:
                if len(sequence.tokens) > sequence.room and not self._make_room(sequence):
                    break
            else:
                ready += sequences
                place += 1
        return ready

    def _able(self, group: SequenceGroup) -> list[Sequence]:
        """The sequences of a request that can take tokens: the others wait for what they share with the first."""
        if len(group.sequences) == 1:
            return group.sequences
        first, *others = group.sequences
        behind = [other for other in others if other.cached == 0]
        if not behind:
            return group.sequences
        common = group.common
        if first.cached < min(common, len(first.tokens) - 1):
            return [first]
        shared = min(first.cached, common)
        if shared:
            self.cache.share(first, behind, shared)
        return group.sequences

    def _comes_soon(self, tokens: list[int], computing: _Beginnings) -> bool:
        """Whether a request in progress is about to compute more of a text's beginning than there is of it yet."""
        alike = computing.like(tokens)
        if not alike:
            return False
        shared = self.cache.shared_length(tokens)
        for first in alike:
            common = min(common_length(tokens, first.tokens), len(tokens) - 1)
            if self.cache.shareable(common) >= max(shared, first.cached) + LEAST_SHARED:
                return True
        return False

    def _comes_before(self, group: SequenceGroup) -> bool:
        """Whether a request in progress has a lower priority: the last one, if there is one."""
        return bool(self.running) and self.running[-1].priority < group.priority

    def _preempt_for(self, group: SequenceGroup) -> bool:
        """Make room for a request by taking it from such of lower priority; False if that would not suffice."""
        if not self._comes_before(group):
            return False
        lower = [other for other in self.running if other.priority < group.priority]
        losing = [sequence for other in lower for sequence in other.sequences]
        if not self.cache.admits(group, losing):
            return False
        while not self.cache.admits(group):
            self._preempt(lower.pop())
        return True

    def _make_room(self, sequence: Sequence) -> bool:
        """Make room for the next tokens of a sequence, if need be by preemption; False if its own request lost it."""
        while not self.cache.reserve(sequence):
            last = self.running[-1]
            self._preempt(last)
            if last is sequence.group:
                return False
        return True

    def _preempt(self, group: SequenceGroup) -> None:
        self.preemptions += 1
        self._suspend(group)

    def _suspend(self, group: SequenceGroup) -> None:
        """Let a request wait, and be computed again later."""
        _taken(self.running, group)
        self._release(group.sequences)
        group.beam_logits.clear()
        insort(self.waiting, group, key=_order)

    def _release(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self.cache.release(sequence)

    def _forget_time(self, group: SequenceGroup) -> None:
        if group.params.max_time is not None and group in self._timed:
            self._timed.remove(group)


class _Beginnings:
    """Sequences whose prompts are being computed, by their first tokens."""

    def __init__(self, sequences: Iterable[Sequence]) -> None:
        self._by_tokens: dict[tuple[int, ...], list[Sequence]] = {}
        for sequence in sequences:
            self.add(sequence)

    def add(self, sequence: Sequence) -> None:
        """Take up a sequence, if more of its tokens are to be computed than the last one."""
        if sequence.pending > 1:
            self._by_tokens.setdefault(tuple(sequence.tokens[:LEAST_SHARED]), []).append(sequence)

    def like(self, tokens: list[int]) -> list[Sequence]:
        """Those that begin with as many tokens of a text as are worth waiting for."""
        return self._by_tokens.get(tuple(tokens[:LEAST_SHARED]), [])


def _order(group: SequenceGroup) -> tuple[int, int]:
    return group.order


def _taken(groups: list[SequenceGroup], group: SequenceGroup) -> bool:
    """Take a request out of a list in order; whether it was there."""
    at = bisect_left(groups, group.order, key=_order)
    while at < len(groups) and groups[at].order == group.order:
        if groups[at] is group:
            del groups[at]
            return True
        at += 1
    return False
