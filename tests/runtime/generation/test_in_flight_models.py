"""Requests of all sorts in flight on small models: each gets what it gets alone, and what transformers gives it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tests.paths import MODELS
from tests.runtime.generation.in_flight_engines import small_engine


def _wish(draw: random.Random) -> dict[str, Any]:
    wish: dict[str, Any] = {"max_new_tokens": draw.randrange(1, 14), "ignore_eos": draw.random() < 0.5}
    kind = draw.random()
    if kind < 0.3:
        wish |= {"temperature": draw.choice([0.5, 1.0]), "seed": draw.randrange(1000), "top_k": draw.choice([0, 50])}
    elif kind < 0.45:
        wish |= {"temperature": 1.0, "seed": draw.randrange(1000), "n": draw.choice([2, 3])}
    elif kind < 0.65:
        wish |= {"num_beams": draw.choice([2, 4]), "num_return_sequences": 2, "length_penalty": draw.choice([0.0, 2.0])}
    extras: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3},
        {"prompt_logprobs": 1},
        {"stop": ["the", "a "]},
        {"no_repeat_ngram_size": 2},
    ]
    return {**wish, **(draw.choice(extras) if draw.random() < 0.6 else {})}


# Four beams of a prompt of 70 tokens and 13 more take 12 blocks of 16 tokens; no request takes more.
TIGHT = 12 * 16


@pytest.mark.parametrize(
    ("name", "passes", "cache_tokens", "count"),
    [
        ("gptneox-tiny", "", None, 100),
        ("gptj-tiny", "", None, 30),
        ("mpt-tiny", "", None, 30),
        ("opt-tiny", "", None, 30),
        ("gptneox-tiny", "cache=paged:block=16", TIGHT, 300),
        ("gptneox-tiny", "cache=paged:block=16", None, 30),
        ("gptj-tiny", "cache=paged:block=8", TIGHT, 30),
        ("mpt-tiny", "cache=paged:block=16", TIGHT, 30),
        ("opt-tiny", "", 512, 30),
    ],
)
def test_models_give_requests_of_all_sorts_what_they_get_alone(
    name: str, passes: str, cache_tokens: int | None, count: int
) -> None:
    """Samples, beams, shared beginnings, priorities, cancellations; caches so small that requests lose their places."""
    engine, draw = small_engine(name, passes, cache_tokens), random.Random(7)
    common = [draw.randrange(20, 900) for _ in range(40)]
    requests = []
    for _ in range(count):
        start = common[: draw.choice([0, 20, 40])]
        requests.append(([*start, *(draw.randrange(20, 900) for _ in range(draw.choice([1, 3, 30])))], _wish(draw)))
    alone = [engine.generate([prompt], wish) for prompt, wish in requests]
    handles: list[Any] = []
    cancelled = set()
    while len(handles) < len(requests) or not engine.is_idle:
        if len(handles) < len(requests) and draw.random() < 0.8:
            prompt, wish = requests[len(handles)]
            handles.append(engine.submit(prompt, wish, priority=draw.choice([0, 0, 0, 1, 2])))
        if handles and draw.random() < 0.02 and (number := draw.randrange(len(handles))) not in cancelled:
            cancelled |= {number} if handles[number].sequences else set()
            engine.cancel(handles[number])
        engine.step()
    assert engine._batch is not None and engine._batch.scheduler.preemptions > 0
    assert engine._batch.scheduler.cache.free == engine._batch.scheduler.cache.size
    assert cancelled or count < 100
    for number, (handle, expected) in enumerate(zip(handles, alone, strict=True)):
        found = engine.completions(handle)
        if number in cancelled:
            if handle.beams is None:  # beams may have been others until then
                pairs = zip(found, expected, strict=True)
                assert all(other.token_ids[: len(one.token_ids)] == one.token_ids for one, other in pairs)
            continue
        assert [(c.token_ids, c.text, c.finish_reason, c.seed) for c in found] == [
            (c.token_ids, c.text, c.finish_reason, c.seed) for c in expected
        ]
        for one, other in zip(found, expected, strict=True):
            if one.prompt_logprobs is not None and other.prompt_logprobs is not None:
                assert [p and p.token_id for p in one.prompt_logprobs] == [
                    p and p.token_id for p in other.prompt_logprobs
                ]
                reported = zip(one.prompt_logprobs[1:], other.prompt_logprobs[1:], strict=True)
                assert all(abs(p.logprob - q.logprob) < 1e-3 for p, q in reported if p and q)


@pytest.mark.parametrize("name", ["gptneox-tiny", "gptj-tiny", "mpt-tiny", "opt-tiny"])
def test_beams_are_those_of_transformers_alone_and_batched(name: str) -> None:
    import transformers

    engine = small_engine(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32).eval()
    ends = list(engine.manifest.tokens.eos)
    prompts = [[40, 41, 42], [100, 7], [300, 301, 302, 303, 304]]
    wishes = [
        {"num_beams": beams, "length_penalty": penalty, "early_stopping": early, "num_return_sequences": 2}
        for beams, penalty, early in ((2, 1.0, False), (4, 0.0, True), (2, 2.0, "never"))
    ]
    expected = []
    for prompt, wish in zip(prompts, wishes, strict=True):
        ids = torch.tensor([prompt])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=ends, pad_token_id=0,
            max_new_tokens=12, return_dict_in_generate=True, output_scores=True, **wish,
        )  # fmt: skip
        lengths = (made.beam_indices >= 0).sum(1).tolist()
        expected += [
            row[len(prompt) : len(prompt) + n] for row, n in zip(made.sequences.tolist(), lengths, strict=True)
        ]
    found = engine.generate(prompts, wishes, max_new_tokens=12)
    assert [c.token_ids for c in found] == expected
    for number, (prompt, wish) in enumerate(zip(prompts, wishes, strict=True)):
        alone = engine.generate([prompt], wish, max_new_tokens=12)
        assert [c.token_ids for c in alone] == expected[2 * number : 2 * number + 2]
