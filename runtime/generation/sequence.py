"""Sequences in progress, and the groups of them that requests are."""

from __future__ import annotations

import time
from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.tasks import Task
from runtime.generation.beam_search import BeamSearch
from runtime.generation.log_probabilities import TokenLogprobs
from runtime.generation.logits_rules.request import RuleContext, stop_ids
from runtime.generation.sampler import SampledSequence
from runtime.generation.sampling_params import SamplingParams

if TYPE_CHECKING:
    from runtime.generation.text_stream import TextStream

FinishReason = Literal["stop", "length", "time", "cancelled", "error"]
"""What ended a text: an end token or a stop string, the number of tokens, `max_time`, `Engine.cancel`, or an error."""


@dataclass(eq=False, slots=True)
class Sequence:
    """A text in progress.

    Attributes:
        group: the request that it belongs to.
        number: which of the request's samples or beams it is, from 0.
        tokens: what the model is given: the task's virtual tokens, the prompt, and the new tokens.
        sampled: what chooses its tokens; None for a beam.
        stream: its text as it comes; None if there is no tokenizer, or for a beam.
        logprobs: what is reported of its new tokens, if anything is.
        room: for how many tokens it has room in the caches; 0 if it has no place there.
        cached: how many of its tokens are in the caches.
        finish_reason: what ended it; None while it goes on.
    """

    group: SequenceGroup
    number: int
    tokens: list[int]
    sampled: SampledSequence | None = None
    stream: TextStream | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    room: int = 0
    cached: int = 0
    finish_reason: FinishReason | None = None

    @property
    def pending(self) -> int:
        """How many of its tokens are in no cache yet."""
        return len(self.tokens) - self.cached

    @property
    def new_tokens(self) -> list[int]:
        """The tokens after the prompt."""
        return self.tokens[len(self.group.model_prompt) :]


@dataclass(eq=False)
class SequenceGroup:
    """A request: its parameters, and the sequences that it follows.

    Attributes:
        number: the number of the request, from 0, in the order in which they came.
        prompt: the prompt as it was given.
        prompt_ids: the prompt's token ids.
        params: what the request wishes.
        context: what its rules over logits follow from besides.
        task: whose virtual tokens stand before the prompt; None if no virtual tokens do.
        priority: requests with a higher one come first.
        sequences: those that go on.
        finished: those that have ended.
        beams: the state of its beam search; None without one.
        beam_logits: the logits of beams that wait for those of the others, by the number of the beam.
        prompt_logprobs: what is reported of the prompt's tokens, if anything is.
        error: what the request failed with.
        started: when it came, in seconds of `time.monotonic`.
        model_prompt: what the model is given of it first: the virtual tokens, and the prompt.
        longest: how many tokens a sequence of it may have, with those that the model is given first.
    """

    number: int
    prompt: str | ListOf[int]
    prompt_ids: list[int]
    params: SamplingParams
    context: RuleContext
    task: Task | None = None
    priority: int = 0
    sequences: list[Sequence] = field(default_factory=list)
    finished: list[Sequence] = field(default_factory=list)
    beams: BeamSearch | None = None
    beam_logits: dict[int, Tensor] = field(default_factory=dict)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    error: RequestError | None = None
    started: float = field(default_factory=lambda: time.monotonic())

    def __post_init__(self) -> None:
        if self.params.prompt_logprobs is not None:
            self.prompt_logprobs.append(None)
        self.stop_ids = stop_ids(self.params, self.context.end_ids)
        self.order = (-self.priority, self.number)
        self.model_prompt = [*self.virtual_ids, *self.prompt_ids]
        self.longest = len(self.model_prompt) + self.context.max_new_tokens

    @property
    def virtual_ids(self) -> list[int]:
        """The ids of the virtual tokens before the prompt; none without a task."""
        return self.task.ids if self.task is not None else []

    @property
    def width(self) -> int:
        """How many sequences it began with."""
        return self.params.num_beams if self.params.num_beams > 1 else self.params.n

    @property
    def wants_prompt_logits(self) -> bool:
        """Whether the logits after all tokens of the prompt are wanted, so that all of them must be computed."""
        wanted = self.params.prompt_logprobs is not None
        return wanted and len(self.prompt_logprobs) < len(self.prompt_ids)

    @property
    def common(self) -> int:
        """How many tokens at the beginning all of its sequences share."""
        first, *others = (sequence.tokens for sequence in self.sequences)
        return min((common_length(first, other) for other in others), default=len(first))

    @property
    def is_late(self) -> bool:
        """Whether it has used up the time that it may take."""
        most = self.params.max_time
        return most is not None and time.monotonic() - self.started >= most


def common_length(a: ListOf[int], b: ListOf[int]) -> int:
    """How many tokens two lists have in common at their beginning."""
    length = min(len(a), len(b))
    common, size = 0, length
    while size:  # that many more are the same, or half as many are tried
        if a[common : common + size] == b[common : common + size]:
            common += size
            size = min(size, length - common)
        else:
            size //= 2
    return common
