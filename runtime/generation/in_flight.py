"""In-flight batching: steps of a session over whatever requests there are at the time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from compiler.errors import RequestError
from runtime.generation.log_probabilities import TokenLogprobs, token_logprobs
from runtime.generation.sampler import choose
from runtime.generation.sampling import not_finite
from runtime.generation.scheduler import Scheduler, StepPlan
from runtime.generation.sequence import FinishReason, Sequence, SequenceGroup
from runtime.generation.session_steps import Begun, Chunk, SessionSteps
from runtime.generation.timings import Timings

# Logits of so many positions of a prompt are computed at once, where those of all positions are wanted.
_POSITIONS = 64


@dataclass(slots=True)
class Update:
    """What a step has brought a request.

    Attributes:
        group: the request.
        sequence: the sequence that got a token; None if it is about the request as a whole.
        token_id: the token; None if none came.
        text: the text that can be shown now.
        finished: whether the request has ended.
    """

    group: SequenceGroup
    sequence: Sequence | None = None
    token_id: int | None = None
    text: str = ""
    finished: bool = False


@dataclass
class InFlightBatch:
    """The requests in progress on a session.

    Attributes:
        steps: what computes the steps.
        scheduler: what decides which tokens they take.
        timings: where the time goes.
    """

    steps: SessionSteps
    scheduler: Scheduler
    timings: Timings = field(default_factory=Timings)
    _begun: Begun | None = None  # a step that goes on while its tokens are waited for
    _ended: bool = False  # whether one of its sequences may have ended

    @classmethod
    def over(cls, steps: SessionSteps, *, step_tokens: int | None = None) -> InFlightBatch:
        """A batch over all of a session; how many tokens a step takes is up to the session if nothing is said."""
        return cls(steps, Scheduler(steps.cache, step_tokens=step_tokens or steps.step_tokens))

    @torch.inference_mode()
    def step(self) -> list[Update]:
        """Compute one step; returns what came of it, nothing if there is nothing to do."""
        started = time.perf_counter()
        updates = [update for group in self.scheduler.late() for update in self._end_all(group, "time")]
        plan = StepPlan() if self._begun else self.scheduler.plan()
        tokens, prefill = plan.tokens, bool(plan.chunks)
        if self._begun:
            tokens, prefill = self._begun.tokens, self._begun.tokens > len(self._begun.sequences)
        try:
            updates += self._go_on() if self._begun else self._follow(plan)
        except BaseException:
            # What the caches hold is not known any more: all is computed again.
            self._begun = None
            self.scheduler.forget_caches()
            raise
        if tokens:
            self.timings.add(time.perf_counter() - started, tokens, prefill=prefill)
            self.timings.preemptions = self.scheduler.preemptions
        return updates

    def _follow(self, plan: StepPlan) -> list[Update]:
        """Do what was planned, in as few steps of the session as cost little padding."""
        self.steps.copy(self.scheduler.cache.copies.take())
        chunks: list[Chunk] = [*((sequence, 1) for sequence in plan.decodes), *plan.chunks]
        if chunks and all(_is_plain(sequence) for sequence, _ in chunks):
            self._begun = self.steps.begin(chunks)
            if self._begun is not None:
                self._begun.prompts = self.scheduler.sequences > len(self._begun.sequences)
                return self._go_on()
        updates: list[Update] = []
        left = [chunk for chunk in chunks if not chunk[0].group.wants_prompt_logits]
        while left:
            chunks, left = self.steps.split(left)
            updates += self._take(*self.steps.run(chunks))
            left = [chunk for chunk in left if chunk[0].finish_reason is None]  # what has failed has no place any more
        for sequence, count in plan.chunks:
            if sequence.finish_reason is None and sequence.group.wants_prompt_logits:
                self._prompt_logprobs(sequence, count)
        return updates

    def _go_on(self) -> list[Update]:
        """Begin the step after the one that has begun, if it need not be planned, and take the tokens of the latter."""
        assert self._begun is not None
        begun, self._begun = self._begun, None
        after = self._begun = self._begin_after(begun)
        updates: list[Update] = []
        tokens, logits = begun.chosen.wait()
        finite = all(map(math.isfinite, logits))
        for sequence, token, logit in zip(begun.sequences, tokens, logits, strict=True):
            if sequence.finish_reason is not None:
                continue
            if finite or math.isfinite(logit) or sequence.group.params.remove_invalid_values:
                updates.append(self._append(sequence, token))
            else:
                updates += self._fail(sequence.group, not_finite(logit))
        if after is not None:
            going = compress(begun.sequences, after.kept)
            self.scheduler.cache.filled_each(each for each in going if each.finish_reason is None)
        return updates

    def _begin_after(self, begun: Begun) -> Begun | None:
        """Begin the step after one whose tokens are unknown; None if it must be planned, or there is nothing to do.

        It has the sequences that these tokens do not end by their number, and the next chunks of prompts; requests that
        wait are given room that is free.
        """
        scheduler, cache = self.scheduler, self.scheduler.cache
        going = begun.lengths < begun.ends
        if self._ended:
            going &= np.array([sequence.finish_reason is None for sequence in begun.sequences], dtype=bool)
        for at in (going & (begun.lengths >= begun.rooms)).nonzero()[0].tolist():
            if not cache.reserve(begun.sequences[at], 1):
                return None
            begun.rooms[at] = begun.sequences[at].room
        if scheduler.waits_for_plan:
            begun.prompts |= scheduler.admit(preempt=False)
            if scheduler.waits_for_plan:
                return None
        count = int(going.sum())
        chunks, more = scheduler.prompts(count) if begun.prompts else ([], False)
        if not (count or chunks) or not all(_is_plain(sequence) for sequence, _ in chunks):
            return None
        self.steps.copy(cache.copies.take())
        self._ended = False
        after = self.steps.go_on(begun, going, chunks)
        after.prompts = more
        return after

    def holds(self, group: SequenceGroup) -> bool:
        """Whether a request is one of this batch that has not ended."""
        return group in self.scheduler.running or group in self.scheduler.waiting

    def cancel(self, group: SequenceGroup) -> list[Update]:
        """Take a request out; what it has got so far stays."""
        return list(self._end_all(group, "cancelled"))

    def _prompt_logprobs(self, sequence: Sequence, count: int) -> None:
        """Compute some of a prompt's tokens, and report their log-probabilities; the last token is left."""
        group = sequence.group
        prompt, top = group.model_prompt, group.params.prompt_logprobs or 0
        while count > 0 and sequence.cached < len(prompt) - 1:
            size = min(count, _POSITIONS, len(prompt) - 1 - sequence.cached)
            # Virtual tokens have none, nor has the first token after them; after a preemption some are known.
            known = len(group.virtual_ids) + len(group.prompt_logprobs) - 1 - sequence.cached
            logits = self.steps.run_every((sequence, size))
            following = prompt[sequence.cached - size + 1 : sequence.cached + 1]
            fresh = slice(max(0, known), size)
            group.prompt_logprobs += token_logprobs(logits[fresh], following[fresh], [top] * len(following[fresh]))
            count -= size

    def _take(self, sequences: ListOf[Sequence], logits: Tensor) -> list[Update]:
        """Let sequences whose tokens all are in the caches go on, by logits `[sequences, vocabulary]`."""
        updates: list[Update] = []
        drawing: list[tuple[Sequence, int]] = []
        for place, sequence in enumerate(sequences):
            group = sequence.group
            forked = self._fork(sequence)
            if group.beams is not None:
                row = logits[place].clone()
                group.beam_logits |= {each.number: row for each in (sequence, *forked)}
                if len(group.beam_logits) == len(group.sequences):
                    updates += self._advance(group)
            else:
                drawing += [(each, place) for each in (sequence, *forked)]
        if drawing:
            rows = [place for _, place in drawing]
            chosen = logits if rows == list(range(len(logits))) else logits[rows]
            results = choose([sequence.sampled for sequence, _ in drawing], chosen)
            for (sequence, _), result in zip(drawing, results, strict=True):
                if sequence.finish_reason is not None:
                    continue
                if isinstance(result, RequestError):
                    updates += self._fail(sequence.group, result)
                else:
                    assert result is not None
                    updates.append(self._append(sequence, result.token, result.logprobs))
        return updates

    def _fork(self, first: Sequence) -> list[Sequence]:
        """The sequences of a request that have not been computed, because their tokens are those of its first one.

        They begin with what the caches hold of it.
        """
        group = first.group
        if first is not group.sequences[0]:
            return []
        forked = [other for other in group.sequences if other.cached == 0 and other.tokens == first.tokens]
        if forked:
            self.scheduler.cache.share(first, forked, first.cached)
        return forked

    def _append(self, sequence: Sequence, token: int, logprobs: TokenLogprobs | None = None) -> Update:
        """Give a sequence its next token."""
        group, stream, text = sequence.group, sequence.stream, ""
        assert sequence.sampled is not None
        sequence.sampled.token_ids.append(token)
        sequence.tokens.append(token)
        if logprobs is not None:
            sequence.logprobs.append(logprobs)
        ended = token in group.stop_ids
        if stream is not None and not ended:
            text = stream.append(token)
            ended = stream.stopped
        if ended:
            text += self._finish(sequence, "stop")
        elif len(sequence.tokens) >= group.longest:
            text += self._finish(sequence, "length")
        return Update(group, sequence, token, text, not group.sequences)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> str:
        """End a sequence; returns what was held back of its text."""
        sequence.finish_reason = reason
        self._ended = True
        self.scheduler.end(sequence)
        return sequence.stream.finish() if sequence.stream is not None else ""

    def _fail(self, group: SequenceGroup, error: RequestError) -> list[Update]:
        group.error = error
        return list(self._end_all(group, "error"))

    def _end_all(self, group: SequenceGroup, reason: FinishReason) -> Iterator[Update]:
        """End a request for a reason that is not in its texts."""
        self.scheduler.remove(group)
        self._ended = True
        for sequence in group.sequences:
            sequence.finish_reason = reason
            text = sequence.stream.finish() if sequence.stream is not None else ""
            group.finished.append(sequence)
            yield Update(group, sequence, None, text)
        group.sequences = []
        yield Update(group, finished=True)

    def _advance(self, group: SequenceGroup) -> list[Update]:
        """Take a step of a beam search, and let every beam go on from the caches of the one that it continues."""
        assert group.beams is not None
        logits = torch.stack([group.beam_logits[number] for number in sorted(group.beam_logits)])
        group.beam_logits.clear()
        try:
            continuation = group.beams.advance(logits)
        except RequestError as error:
            return self._fail(group, error)
        if group.beams.finished:
            return list(self._end_all(group, "stop"))
        for sequence, tokens in zip(group.sequences, group.beams.token_ids, strict=True):
            sequence.tokens = [*group.virtual_ids, *tokens]
        if len(logits) > 1:
            self.scheduler.cache.reorder(group.sequences, continuation.sources)
        return [Update(group)]


def _is_plain(sequence: Sequence) -> bool:
    """Whether a sequence's next token is the most likely one, and nothing else is asked of its logits."""
    sampled, group = sequence.sampled, sequence.group
    return (
        sampled is not None
        and sampled.params.greedy
        and not sampled.rules
        and group.params.logprobs is None
        and not group.wants_prompt_logits
        and (len(group.sequences) == 1 or all(each.cached for each in group.sequences))
    )
