"""What requests get: whole texts, and texts as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from runtime.generation.log_probabilities import TokenLogprobs
from runtime.generation.sequence import FinishReason, Sequence, SequenceGroup
from runtime.generation.stops import StopStrings
from runtime.generation.tokenizer import Tokenizer


@dataclass(frozen=True)
class Completion:
    """What a prompt got.

    Attributes:
        prompt: the prompt's text, as it was given; of a prompt given as ids, their text without special tokens and
            without a character that they leave incomplete. Empty for ids if the engine has no tokenizer.
        prompt_ids: the prompt's token ids.
        text: how the prompt goes on: the text of the new tokens in the context of the prompt, without special tokens
            and without the end token or stop string that ended it. Empty if the engine has no tokenizer.
            `prompt + text` is the text of all ids, if the prompt was given as ids or is what the tokenizer makes of
            its own ids.
        token_ids: the new tokens; an end token, or those of a stop string, that ended the text are the last of them.
        finish_reason: `stop` if an end token or a stop string ended it, `length` if the number of tokens did, `time`
            if `max_time` did, `cancelled`, or `error`.
        sample: which of the request's texts it is, from 0: those of a beam search come best first. None if there is
            only one is asked for.
        seed: what its draws follow from; None if nothing was drawn.
        score: of a beam search, the sum of the log-probabilities over a power of the length; None without one.
        logprobs: the log-probabilities of the new tokens, if they were asked for.
        prompt_logprobs: those of the prompt's tokens, of which the first has none, if they were asked for.
        error: what the request failed with, if it did.
        task: the task whose virtual tokens stood before the prompt, if it named one.
    """

    prompt: str
    prompt_ids: list[int]
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    sample: int | None = None
    seed: int | None = None
    score: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    error: str | None = None
    task: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object, without those that were not asked for."""
        plain = {name: value for name, value in asdict(self).items() if name not in _OPTIONAL}
        optional = {name: getattr(self, name) for name in _OPTIONAL if getattr(self, name) is not None}
        for name in ("logprobs", "prompt_logprobs"):
            if name in optional:
                optional[name] = [each and each.to_json() for each in optional[name]]
        return {**plain, **optional}


_OPTIONAL = ("sample", "seed", "score", "logprobs", "prompt_logprobs", "error", "task")


@dataclass(frozen=True)
class Piece:
    """A part of a text as it comes.

    Attributes:
        text: the text that can be shown now; empty where a token completes no character.
        token_id: the token that came; None if only text that was held back did.
        sample: which of the request's texts it belongs to.
        completion: the whole, once the text has ended.
    """

    text: str
    token_id: int | None = None
    sample: int = 0
    completion: Completion | None = None


def completions(group: SequenceGroup, tokenizer: Tokenizer | None) -> Iterator[Completion]:
    """What a request that has ended got: one for each of its texts, in order.

    A beam search that ended before its time has those that it has found, and for the rest its best beams.
    """
    prompt = group.prompt
    if not isinstance(prompt, str):
        prompt = tokenizer.continuation(group.prompt_ids, [])[0] if tokenizer else ""
    shared: dict[str, Any] = {
        "prompt_logprobs": group.prompt_logprobs if group.params.prompt_logprobs is not None else None,
        "error": str(group.error) if group.error else None,
        "task": group.task.name if group.task is not None else None,
    }
    found = group.beams.hypotheses() if group.beams is not None and group.error is None else []
    several = (group.width if group.beams is None else group.params.num_return_sequences) > 1
    for number, hypothesis in enumerate(found):
        stopped = hypothesis.finish_reason == "stop"
        yield Completion(
            prompt,
            group.prompt_ids,
            beam_text(group, hypothesis.token_ids, tokenizer, stopped=stopped),
            list(hypothesis.token_ids),
            hypothesis.finish_reason,
            sample=number if several else None,
            score=hypothesis.score,
            **shared,
        )
    for number, sequence in enumerate(_left(group, len(found)), len(found)):
        sampled, new = sequence.sampled, sequence.new_tokens
        own = sequence.stream.text if sequence.stream is not None else ""
        yield Completion(
            prompt,
            group.prompt_ids,
            own if sampled is not None else beam_text(group, tuple(new), tokenizer, stopped=False),
            new,
            sequence.finish_reason or "length",
            sample=(sequence.number if sampled is not None else number) if several else None,
            seed=sampled.params.seed if sampled is not None and not sampled.params.greedy else None,
            logprobs=sequence.logprobs if group.params.logprobs is not None else None,
            **shared,
        )


def _left(group: SequenceGroup, found: int) -> list[Sequence]:
    """The sequences that have ended and are texts themselves, in order; of a beam search, the best beams instead of
    texts that it has not found, of which there are `found`.
    """
    ended = sorted(group.finished, key=lambda each: each.number)
    if group.beams is None:
        return ended
    return [] if group.beams.finished else ended[: group.params.num_return_sequences - found]


def beam_text(group: SequenceGroup, token_ids: tuple[int, ...], tokenizer: Tokenizer | None, *, stopped: bool) -> str:
    """The text of a beam: without the end token, and without a stop string, that ended it."""
    if tokenizer is None:
        return ""
    shown = token_ids[:-1] if stopped and token_ids[-1] in group.stop_ids else token_ids
    stops = StopStrings(group.params.stop)
    return stops.feed(tokenizer.continuation(group.prompt_ids, shown)[1]) + stops.finish()
