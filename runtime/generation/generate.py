"""Greedy generation of a list of requests in padded steps: what verification runs, and compares step by step.

Texts for users come from `runtime.generation.engine`. A row of the batch is a slot. A request enters a free slot (its
prompt is the slot's next tokens), adds one token a step, and leaves when it ends; other requests take the slot
afterwards. What a request gets depends on its own tokens only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

import torch

from compiler.ir.step import Step, last_positions
from runtime.executors.interface import Executor, Session
from runtime.generation.requests import Request
from runtime.generation.sampling import Greedy, Sampler
from runtime.generation.timings import Timings

FinishReason = Literal["stop", "length"]
OnToken = Callable[[int, int], None]
"""Called with the number of the request, from 0, and its new token."""


@dataclass
class Generated:
    """What a request got: the new tokens, and whether an end token (kept) or the length ended it."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"


# A step that takes in one prompt computes as many positions for every other row, so prompts wait until this share of
# the slots is free. Higher wastes decode steps on empty slots, lower wastes prefill on running ones.
_REFILL_SHARE = 0.5


@torch.inference_mode()
def generate(
    executor: Executor,
    requests: Sequence[Request],
    *,
    batch: int,
    stop_ids: Set[int] = frozenset(),
    sampler: Sampler | None = None,
    on_token: OnToken | None = None,
) -> tuple[list[Generated], Timings]:
    """Extend every request.

    Args:
        executor: the model.
        requests: the prompts and how many tokens each may get, already checked against the engine's limits.
        batch: how many sequences to run at once, at most.
        stop_ids: tokens that end a text.
        sampler: how to choose tokens; greedily if None.
        on_token: called for each new token.

    Returns:
        A result for each request, in the order of the requests, and where the time went.

    Raises:
        RequestError: if the executor has no memory for the batch, or the logits of a request are not numbers.
    """
    timings = Timings()
    if not requests:
        return [], timings
    rows = min(batch, len(requests))
    session = executor.open(rows, max(len(request.token_ids) + request.max_new_tokens for request in requests))
    run = _Run(session, rows, requests, stop_ids, sampler or Greedy(), on_token)
    while run.unfinished:
        started = time.perf_counter()
        entered = run.refill()
        tokens = run.step(entered)
        timings.add(time.perf_counter() - started, tokens, prefill=bool(entered))
    return run.results, timings


class _Run:
    """The state of one call: which request each slot holds, and the tensors of the next step."""

    def __init__(
        self,
        session: Session,
        rows: int,
        requests: Sequence[Request],
        stop_ids: Set[int],
        sampler: Sampler,
        on_token: OnToken | None,
    ) -> None:
        self.session, self.requests, self.stop_ids = session, requests, stop_ids
        self.sampler, self.on_token = sampler, on_token
        self.results = [Generated() for _ in requests]
        self.slots: list[int | None] = [None] * rows
        self.waiting = 0  # the first request that has no slot yet
        self.unfinished = len(requests)
        # The next step where no prompt enters: its tokens are each row's newest one, which is in no cache yet. The
        # tensors are updated in place.
        self.next = Step.prefill(torch.zeros(rows, 1, dtype=torch.int32), torch.zeros(rows, dtype=torch.int32))

    def refill(self) -> dict[int, tuple[int, ...]]:
        """Give free slots to waiting requests; returns the prompt of each such slot."""
        free = [slot for slot, request in enumerate(self.slots) if request is None]
        waiting = len(self.requests) - self.waiting
        if not waiting or len(free) < min(waiting, max(1, int(_REFILL_SHARE * len(self.slots)))):
            return {}
        entered = {}
        for slot in free[:waiting]:
            self.slots[slot] = self.waiting
            entered[slot] = self.requests[self.waiting].token_ids
            self.next.new_len[slot] = len(entered[slot])
            self.waiting += 1
        return entered

    def step(self, entered: Mapping[int, tuple[int, ...]]) -> int:
        """Run the model once and take up a token for every slot in use; returns how many tokens it was given.

        Args:
            entered: the prompt of each slot that a request has just entered.
        """
        newest, past_len, new_len, _ = self.next
        logits = self.session.step(self._with_prompts(entered) if entered else self.next)
        chosen = self.sampler.choose(logits[:, 0], self.slots)
        given = int(new_len.sum())
        past_len += new_len
        if entered:
            new_len[list(entered)] = 1
        newest[:, 0] = torch.tensor(chosen, dtype=torch.int32)
        for slot, token in enumerate(chosen):
            request = self.slots[slot]
            if request is not None and self._take(request, token):
                self._leave(slot)
        return given

    def _with_prompts(self, entered: Mapping[int, tuple[int, ...]]) -> Step:
        """The step in which some slots get their prompts and the others one token."""
        newest, past_len, new_len, _ = self.next
        token_ids = torch.zeros(len(self.slots), max(map(len, entered.values())), dtype=torch.int32)
        token_ids[:, :1] = newest
        for slot, prompt in entered.items():
            token_ids[slot, : len(prompt)] = torch.tensor(prompt, dtype=torch.int32)
        return Step(token_ids, past_len, new_len, last_positions(new_len))

    def _take(self, request: int, token: int) -> bool:
        """Append a token to a request; returns whether that ends it."""
        result = self.results[request]
        result.token_ids.append(token)
        if self.on_token:
            self.on_token(request, token)
        if token in self.stop_ids:
            result.finish_reason = "stop"
            return True
        return len(result.token_ids) >= self.requests[request].max_new_tokens

    def _leave(self, slot: int) -> None:
        """Empty a slot: the executor leaves rows without new tokens alone."""
        self.slots[slot] = None
        self.next.token_ids[slot] = self.next.past_len[slot] = self.next.new_len[slot] = 0
        self.unfinished -= 1
