"""Runs of a verification that make sure that every plan of a TensorRT engine is tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice

import torch

from llmc.trials import Trial
from runtime.manifest import EngineLimits
from runtime.requests import Request
from runtime.tensorrt_executor.plan import Plan


def plan_trials(
    plans: Sequence[Plan], requests: Sequence[Request], new_tokens: int, limits: EngineLimits, seed: int, vocab: int
) -> list[Trial]:
    """A trial for each plan, which is named after it and has that plan and one more to run on.

    A plan for one token a row runs the requests in all of its rows, each request in several if need be; the narrowest
    plan for prompts with caches of the same length takes them in. A plan for prompts takes in a random one of its own,
    which fills three quarters of it, or what the limits allow; the plan for the fewest rows goes on.

    Args:
        plans: the plans of the engine.
        requests: the requests.
        new_tokens: how many tokens to add to a prompt.
        limits: what a prompt may be.
        seed: what prompts are drawn from.
        vocab: how many token ids there are.
    """
    decoding = [plan for plan in plans if _rows(plan)]
    wide = [plan for plan in plans if _width(plan) > 1]
    trials = []
    for plan in decoding:
        count = max(_rows(plan), len(requests))
        numbers, filled = zip(*islice(cycle(enumerate(requests, 1)), count), strict=True)
        trials.append(Trial(plan.name, numbers, filled, _rows(plan), _pair(plan, wide, _width)))
    for number, plan in enumerate(wide, len(requests) + 1):
        request = _request(_width(plan), new_tokens, limits, seed + number, vocab)
        trials.append(Trial(plan.name, (number,), (request,), 1, _pair(plan, decoding, _rows)))
    return trials


def _pair(plan: Plan, others: Sequence[Plan], size: Callable[[Plan], int]) -> tuple[str, ...]:
    """The names of a plan and of the smallest of others with caches of the same length."""
    alike = [other for other in others if other.signature.capacity == plan.signature.capacity]
    return tuple(dict.fromkeys([plan.name, *(other.name for other in sorted(alike, key=size)[:1])]))


def _rows(plan: Plan) -> int:
    """The most rows that a plan runs one token of; 0 for a plan that does not."""
    return max((profile.rows[1] for profile in plan.signature.profiles if profile.width[0] == 1), default=0)


def _width(plan: Plan) -> int:
    """The most tokens of a row that a plan runs."""
    return max(profile.width[1] for profile in plan.signature.profiles)


def _request(width: int, new_tokens: int, limits: EngineLimits, seed: int, vocab: int) -> Request:
    """A random prompt of at least two tokens, for a plan for prompts, and as many new tokens as there is room for."""
    length = max(2, min(width - width // 4, limits.max_input, limits.max_seq - new_tokens))
    prompt = torch.randint(vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Request(tuple(prompt), max(1, min(new_tokens, limits.max_seq - length)))
