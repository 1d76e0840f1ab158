"""Requests, checked before anything runs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compiler.errors import RequestError
from compiler.ir.facts import larger_limits, most_positions
from compiler.ir.frozen import EMPTY
from compiler.ir.graph import Fact
from compiler.ir.tasks import Task
from runtime.engine_dir.manifest import EngineLimits


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
    facts: Mapping[str, Fact] = EMPTY,
) -> list[Request]:
    """The prompts as requests that the engine can serve.

    Args:
        prompts: token ids.
        max_new_tokens: how many tokens to add to each; where a sequence has less room, its request gets fewer.
        limits: what the engine was built for.
        vocab_size: token ids must be below it.
        note: called with a sentence for each request that gets fewer tokens.
        facts: what is known about the model, which decides what can be done about a prompt that is too long.

    Raises:
        RequestError: naming the prompt by number, from 1, and the mend.
    """
    if max_new_tokens < 1:
        raise RequestError(f"the number of new tokens is {max_new_tokens}; it must be at least 1")
    return [
        check_request(number, prompt, max_new_tokens, limits, vocab_size, note, facts)
        for number, prompt in enumerate(prompts, 1)
    ]


def check_request(
    number: int,
    prompt: Sequence[int],
    wanted: int,
    limits: EngineLimits,
    vocab_size: int,
    note: Callable[[str], None],
    facts: Mapping[str, Fact],
    task: Task | None = None,
) -> Request:
    """One prompt, which messages call by `number`, as a request for `wanted` new tokens; see `check_requests`."""
    check_prompt(number, prompt, limits, vocab_size, facts, new=1, task=task)
    length = len(prompt) + (task.virtual_tokens if task else 0)
    room = limits.max_seq - length
    if not room:
        raise RequestError(
            f"prompt {number} has {_count(prompt, task)}, which leaves no room for new ones: "
            f"the engine holds {limits.max_seq} a sequence",
            hint=_longer(limits, facts, length, length + wanted, length + 1),
        )
    if room < wanted:
        note(f"prompt {number} gets at most {room} new tokens: the engine holds {limits.max_seq} tokens per sequence")
    return Request(tuple(prompt), min(wanted, room))


def prompt_list(prompts: Any) -> list[Any]:
    """The prompts that a caller gives, as a list: a text is one; RequestError if there are none at all."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, bytes | bytearray | Mapping) or not isinstance(prompts, Iterable):
        raise RequestError(f"prompts is {prompts!r:.80}", hint="give a text, or a list of texts and lists of token ids")
    return list(prompts)


def plain_ids(number: int, prompt: Any) -> list[int]:
    """The token ids of a prompt that is no text, integers of numpy and torch among them.

    Raises:
        RequestError: naming the prompt by `number`, if it is no list of integers.
    """
    if isinstance(prompt, int):
        raise RequestError(f"prompt {number} is a number", hint="give a list of prompts: [[1, 2, 3]], not [1, 2, 3]")
    if isinstance(prompt, bytes | bytearray):
        raise RequestError(f"prompt {number} is bytes, not text", hint="decode them: prompt.decode()")
    unclear = RequestError(f"prompt {number} is neither text nor a list of token ids")
    try:
        tokens = list(prompt)
        ids = [operator.index(token) for token in tokens]
    except TypeError:
        raise unclear from None
    if isinstance(prompt, Mapping) or any(isinstance(token, bool) for token in tokens):
        raise unclear
    return ids


def check_prompt(
    number: int,
    prompt: Sequence[int],
    limits: EngineLimits,
    vocab_size: int,
    facts: Mapping[str, Fact] = EMPTY,
    *,
    new: int = 0,
    task: Task | None = None,
) -> None:
    """RequestError, naming the prompt by `number`, if it is empty, too long, or holds an id that is not the model's.

    Args:
        number: the number of the prompt.
        prompt: its token ids.
        limits: what the engine was built for.
        vocab_size: token ids must be below it.
        facts: what is known about the model.
        new: how many tokens are to follow at least.
        task: whose virtual tokens stand before it, if any do; they count, too.
    """
    if not prompt:
        raise RequestError(f"prompt {number} is empty", hint="give at least one token; a text's start token will do")
    for token in prompt:
        if not 0 <= token < vocab_size:
            raise RequestError(
                f"prompt {number} holds the token id {token}; the model's ids are 0 to {vocab_size - 1}",
                hint="check that the ids come from this model's tokenizer",
            )
    length = len(prompt) + (task.virtual_tokens if task else 0)
    if length > limits.max_input:
        raise RequestError(
            f"prompt {number} has {_count(prompt, task)}; the engine takes at most {limits.max_input}",
            hint=_longer(limits, facts, length, length + new),
        )


def _count(prompt: Sequence[int], task: Task | None) -> str:
    """How many tokens a prompt has, for messages."""
    own = f"{len(prompt)} tokens"
    return f"{own}, with {task.virtual_tokens} virtual ones of the task {task.name!r} before them" if task else own


def _longer(limits: EngineLimits, facts: Mapping[str, Fact], prompt: int, *sequences: int) -> str:
    """What to do about a prompt of so many tokens: a sequence is as long as the first that the model can have."""
    sizes = {"max_input": limits.max_input, "max_seq": limits.max_seq, "prompt": prompt}
    for sequence in sequences:
        if options := larger_limits(facts, **sizes, sequence=sequence):
            return f"shorten it, or compile with {options}"
    return f"shorten it: the model has learned only {most_positions(facts)} positions"
