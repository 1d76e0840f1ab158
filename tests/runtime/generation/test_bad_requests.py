"""What callers get wrong is a RequestError that says so, by every way in, and disturbs nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from compiler.errors import RequestError
from runtime.generation.engine import Engine
from runtime.generation.sampling_params import SamplingParams
from tests.runtime.fakes import VOCAB, continuation
from tests.runtime.generation.in_flight_engines import LONGEST, fake, small_engine


def submitted(engine: Engine, prompt: Any, params: Any, **changes: Any) -> None:
    group = engine.submit(prompt, params, **changes)
    while not engine.is_idle:
        engine.step()
    if group.error:
        raise group.error


WAYS: dict[str, Callable[..., Any]] = {
    "generate": lambda engine, prompt, params, **changes: engine.generate([prompt], params, **changes),
    "stream": lambda engine, prompt, params, **changes: list(engine.stream(prompt, params, **changes)),
    "agenerate": lambda engine, prompt, params, **changes: asyncio.run(engine.agenerate(prompt, params, **changes)),
    "submit": submitted,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """A way to run a request on an engine in which another one is in progress, and is not disturbed."""
    engine, _ = fake()
    other = engine.submit([1, 2], max_new_tokens=9)
    engine.step()
    yield lambda *given, **changes: WAYS[request.param](engine, *given, **changes)
    while not engine.is_idle:
        engine.step()
    assert engine.completions(other)[0].token_ids == continuation([1, 2], 9)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "is empty"),
        (5, "is a number"),
        (None, "is neither text nor a list of token ids"),
        ([1.5], "is neither text nor a list of token ids"),
        ([True], "is neither text nor a list of token ids"),
        ({"prompt": "A"}, "is neither text nor a list of token ids"),
        ({1: 2}, "is neither text nor a list of token ids"),
        (b"abc", "is bytes, not text"),
        ([[1, 2]], "is neither text nor a list of token ids"),
        (torch.tensor([[1, 2]]), "is neither text nor a list of token ids"),
        ([VOCAB], f"holds the token id {VOCAB}"),
        ([1] * LONGEST, "leaves no room for new ones"),
        ([1] * (LONGEST + 1), f"the engine takes at most {LONGEST}"),
    ],
)
def test_a_prompt_that_is_none_is_refused(way: Callable[..., Any], prompt: Any, said: str) -> None:
    with pytest.raises(RequestError, match=r"prompt [12] ") as caught:
        way(prompt, None, max_new_tokens=3)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (5, "params is 5"),
        ("greedy", "params is 'greedy'"),
        (SamplingParams, "params is <class"),
        (["greedy"], "the parameters of a request are 'greedy'"),
        ([5], "the parameters of a request are 5"),
        ([], "there are 1 prompts, but params is 0"),
        ({5: 1}, "there is no sampling parameter 5"),
        ({"stop": [""]}, "stop holds an empty text"),
        ({"bad_words_ids": [5]}, "bad_words_ids is [5]"),
        ({"logprobs": VOCAB + 1}, f"logprobs is {VOCAB + 1}; the model has {VOCAB} tokens"),
        ({"prompt_logprobs": VOCAB + 1}, f"prompt_logprobs is {VOCAB + 1}; the model has {VOCAB} tokens"),
        ({"num_beams": 2, "temperature": 0.5}, "contradict each other"),
    ],
)
def test_parameters_that_are_none_are_refused(way: Callable[..., Any], params: Any, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        way([1, 2], params)
    assert said in str(caught.value)


def _one_argument(logits: torch.Tensor) -> torch.Tensor:
    return logits


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_one_argument, "raised TypeError: _one_argument() takes 1 positional argument but 2 were given"),
        (lambda ids, logits: None, "returned None"),
        (lambda ids, logits: logits[:5], "returned torch.float32 of shape [5]"),
        (lambda ids, logits: logits.long(), f"returned torch.int64 of shape [{VOCAB}]"),
        (lambda ids, logits: np.zeros(VOCAB), "returned something of type ndarray"),
        (lambda ids, logits: logits * float("nan"), "the logits are not finite (nan)"),
        (lambda ids, logits: logits - float("inf"), "leave no token that could come next"),
        (lambda ids, logits: 1 / 0, "raised ZeroDivisionError"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"num_beams": 2}, {"n": 2, "temperature": 1.0}], ids=["greedy", "beams", "n"])
def test_a_function_that_does_not_give_logits_is_told_what_it_gives(
    way: Callable[..., Any], function: Any, said: str, more: dict[str, Any]
) -> None:
    with pytest.raises(RequestError) as caught:
        way([1, 2], {"logits_processors": [function], **more}, max_new_tokens=3)
    assert said in str(caught.value)


@pytest.mark.parametrize("prompts", [5, None, b"abc", {"prompt": "A"}])
def test_prompts_are_a_text_or_a_list(prompts: Any) -> None:
    with pytest.raises(RequestError, match="prompts is "):
        fake()[0].generate(prompts)


def test_a_stream_is_checked_when_it_is_asked_for() -> None:
    engine, executor = fake()
    with pytest.raises(RequestError, match="temperatur"):
        engine.stream([1], temperatur=1.0)
    with pytest.raises(RequestError, match="is not valid Unicode"):
        small_engine("gptneox-tiny").stream("\ud800")
    engine.stream([1])
    assert executor.opened == []  # nothing runs before it is read


@pytest.mark.parametrize("priority", ["high", 1.5, None, True])
def test_a_priority_is_an_integer(priority: Any) -> None:
    with pytest.raises(RequestError, match=r"priority is .*; it must be an integer"):
        fake()[0].submit([1], priority=priority)


def test_only_what_was_submitted_to_an_engine_can_be_cancelled_there() -> None:
    (engine, _), (other, _) = fake(), fake()
    request = engine.submit([1, 2], max_new_tokens=4)
    for _ in range(2):  # before it has a request of its own, and with one
        with pytest.raises(RequestError, match="none of those that were submitted to this engine"):
            other.cancel(request)
        other.submit([1], max_new_tokens=1)
    with pytest.raises(RequestError, match="none of those"):
        engine.generate([[1, 2]], on_update=lambda update: engine.cancel(update.group))
    while not engine.is_idle:
        engine.step()
    engine.cancel(request)  # which has ended
    assert engine.completions(request)[0].token_ids == continuation([1, 2], 4)


@pytest.mark.parametrize("request_", [None, 0, [1]])
def test_what_is_no_request_is_not_cancelled(request_: Any) -> None:
    with pytest.raises(RequestError, match="is no request"):
        fake()[0].cancel(request_)


def test_lengths_that_cannot_be_had_are_noted() -> None:
    engine, _ = fake()
    said: list[str] = []
    engine.generate([[1, 2, 3]], min_length=50, max_new_tokens=4, note=said.append)
    engine.generate([[1] * (LONGEST - 2)], min_new_tokens=4, max_new_tokens=8, note=said.append)
    assert said[0] == (
        "prompt 1 cannot get the 47 new tokens that min_new_tokens or min_length asks for: it gets 4 at most"
    )
    assert "prompt 1 gets at most 2 new tokens" in said[1] and "cannot get the 4 new tokens" in said[2]
    assert len(said) == 3
