"""Runs of a verification that make sure that every plan of a TensorRT engine is tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from operator import attrgetter

import torch

from compiler.targets import TARGETS
from llmc.verification.test_cases import TestCase
from runtime.engine_dir.manifest import EngineLimits
from runtime.executors.interface import PlanSize
from runtime.executors.kind import EXECUTORS, ExecutorKind
from runtime.executors.parallel.workers import ParallelExecutor
from runtime.generation.engine import Engine
from runtime.generation.requests import Request


def plan_test_cases(
    plans: Sequence[PlanSize],
    requests: Sequence[Request],
    new_tokens: int,
    limits: EngineLimits,
    seed: int,
    vocab: int,
) -> list[TestCase]:
    """A test case for each plan, which is named after it and has that plan and one more to run on.

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
    decoding = [plan for plan in plans if plan.rows]
    wide = [plan for plan in plans if plan.width > 1]
    test_cases = []
    for plan in decoding:
        count = max(plan.rows, len(requests))
        numbers, filled = zip(*islice(cycle(enumerate(requests, 1)), count), strict=True)
        test_cases.append(TestCase(plan.name, numbers, filled, plan.rows, _pair(plan, wide, attrgetter("width"))))
    for number, plan in enumerate(wide, len(requests) + 1):
        request = _request(plan.width, new_tokens, limits, seed + number, vocab)
        test_cases.append(TestCase(plan.name, (number,), (request,), 1, _pair(plan, decoding, attrgetter("rows"))))
    return test_cases


def plan_notes(engine: Engine, tried: Sequence[TestCase]) -> list[str]:
    """What is to be said of the plans of an engine that are not tried, on some ranks or at all."""
    if not tried:
        return [
            f"its {len(names)} {info.target.title} plans are not tried: {engine.executor.name} runs it"
            + "".join(f" (--executor {kind.name} does)" for kind in EXECUTORS.values() if _emulates(kind, name))
            for name, ranks in engine.manifest.targets.items()
            if (info := TARGETS.find(name)) and (names := info.target.plan_names(engine.path, ranks[0]))
        ][:1]
    if not isinstance(engine.executor, ParallelExecutor):
        return []
    plans, everyone = engine.executor.plans, engine.manifest.mesh.size
    return [
        f"only {_named(ranks)} the plan {size.name}; the others run on plans of their own while it is tried"
        for size, ranks in zip(plans.sizes, plans.ranks, strict=True)
        if len(ranks) < everyone
    ]


def _emulates(kind: ExecutorKind, target: str) -> bool:
    return kind.emulates and target in kind.targets


def _named(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]} has" if len(ranks) == 1 else f"the ranks {', '.join(map(str, ranks))} have"


def _pair(plan: PlanSize, others: Sequence[PlanSize], size: Callable[[PlanSize], int]) -> tuple[str, ...]:
    """The names of a plan and of the smallest of others with caches of the same length."""
    alike = [other for other in others if other.capacity == plan.capacity]
    return tuple(dict.fromkeys([plan.name, *(other.name for other in sorted(alike, key=size)[:1])]))


def _request(width: int, new_tokens: int, limits: EngineLimits, seed: int, vocab: int) -> Request:
    """A random prompt of at least two tokens, for a plan for prompts, and as many new tokens as there is room for."""
    length = max(2, min(width - width // 4, limits.max_input, limits.max_seq - new_tokens))
    prompt = torch.randint(vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Request(tuple(prompt), max(1, min(new_tokens, limits.max_seq - length)))
