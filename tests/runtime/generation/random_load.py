"""A small load of requests of all sorts that come at random times; some are cancelled, some wait for others."""

from __future__ import annotations

import random
from typing import Any

from runtime.generation.engine import Engine

ROWS, LONGEST = 4, 64
CANCELLED = frozenset({2, 7})

WISHES: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 3, "n": 2},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
    {"prompt_logprobs": 1, "repetition_penalty": 1.2},
    {"temperature": 0.8, "seed": 5, "top_k": 40, "no_repeat_ngram_size": 2},
    {"num_beams": 4, "early_stopping": True},
]


def requests(seed: int = 11) -> list[tuple[list[int], dict[str, Any]]]:
    """Prompts, most of which begin alike, with their parameters."""
    draw = random.Random(seed)
    common = [draw.randrange(20, 900) for _ in range(20)]
    found = []
    for number in range(10):
        own = [draw.randrange(20, 900) for _ in range(draw.choice([1, 3, 18]))]
        start = common if number % 3 else []
        found.append(([*start, *own], {**WISHES[number % len(WISHES)], "max_new_tokens": draw.randrange(2, 7)}))
    return found


def serve(engine: Engine, seed: int = 11) -> list[list[Any]]:
    """What the requests get, each as `summary` gives it, of an engine of `ROWS` rows; all its caches are free then."""
    draw, coming, handles = random.Random(seed + 1), requests(seed), list[Any]()
    while len(handles) < len(coming) or not engine.is_idle:
        if len(handles) < len(coming) and draw.random() < 0.7:
            prompt, wish = coming[len(handles)]
            handles.append(engine.submit(prompt, wish, priority=len(handles) % 3))
        engine.step()
        for number in CANCELLED & {*range(len(handles))}:
            engine.cancel(handles[number])
    scheduler = engine._batch.scheduler  # type: ignore[union-attr]
    assert scheduler.preemptions > 0 and scheduler.cache.free == scheduler.cache.size
    return [summary(engine.completions(handle)) for handle in handles]


def expected(engine: Engine, seed: int = 11) -> list[list[Any]]:
    """What each request gets alone."""
    return [summary(engine.generate([prompt], wish)) for prompt, wish in requests(seed)]


def check(found: list[list[Any]], alone: list[list[Any]]) -> None:
    """See that all got what they get alone, but for those that were cancelled."""
    assert len(found) == len(alone)
    for number, (one, other) in enumerate(zip(found, alone, strict=True)):
        if number in CANCELLED:
            assert {reason for _, _, reason in one} == {"cancelled"}
        else:
            assert one == other, number


def summary(completions: Any) -> list[Any]:
    """The tokens, the text and the end of each text."""
    return [[each.token_ids, each.text, each.finish_reason] for each in completions]
