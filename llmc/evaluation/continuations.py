"""How likely a model finds given continuations of given tokens, many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.step import Step
from runtime.executors.interface import Session
from runtime.generation.engine import Engine

# How many logits a step may have; that many take 256 MiB in float32, and their log-probabilities as many again.
_MOST_LOGITS = 2**26


class Continuation(NamedTuple):
    """Tokens to score, and those before them, of which there is one or more."""

    context: Sequence[int]
    tokens: Sequence[int]


class ContinuationScore(NamedTuple):
    """The log-probability of a continuation, in nats, and whether each of its tokens is the most likely one."""

    logprob: float
    greedy: bool


Scored = Callable[[int, ContinuationScore], None]
"""Called with the number of a continuation, from 0, and its score, once it is known."""


class _Row(NamedTuple):
    """What a row of a step computes: the tokens that go in, and the continuations that end them."""

    inputs: tuple[int, ...]
    numbers: list[int]

    def wanted(self, lengths: Sequence[int]) -> int:
        """How many of the last positions' logits are wanted."""
        return max(lengths[number] for number in self.numbers)


def score_continuations(
    engine: Engine,
    continuations: Sequence[Continuation],
    *,
    batch: int | None = None,
    longest: int | None = None,
    scored: Scored | None = None,
) -> list[ContinuationScore]:
    """Score continuations, each in one step beside others of like lengths, the longest first.

    The logits of the continuations' own positions alone are computed, and no more at once than fit into 256 MiB.
    Continuations that differ in their last token only, as those of a multiple choice by letters, are computed once.

    Args:
        engine: the engine.
        continuations: what to score. Where context and continuation are longer than the engine takes, the beginning is
            left out.
        batch: how many run at once at most; as many as the engine takes if None.
        longest: how many tokens go in at most; as many as the engine takes if None.
        scored: called as scores are known, in any order.

    Returns:
        The scores, in the order given.

    Raises:
        RequestError: naming one by number, from 1, that has no tokens or no context, has a token that is not the
            model's, or is longer than the engine takes by itself.
    """
    limits = engine.manifest.limits
    longest = min(longest or limits.max_input, limits.max_input, limits.max_seq)
    for number, each in enumerate(continuations, 1):
        _check(number, each, longest, engine.manifest.vocab_size)
    rows = sorted(_rows(continuations, longest), key=lambda row: (-len(row.inputs), row.inputs))
    results: list[ContinuationScore | None] = [None] * len(continuations)
    if not rows:
        return []
    most = min(batch or limits.max_batch, limits.max_batch, len(rows))
    session = engine.executor.open(most, len(rows[0].inputs))
    lengths = [len(each.tokens) for each in continuations]
    for group in _groups(rows, lengths, most, engine.manifest.vocab_size):
        for row, logits in zip(group, _logits(session, group, lengths, most), strict=True):
            for number in row.numbers:
                results[number] = score = _score(logits, continuations[number].tokens)
                if scored is not None:
                    scored(number, score)
    return [result for result in results if result is not None]


def _check(number: int, each: Continuation, longest: int, vocab_size: int) -> None:
    if not each.tokens or not each.context:
        raise RequestError(f"continuation {number} has no {'tokens' if each.context else 'context'}")
    if len(each.tokens) > longest:
        raise RequestError(
            f"continuation {number} has {len(each.tokens)} tokens; the engine takes at most {longest}",
            hint=f"compile with --max-input {len(each.tokens)} or more, as far as the model goes",
        )
    for token in (*each.context, *each.tokens):
        if not 0 <= token < vocab_size:
            raise RequestError(
                f"continuation {number} holds the token id {token}; the model's ids are 0 to {vocab_size - 1}",
                hint="the tokenizer and the weights belong to different models",
            )


def _rows(continuations: Sequence[Continuation], longest: int) -> list[_Row]:
    """The rows that have to be computed. The last token of a continuation is predicted, but does not go in."""
    rows: dict[tuple[int, ...], _Row] = {}
    for number, (context, tokens) in enumerate(continuations):
        inputs = (*context, *tokens)[-(longest + 1) :][:-1]
        rows.setdefault(inputs, _Row(inputs, [])).numbers.append(number)
    return list(rows.values())


def _groups(rows: Sequence[_Row], lengths: Sequence[int], most: int, vocab_size: int) -> Iterator[list[_Row]]:
    """The rows of each step, in order."""
    group: list[_Row] = []
    wanted = 0
    for row in rows:
        wider = max(wanted, row.wanted(lengths))
        if group and (len(group) == most or (len(group) + 1) * wider * vocab_size > _MOST_LOGITS):
            yield group
            group, wider = [], row.wanted(lengths)
        group.append(row)
        wanted = wider
    yield group


@torch.inference_mode()
def _logits(session: Session, group: Sequence[_Row], lengths: Sequence[int], rows: int) -> Iterator[Tensor]:
    """For each row of a step the logits after its last positions, `[wanted, vocabulary]`; to be used in turn."""
    step = Step.of_prompts([row.inputs for row in group], batch=rows)
    counts = [row.wanted(lengths) for row in group]
    positions = torch.zeros(rows, max(counts), dtype=torch.int32)
    for place, (row, count) in enumerate(zip(group, counts, strict=True)):
        positions[place, :count] = torch.arange(len(row.inputs) - count, len(row.inputs), dtype=torch.int32)
    logits = session.step(step.wanting(positions))
    for place, count in enumerate(counts):
        yield logits[place, :count]


@torch.inference_mode()
def _score(logits: Tensor, tokens: Sequence[int]) -> ContinuationScore:
    """The score of the continuation that ends with the last position, by logits `[positions, vocabulary]`."""
    own = logits[-len(tokens) :].float()
    wanted = torch.tensor(list(tokens), device=own.device)
    found = own.log_softmax(-1).gather(1, wanted[:, None]).double().sum().item()
    return ContinuationScore(found, bool((own.argmax(-1) == wanted).all()))
