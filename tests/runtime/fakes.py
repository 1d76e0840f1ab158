"""An executor whose next token follows from the row's tokens alone, with caches that hold the tokens themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from compiler.ir.step import Step
from runtime.executors.interface import RowCopies, Session
from runtime.executors.memory import BlockMemory
from runtime.executors.paged import STEP_TOKENS, PagedSession

VOCAB = 97


def next_token(tokens: Sequence[int]) -> int:
    """What follows `tokens`: anything that depends on each of them and on their order."""
    state = 7
    for token in tokens:
        state = (state * 31 + token + 1) % 100_003
    return state % VOCAB


def continuation(prompt: Sequence[int], count: int, stop: Sequence[int] = ()) -> list[int]:
    """What greedy generation must give, computed one prompt at a time."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count:
        tokens.append(next_token(tokens))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


class FakeSession:
    """Keeps each row's tokens; stale ones stay behind, as in real caches."""

    def __init__(self, executor: FakeExecutor, batch: int, capacity: int) -> None:
        self.executor, self.batch, self.capacity = executor, batch, capacity
        self.cache = torch.full((batch, capacity), -1)

    def copy_rows(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """See `runtime.executors.interface.Session.copy_rows`."""
        copies = RowCopies.checked(sources, destinations, self.batch)
        self.cache[copies.destinations] = self.cache[copies.sources]

    def step(self, step: Step, first_row: int = 0) -> Tensor:
        """See `runtime.executors.interface.Session.step`."""
        rows = range(first_row, first_row + step.batch)
        assert rows.stop <= self.batch
        token_ids, past_len, new_len, logit_pos = step
        assert token_ids.dtype == past_len.dtype == new_len.dtype == logit_pos.dtype == torch.int32
        assert len(token_ids) == len(past_len) == len(new_len) == len(logit_pos) == step.batch
        assert ((token_ids >= 0) & (token_ids < VOCAB)).all()
        assert 0 < int(new_len.max()) <= token_ids.shape[1]
        self.executor.steps.append(new_len.tolist())
        logits = torch.zeros(step.batch, logit_pos.shape[1], VOCAB)
        for at, row in enumerate(rows):
            past, new = int(past_len[at]), int(new_len[at])
            self.cache[row, past : past + new] = token_ids[at, :new]
            for r, position in enumerate(logit_pos[at].tolist()):
                if position < new:
                    tokens = self.cache[row, : past + position + 1].tolist()
                    assert -1 not in tokens
                    logits[at, r, next_token(tokens)] = self.executor.height
        return logits


class FakeExecutor:
    """Records the sessions it opened, and how many tokens each step gave each row."""

    name = "fake"

    def __init__(self, height: float = 1.0) -> None:
        self.height = height
        self.opened: list[tuple[int, int]] = []
        self.steps: list[list[int]] = []

    def open(self, batch: int, capacity: int) -> Session:
        """See `runtime.executors.interface.Executor.open`."""
        self.opened.append((batch, capacity))
        return FakeSession(self, batch, capacity)


class FakePagedSession:
    """Keeps the tokens of each block; stale ones stay behind, as in real pools."""

    step_tokens = STEP_TOKENS

    def __init__(self, executor: FakePagedExecutor, blocks: int) -> None:
        self.executor, self.block, self.blocks = executor, executor.block, blocks
        self.pool = torch.full((blocks, self.block), -1)

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """See `runtime.executors.paged.PagedSession.copy_blocks`."""
        copies = RowCopies.checked(sources, destinations, self.blocks, "block")
        self.pool[copies.destinations] = self.pool[copies.sources]
        self.executor.copied.append(len(copies.sources))

    def step(self, step: PackedStep) -> Tensor:
        """See `runtime.executors.paged.PagedSession.step`."""
        step.check(self.block, self.blocks)
        spans = step.spans()
        assert all(tensor.dtype == torch.int32 for tensor in step)
        assert ((step.token_ids >= 0) & (step.token_ids < VOCAB)).all()
        self.executor.steps.append([span.new for span in spans])
        tables = [torch.tensor(step.table(span, self.block)) for span in spans]
        for span, table in zip(spans, tables, strict=True):
            places = torch.arange(span.past, span.length)
            self.pool[table[places // self.block], places % self.block] = step.token_ids[span.start : span.stop].long()
        logits = torch.zeros(step.wanted, VOCAB)
        for at, place in enumerate(step.logit_pos.tolist()):
            span, table = next(
                pair for pair in zip(spans, tables, strict=True) if pair[0].start <= place < pair[0].stop
            )
            tokens = self.pool[table].flatten()[: span.past + place - span.start + 1].tolist()
            assert -1 not in tokens
            logits[at, next_token(tokens)] = self.executor.height
        return logits


class FakeChosen:
    """Tokens that were chosen, and their logits. See `runtime.executors.paged.Chosen`."""

    def __init__(self, logits: Tensor) -> None:
        largest, tokens = logits.max(-1)
        self.found = (tokens.tolist(), largest.tolist())

    def wait(self) -> tuple[list[int], list[float]]:
        """See `Chosen.wait`."""
        return self.found


class FakeAheadSession(FakePagedSession):
    """Begins steps before the tokens of the last one are known. See `runtime.executors.paged.StepsAhead`."""

    latest = FakeChosen(torch.zeros(1, VOCAB))

    def step_ahead(self, step: PackedStep) -> FakeChosen:
        """See `StepsAhead.step_ahead`."""
        known = [token if token >= 0 else self.latest.found[0][-1 - token] for token in step.token_ids.tolist()]
        self.executor.ahead += sum(token < 0 for token in step.token_ids.tolist())
        self.latest = FakeChosen(self.step(step._replace(token_ids=torch.tensor(known, dtype=torch.int32))))
        return self.latest


class FakePagedExecutor(FakeExecutor):
    """As `FakeExecutor`, with pools of blocks.

    Attributes:
        memory: how much there is for blocks, which take a byte each; None if that is not known.
        opened_blocks: the sizes of the pools that it opened.
        copied: how many blocks each copy was of.
        ahead: how many tokens were computed before they were known.
    """

    def __init__(self, block: int, session: type[FakePagedSession] = FakePagedSession) -> None:
        super().__init__()
        self.block, self.session, self.ahead = block, session, 0
        self.memory: int | None = None
        self.opened_blocks: list[int] = []
        self.copied: list[int] = []

    def block_memory(self) -> list[BlockMemory]:
        """See `runtime.executors.paged.PagedExecutor.block_memory`."""
        return [BlockMemory("here", self.memory, 1)]

    def open_paged(self, blocks: int) -> PagedSession:
        """See `runtime.executors.paged.PagedExecutor.open_paged`."""
        self.opened_blocks.append(blocks)
        return self.session(self, blocks)
