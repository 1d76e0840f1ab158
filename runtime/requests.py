"""Requests, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compiler.errors import RequestError
from runtime.manifest import EngineLimits


@dataclass(frozen=True)
class Request:
    """A prompt, and how many tokens to add at most."""

    token_ids: tuple[int, ...]
    max_new_tokens: int


def check_requests(
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    limits: EngineLimits,
    vocab_size: int,
    note: Callable[[str], None],
) -> list[Request]:
    """The prompts as requests that the engine can serve.

    Args:
        prompts: token ids.
        max_new_tokens: how many tokens to add to each; where a sequence has less room, its request gets fewer.
        limits: what the engine was built for.
        vocab_size: token ids must be below it.
        note: called with a sentence for each request that gets fewer tokens.

    Raises:
        RequestError: naming the prompt by number, from 1, and the mend.
    """
    if max_new_tokens < 1:
        raise RequestError(f"the number of new tokens is {max_new_tokens}; it must be at least 1")
    return [
        _request(number, prompt, max_new_tokens, limits, vocab_size, note) for number, prompt in enumerate(prompts, 1)
    ]


def _request(
    number: int,
    prompt: Sequence[int],
    wanted: int,
    limits: EngineLimits,
    vocab_size: int,
    note: Callable[[str], None],
) -> Request:
    check_prompt(number, prompt, limits, vocab_size)
    length = len(prompt)
    room = limits.max_seq - length
    if not room:
        raise RequestError(
            f"prompt {number} has {length} tokens, which leaves no room for new ones: "
            f"the engine holds {limits.max_seq} a sequence",
            hint=f"shorten it, or compile with --max-seq {length + wanted}",
        )
    if room < wanted:
        note(f"prompt {number} gets at most {room} new tokens: the engine holds {limits.max_seq} tokens a sequence")
    return Request(tuple(prompt), min(wanted, room))


def check_prompt(number: int, prompt: Sequence[int], limits: EngineLimits, vocab_size: int) -> None:
    """RequestError, naming the prompt by `number`, if it is empty, too long, or holds an id that is not the model's."""
    if not prompt:
        raise RequestError(f"prompt {number} is empty", hint="give at least one token; a text's start token will do")
    for token in prompt:
        if not 0 <= token < vocab_size:
            raise RequestError(
                f"prompt {number} holds the token id {token}; the model's ids are 0 to {vocab_size - 1}",
                hint="check that the ids come from this model's tokenizer",
            )
    if len(prompt) > limits.max_input:
        raise RequestError(
            f"prompt {number} has {len(prompt)} tokens; the engine takes at most {limits.max_input}",
            hint=f"shorten it, or compile with --max-input {len(prompt)} or more (and --max-seq to match)",
        )
