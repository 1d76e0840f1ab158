"""Requests that an engine cannot serve are refused before anything runs."""

import pytest

from compiler.errors import RequestError
from runtime.engine_dir.manifest import EngineLimits
from runtime.generation.requests import check_requests

LIMITS = EngineLimits(max_batch=4, max_input=8, max_seq=10)


def check(prompts, max_new_tokens=2, notes=None):
    return check_requests(
        prompts, max_new_tokens, limits=LIMITS, vocab_size=50, note=[].append if notes is None else notes.append
    )


@pytest.mark.parametrize(
    ("prompts", "count", "message", "hint"),
    [
        ([[1], []], 2, "prompt 2 is empty", "at least one token"),
        ([[1], [1] * 9], 2, "prompt 2 has 9 tokens; the engine takes at most 8", "--max-input 9"),
        ([[1, 50]], 2, "prompt 1 holds the token id 50; the model's ids are 0 to 49", "tokenizer"),
        ([[-1]], 2, "prompt 1 holds the token id -1; the model's ids are 0 to 49", "tokenizer"),
        ([[1]], 0, "the number of new tokens is 0; it must be at least 1", None),
    ],
)
def test_refusals(prompts, count, message, hint) -> None:
    with pytest.raises(RequestError) as raised:
        check(prompts, count)
    assert raised.value.message == message
    assert (hint is None) == (raised.value.hint is None)
    assert (hint or "") in (raised.value.hint or "")


def test_new_tokens_are_clamped_to_the_room_with_a_note() -> None:
    notes: list[str] = []
    requests = check([[1] * 8, [1]], 5, notes)
    assert [request.max_new_tokens for request in requests] == [2, 5]
    assert notes == ["prompt 1 gets at most 2 new tokens: the engine holds 10 tokens per sequence"]


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    full = EngineLimits(max_batch=1, max_input=8, max_seq=8)
    with pytest.raises(RequestError, match="prompt 1 has 8 tokens, which leaves no room") as raised:
        check_requests([[1] * 8], 3, limits=full, vocab_size=50, note=print)
    assert "--max-seq 11" in (raised.value.hint or "")
