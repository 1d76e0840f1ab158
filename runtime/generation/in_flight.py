"""In-flight batching: steps of a session over whatever requests there are at the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.step import Step, all_positions, last_positions
from runtime.executors.interface import Session
from runtime.generation.log_probabilities import token_logprobs
from runtime.generation.sampler import Choice, choose
from runtime.generation.scheduler import STEP_TOKENS, Scheduler, StepPlan
from runtime.generation.sequence import NO_ROW, FinishReason, Sequence, SequenceGroup
from runtime.generation.timings import Timings

Chunk = tuple[Sequence, int]
"""A sequence, and how many of its next tokens are to be computed."""

# Rows whose numbers of tokens differ run together as long as no more than this is padding: to read the weights once
# more takes a CPU as long as some tokens do.
_PADDING_TOKENS = 32
_PADDING_SHARE = 0.2

# Logits of so many positions of a prompt are computed at once, where those of all positions are wanted.
_POSITIONS = 64


@dataclass
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
        session: what computes the steps.
        scheduler: what decides which tokens they take.
        timings: where the time goes.
    """

    session: Session
    scheduler: Scheduler
    timings: Timings = field(default_factory=Timings)

    @classmethod
    def over(cls, session: Session, *, step_tokens: int = STEP_TOKENS) -> InFlightBatch:
        """A batch over all rows of a session."""
        return cls(session, Scheduler(session.batch, step_tokens=step_tokens))

    @torch.inference_mode()
    def step(self) -> list[Update]:
        """Compute one step; returns what came of it, nothing if there is nothing to do."""
        started = time.perf_counter()
        updates = [update for group in self._late() for update in self._end_all(group, "time")]
        plan = self.scheduler.plan()
        try:
            updates += self._follow(plan)
        except BaseException:
            # What the caches hold is not known any more: all is computed again.
            self.scheduler.forget_caches()
            raise
        if tokens := len(plan.decodes) + sum(count for _, count in plan.chunks):
            self.timings.add(time.perf_counter() - started, tokens, prefill=bool(plan.chunks))
        return updates

    def _follow(self, plan: StepPlan) -> list[Update]:
        """Do what was planned, in as few steps of the session as cost little padding."""
        self._copy(plan.copies)
        together: list[Chunk] = [(sequence, 1) for sequence in plan.decodes]
        scored = [chunk for chunk in plan.chunks if chunk[0].group.wants_prompt_logits]
        prompts = [chunk for chunk in plan.chunks if chunk not in scored]
        if self.session.packs_tokens:
            together, prompts = [*together, *prompts], []
        updates = self._run(together)
        # What has failed meanwhile has no rows any more.
        while prompts := [chunk for chunk in prompts if chunk[0].row != NO_ROW]:
            chunks = padded_little(prompts)[0]
            updates += self._run(chunks)
            prompts = [chunk for chunk in prompts if chunk not in chunks]
        for sequence, count in scored:
            if sequence.row != NO_ROW:
                self._prompt_logprobs(sequence, count)
        return updates

    def holds(self, group: SequenceGroup) -> bool:
        """Whether a request is one of this batch that has not ended."""
        return group in self.scheduler.running or group in self.scheduler.waiting

    def cancel(self, group: SequenceGroup) -> list[Update]:
        """Take a request out; what it has got so far stays."""
        return list(self._end_all(group, "cancelled"))

    def _late(self) -> list[SequenceGroup]:
        groups = (*self.scheduler.running, *self.scheduler.waiting)
        return [group for group in groups if group.params.max_time is not None and group.is_late]

    def _run(self, chunks: ListOf[Chunk]) -> list[Update]:
        """Compute some tokens of each of some sequences in one step, and let those that are through go on."""
        if not chunks:
            return []
        first, logits = self._logits(chunks)
        done = [sequence for sequence, _ in chunks if not sequence.pending]
        return self._take(done, [sequence.row - first for sequence in done], logits[:, 0])

    def _logits(self, chunks: ListOf[Chunk], *, every: bool = False) -> tuple[int, Tensor]:
        """Compute the next tokens of some sequences, in one step over the rows from the first of them to the last.

        Args:
            chunks: the sequences, and how many tokens of each.
            every: whether the logits after every token are wanted, instead of those after the last.

        Returns:
            The first row, and the logits `[rows, positions, vocabulary]`.
        """
        first = min(sequence.row for sequence, _ in chunks)
        rows = max(sequence.row for sequence, _ in chunks) + 1 - first
        length = max(count for _, count in chunks)
        tokens, past, new = [[0] * length] * rows, [0] * rows, [0] * rows
        for sequence, count in chunks:
            at, start = sequence.row - first, sequence.cached
            tokens[at] = sequence.tokens[start : start + count] + [0] * (length - count)
            past[at], new[at] = start, count
            sequence.cached += count
        token_ids, past_len, new_len = (torch.tensor(values, dtype=torch.int32) for values in (tokens, past, new))
        wanted = all_positions(rows, length) if every else last_positions(new_len)
        return first, self.session.step(Step(token_ids, past_len, new_len, wanted), first)

    def _prompt_logprobs(self, sequence: Sequence, count: int) -> None:
        """Compute some of a prompt's tokens, and report their log-probabilities; the last token is left."""
        group = sequence.group
        prompt, top = group.model_prompt, group.params.prompt_logprobs or 0
        while count > 0 and sequence.cached < len(prompt) - 1:
            size = min(count, _POSITIONS, len(prompt) - 1 - sequence.cached)
            # Virtual tokens have none, nor has the first token after them; after a preemption some are known.
            known = len(group.virtual_ids) + len(group.prompt_logprobs) - 1 - sequence.cached
            logits = self._logits([(sequence, size)], every=True)[1][0]
            following = prompt[sequence.cached - size + 1 : sequence.cached + 1]
            fresh = slice(max(0, known), size)
            group.prompt_logprobs += token_logprobs(logits[fresh], following[fresh], [top] * len(following[fresh]))
            count -= size

    def _take(self, sequences: ListOf[Sequence], places: ListOf[int], logits: Tensor) -> list[Update]:
        """Let sequences whose tokens all are in the caches have their next ones.

        Args:
            sequences: the sequences.
            places: for each its row of the logits.
            logits: `[rows, vocabulary]`.
        """
        updates: list[Update] = []
        drawing: list[tuple[Sequence, int]] = []
        for sequence, place in zip(sequences, places, strict=True):
            group = sequence.group
            forked = self._fork(sequence)
            if group.beams is not None:
                group.beam_logits[sequence.number] = logits[place].clone()
                if forked or len(group.beam_logits) == len(group.sequences):
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
                    updates.append(self._append(sequence, result))
        return updates

    def _fork(self, first: Sequence) -> list[Sequence]:
        """The sequences of a request that have not been computed, because their tokens are those of its first one.

        They get a copy of its caches.
        """
        group = first.group
        if first is not group.sequences[0]:
            return []
        forked = [other for other in group.sequences if other.cached == 0 and other.tokens == first.tokens]
        if forked:
            self.session.copy_rows([first.row] * len(forked), [other.row for other in forked])
            for other in forked:
                other.cached = first.cached
        return forked

    def _append(self, sequence: Sequence, choice: Choice) -> Update:
        """Give a sequence its next token."""
        group, token = sequence.group, choice.token
        assert sequence.sampled is not None
        sequence.sampled.append(token)
        sequence.tokens.append(token)
        if choice.logprobs is not None:
            sequence.logprobs.append(choice.logprobs)
        ended = token in group.stop_ids
        text = ""
        if sequence.stream is not None and not ended:
            text = sequence.stream.append(token)
        reason: FinishReason | None = None
        if ended or (sequence.stream is not None and sequence.stream.stopped):
            reason = "stop"
        elif len(sequence.tokens) - len(group.model_prompt) >= group.context.max_new_tokens:
            reason = "length"
        if reason is not None:
            text += self._finish(sequence, reason)
        return Update(group, sequence, token, text, finished=not group.sequences)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> str:
        """End a sequence; returns what was held back of its text."""
        sequence.finish_reason = reason
        self.scheduler.end(sequence)
        return sequence.stream.finish() if sequence.stream is not None else ""

    def _fail(self, group: SequenceGroup, error: RequestError) -> list[Update]:
        group.error = error
        return list(self._end_all(group, "error"))

    def _end_all(self, group: SequenceGroup, reason: FinishReason) -> Iterator[Update]:
        """End a request for a reason that is not in its texts."""
        self.scheduler.remove(group)
        for sequence in group.sequences:
            sequence.finish_reason = reason
            text = sequence.stream.finish() if sequence.stream is not None else ""
            group.finished.append(sequence)
            yield Update(group, sequence, None, text)
        group.sequences = []
        yield Update(group, finished=True)

    def _advance(self, group: SequenceGroup) -> list[Update]:
        """Take a step of a beam search, and give every beam the row whose caches it goes on from."""
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
            self._reorder(group, continuation.sources)
        return [Update(group)]

    def _reorder(self, group: SequenceGroup, sources: ListOf[int]) -> None:
        """Let beam i go on from the caches of beam `sources[i]`: as many as can keep a row that is right already."""
        rows = [sequence.row for sequence in group.sequences]
        taken: dict[int, int] = {}
        for beam, source in enumerate(sources):
            taken.setdefault(source, beam)
        keeps = {beam: rows[source] for source, beam in taken.items()}
        left = iter([row for beam, row in enumerate(rows) if beam not in taken])
        new = [keeps[beam] if beam in keeps else next(left) for beam in range(len(rows))]
        copies = [(rows[source], row) for source, row in zip(sources, new, strict=True) if rows[source] != row]
        self._copy(copies)
        self.scheduler.cache.exchange(group.sequences, new)

    def _copy(self, copies: ListOf[tuple[int, int]]) -> None:
        """Copy rows of the caches, all at once."""
        if copies:
            sources, destinations = zip(*copies, strict=True)
            self.session.copy_rows(sources, destinations)


def padded_little(chunks: ListOf[Chunk]) -> list[list[Chunk]]:
    """Chunks in groups of rows that follow one another, which can run as one step with little padding."""
    groups: list[list[Chunk]] = []
    for chunk in sorted(chunks, key=lambda each: each[0].row):
        last = groups[-1] if groups else []
        if last and _run_together([*last, chunk]):
            last.append(chunk)
        else:
            groups.append([chunk])
    return groups


def _run_together(chunks: ListOf[Chunk]) -> bool:
    (before, _), (last, _) = chunks[-2:]
    if last.row != before.row + 1:
        return False
    counts = [count for _, count in chunks]
    padding = max(counts) * len(counts) - sum(counts)
    return padding <= max(_PADDING_TOKENS, int(_PADDING_SHARE * sum(counts)))
