"""What a model thinks of the tokens of a text: their likelihood, window by window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.comparison import kl_divergence
from compiler.ir.step import Step, all_positions
from runtime.executors.interface import Session
from runtime.generation.engine import Engine

# How many logits a step may have; that many take 1 GiB in float32.
_MOST_LOGITS = 2**28


def windows(tokens: Sequence[int], size: int) -> list[Sequence[int]]:
    """The tokens in consecutive pieces of `size`; a last piece in which no token could be scored is left out."""
    pieces = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    return [piece for piece in pieces if len(piece) > 1]


@dataclass
class Score:
    """Sums over scored tokens.

    Attributes:
        tokens: how many tokens were scored.
        nll: the sum of their negative log-likelihoods, in nats.
        kl: the sum of the divergences from another model's distributions to this one's.
        agreed: how often both models prefer the same token.
    """

    tokens: int = 0
    nll: float = 0.0
    kl: float = 0.0
    agreed: int = 0

    def add(self, tokens: Sequence[int], logits: Tensor, other: Tensor | None) -> None:
        """Count a window.

        Args:
            tokens: the window's tokens.
            logits: what this model expects after each token but the last, `[tokens - 1, vocabulary]`.
            other: what another model expects, or None.
        """
        found = logits.float().log_softmax(-1)
        wanted = torch.tensor(tokens[1:], device=found.device)[:, None]
        self.tokens += len(wanted)
        self.nll -= found.gather(1, wanted).double().sum().item()
        if other is not None:
            expected = other.to(found.device).float().log_softmax(-1)
            self.agreed += int((expected.argmax(-1) == found.argmax(-1)).sum())
            self.kl += kl_divergence(expected, found)


class Scorer:
    """Runs windows through an engine, as many at once as it takes and memory allows."""

    def __init__(self, engine: Engine, size: int, rows: int) -> None:
        """Open a session for `rows` windows of at most `size` tokens."""
        self._rows, self._size = rows, size
        self._session: Session = engine.executor.open(rows, size)

    @torch.inference_mode()
    def logits(self, batch: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """For each of at most `rows` windows what the model expects after each token but the last.

        Each is to be used before the next batch.
        """
        step = Step.of_prompts(batch, batch=self._rows)
        logits = self._session.step(step.wanting(all_positions(self._rows, step.length - 1)))
        for row, window in enumerate(batch):
            yield logits[row, : len(window) - 1]


def rows_at_once(engines: Sequence[Engine], size: int, count: int) -> int:
    """How many of `count` windows of `size` tokens fit into a step of each engine."""
    vocab = max(engine.manifest.vocab_size for engine in engines)
    fitting = max(1, _MOST_LOGITS // (size * vocab))
    return min(count, fitting, *(engine.manifest.limits.max_batch for engine in engines))
