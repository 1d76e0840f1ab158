"""An executor whose next token follows from the row's tokens alone, with caches that hold the tokens themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compiler.ir.step import Step
from runtime.executors.interface import RowCopies, Session

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

    @property
    def packs_tokens(self) -> bool:
        """See `runtime.executors.interface.Session`."""
        return self.executor.packs_tokens

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
        self.packs_tokens = False
        self.opened: list[tuple[int, int]] = []
        self.steps: list[list[int]] = []

    def open(self, batch: int, capacity: int) -> Session:
        """See `runtime.executors.interface.Executor.open`."""
        self.opened.append((batch, capacity))
        return FakeSession(self, batch, capacity)
