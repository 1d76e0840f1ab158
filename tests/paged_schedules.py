"""Schedules of packed steps, and how their logits compare with those of padded steps over linear caches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from compiler.ir.comparison import relative_error
from compiler.ir.packed_step import PackedStep, SequenceStep
from compiler.ir.step import Step, all_positions
from runtime.executors.interface import Session
from runtime.executors.paged import PagedSession
from tests.passes.parallel.configs import Case, cases

CAPACITY = 24


class Schedule(NamedTuple):
    """What sequences get, step by step.

    Attributes:
        counts: for each step, how many tokens each sequence gets.
        block: how many tokens a block holds.
        seed: what tokens and the order of blocks are drawn from.
    """

    counts: tuple[tuple[int, ...], ...]
    block: int
    seed: int

    @property
    def sequences(self) -> int:
        return len(self.counts[0])

    def tokens(self, vocab: int) -> list[list[int]]:
        """The tokens of each sequence."""
        generator = torch.Generator().manual_seed(self.seed)
        totals = [sum(each) for each in zip(*self.counts, strict=True)]
        return [torch.randint(vocab, (total,), generator=generator).tolist() for total in totals]


# A prompt beside single tokens, a sequence that waits, the next chunk of a prompt, single tokens for all.
MIXED = Schedule(((9, 1, 4), (1, 1, 1), (1, 12, 0), (2, 1, 5), (1, 1, 1), (1, 1, 1)), 4, 0)


@st.composite
def schedules(draw: Any) -> Schedule:
    """Sequences that begin at any time and get any numbers of tokens, prompts by chunks, others one at a time."""
    sequences = draw(st.integers(1, 4))
    count = st.one_of(st.just(1), st.integers(0, 6))
    step = st.tuples(*[count] * sequences).filter(any)
    steps = draw(st.lists(step, min_size=1, max_size=4))
    return Schedule(tuple(steps), draw(st.sampled_from([1, 3, 8, 64])), draw(st.integers(0, 99)))


def models() -> st.SearchStrategy[Case]:
    """Small random models of any family whose attention can be fused."""
    return cases().filter(lambda case: "attn_logit_softcapping" not in case.config.get("attn_config", {}))


def padded_logits(session: Session, schedule: Schedule, vocab: int) -> list[Tensor]:
    """The logits of every token of each sequence, by steps of rows."""
    tokens, past = schedule.tokens(vocab), [0] * schedule.sequences
    found: list[list[Tensor]] = [[] for _ in tokens]
    for counts in schedule.counts:
        ids = torch.zeros(len(tokens), max(counts), dtype=torch.int32)
        for row, count in enumerate(counts):
            ids[row, :count] = torch.tensor(tokens[row][past[row] : past[row] + count], dtype=torch.int32)
        new = torch.tensor(counts, dtype=torch.int32)
        wanted = all_positions(len(tokens), max(counts)).contiguous()
        logits = session.step(Step(ids, torch.tensor(past, dtype=torch.int32), new, wanted)).float()
        for row, count in enumerate(counts):
            found[row].append(logits[row, :count].cpu().clone())
            past[row] += count
    return [torch.cat(parts) for parts in found]


def blocks_needed(schedule: Schedule) -> int:
    """How many blocks the sequences take, each at its longest."""
    return sum(-(-sum(each) // schedule.block) for each in zip(*schedule.counts, strict=True))


def packed_steps(schedule: Schedule, vocab: int) -> list[PackedStep]:
    """The steps, packed; sequences get blocks in any order, when they need them, and all logits are wanted."""
    tokens, past = schedule.tokens(vocab), [0] * schedule.sequences
    free = list(range(blocks_needed(schedule)))
    random.Random(schedule.seed).shuffle(free)
    tables: list[list[int]] = [[] for _ in tokens]
    steps = []
    for counts in schedule.counts:
        works = []
        for row, count in enumerate(counts):
            while len(tables[row]) * schedule.block < past[row] + count:
                tables[row].append(free.pop())
            if count:
                new = tokens[row][past[row] : past[row] + count]
                works.append(SequenceStep(past[row], new, list(tables[row]), range(count)))
            past[row] += count
        steps.append(PackedStep.of(works))
    return steps


def packed_logits(session: PagedSession, schedule: Schedule, vocab: int) -> list[Tensor]:
    """The logits of every token of each sequence, by packed steps."""
    found: list[list[Tensor]] = [[torch.empty(0, vocab)] for _ in range(schedule.sequences)]
    for counts, step in zip(schedule.counts, packed_steps(schedule, vocab), strict=True):
        logits = session.step(step).float().split([count for count in counts if count])
        for row, part in zip([row for row, count in enumerate(counts) if count], logits, strict=True):
            found[row].append(part.cpu().clone())
    return [torch.cat(parts) for parts in found]


def largest_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative error of the logits of any sequence."""
    pairs = zip(found, expected, strict=True)
    return max((relative_error(one, other) for one, other in pairs if len(other)), default=0.0)
