"""What cuts a distribution before a token is drawn from it, for a batch in which every row has its own parameters.

The cuts apply in the order in which transformers applies them: top-h, top-k, top-p, min-p, typical-p, the epsilon
cutoff, the eta cutoff; each sees the distribution that the one before has left. Where equally likely tokens lie on
both sides of a cut, all of them are kept: which of them come first would otherwise depend on the device that sorts.
The most likely token is always kept.

No whole vocabulary is sorted where that is not needed: cuts are tried on the most likely tokens, and a row is tried
again with more of them if its last candidate was kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from runtime.generation.logits_rules.candidates import Candidates
from runtime.generation.sampling_params import SamplingParams

# Fixed, and more than the hundred tokens that top-h looks at: what a row gets must not depend on the others.
_WIDTHS = (256, 2048)
_TOP_H_TOKENS = 100

# More tokens than any vocabulary has: `top_k` may be any integer, a tensor's elements may not.
_ALL = 2**31


class Cut(Protocol):
    """A cut with a parameter for each row."""

    def keep(self, candidates: Candidates) -> Tensor:
        """The candidates to keep, `bool[rows, width]`: all of them in a row whose parameter cuts nothing."""
        ...


class Temperature:
    """Divides logits by a temperature for each row, after the largest has become 0, so that nothing overflows.

    Args:
        temperatures: `f32[rows]`, positive.
    """

    def __init__(self, temperatures: Tensor) -> None:
        # The smallest normal number stands for those that are 0 in float32.
        self._temperatures = temperatures.clamp_min(torch.finfo(torch.float32).tiny)[:, None]

    def apply(self, logits: Tensor) -> Tensor:
        """New logits `f32[rows, vocabulary]`; those of a row in which all are -inf are NaN."""
        return (logits - logits.amax(-1, keepdim=True)).div_(self._temperatures)


class TopH:
    """Keeps the most likely tokens that have together at most a share of the entropy of the first hundred.

    Args:
        shares: `f32[rows]`, NaN where nothing is cut.
    """

    def __init__(self, shares: Tensor) -> None:
        self._shares = shares[:, None]

    def keep(self, candidates: Candidates) -> Tensor:
        """See `Cut.keep`."""
        probs = candidates.logits[:, :_TOP_H_TOKENS].softmax(-1)
        entropies = -torch.xlogy(probs, probs)
        kept = entropies.cumsum(-1) <= entropies.sum(-1, keepdim=True) * self._shares
        return _down_to(candidates, kept.sum(-1)) | self._shares.isnan()


class TopK:
    """Keeps the k most likely tokens of each row.

    Args:
        counts: `i64[rows]`, 0 where nothing is cut.
    """

    def __init__(self, counts: Tensor) -> None:
        self._counts = counts

    def keep(self, candidates: Candidates) -> Tensor:
        """See `Cut.keep`."""
        return _down_to(candidates, self._counts) | (self._counts == 0)[:, None]


class TopP:
    """Keeps the fewest of the most likely tokens whose probabilities sum to a share at least.

    Args:
        shares: `f32[rows]`, 1 where nothing is cut.
    """

    def __init__(self, shares: Tensor) -> None:
        self._shares = shares[:, None]

    def keep(self, candidates: Candidates) -> Tensor:
        """See `Cut.keep`."""
        probs = candidates.logprobs.double().exp()
        before = probs.cumsum(-1) - probs
        return _down_to(candidates, (before < self._shares).sum(-1)) | (self._shares >= 1)


class MinP:
    """Keeps the tokens that are at least as likely as a share of the most likely one's probability.

    Args:
        shares: `f32[rows]`, 0 where nothing is cut.
    """

    def __init__(self, shares: Tensor) -> None:
        self._shares = shares[:, None]

    def keep(self, candidates: Candidates) -> Tensor:
        """See `Cut.keep`."""
        return (candidates.logits - candidates.logits[:, :1]).exp() >= self._shares


class TypicalP:
    """Keeps the tokens whose surprise is nearest to the expected one, until they sum to a share of probability.

    Args:
        shares: `f32[rows]`, 1 where nothing is cut.
    """

    def __init__(self, shares: Tensor) -> None:
        self._shares = shares[:, None]

    def keep(self, candidates: Candidates) -> Tensor:
        """See `Cut.keep`. It is right for complete rows alone."""
        logprobs = candidates.logprobs
        probs = logprobs.exp()
        distances = (-logprobs - _entropy(logprobs, probs)).abs()
        ordered, order = distances.sort(dim=-1)
        last = (probs.gather(1, order).cumsum(-1) < self._shares).sum(-1, keepdim=True)
        threshold = ordered.gather(1, last.clamp_max(ordered.shape[1] - 1))
        return (distances <= threshold) | (self._shares >= 1)


class EpsilonCutoff:
    """Keeps the tokens that have a probability at least.

    Args:
        cutoffs: `f32[rows]`, 0 where nothing is cut.
    """

    def __init__(self, cutoffs: Tensor) -> None:
        self._cutoffs = cutoffs[:, None]

    def keep(self, candidates: Candidates) -> Tensor:
        """See `Cut.keep`."""
        return (candidates.logprobs.exp() >= self._cutoffs) | _largest(candidates)


class EtaCutoff:
    """Keeps the tokens that have a probability at least, which is the lower, the more entropy there is.

    Args:
        cutoffs: `f32[rows]`, 0 where nothing is cut.
    """

    def __init__(self, cutoffs: Tensor) -> None:
        self._cutoffs = cutoffs[:, None]

    def keep(self, candidates: Candidates) -> Tensor:
        """See `Cut.keep`. It is right for complete rows alone."""
        logprobs = candidates.logprobs
        probs = logprobs.exp()
        eta = torch.minimum(self._cutoffs, self._cutoffs.sqrt() * (-_entropy(logprobs, probs)).exp())
        return (probs >= eta) | _largest(candidates)


def temperature(rows: Sequence[SamplingParams], device: torch.device) -> Temperature | None:
    """The temperatures of a batch; None if all are 1."""
    given = [params.temperature for params in rows]
    if all(one in (None, 1.0) for one in given):
        return None
    return Temperature(torch.tensor([1.0 if one is None else one for one in given], device=device))


def has_cuts(params: SamplingParams) -> bool:
    """Whether the parameters of a request cut its distribution."""
    return bool(
        params.top_k
        or params.top_p < 1
        or params.min_p
        or params.typical_p < 1
        or params.top_h is not None
        or params.epsilon_cutoff
        or params.eta_cutoff
    )


def cut(logits: Tensor, rows: Sequence[SamplingParams]) -> Iterator[tuple[list[int], Candidates]]:
    """Cut the distribution of each row by the row's parameters.

    Args:
        logits: `f32[rows, vocabulary]`, divided by the temperatures.
        rows: the parameters of each row.

    Yields:
        Numbers of rows, and the complete candidates of these; every row comes once.
    """
    vocabulary = logits.shape[1]
    left = list(range(len(rows)))
    for width in (*(one for one in _WIDTHS if one < vocabulary), vocabulary):
        tried = [row for row in left if width == vocabulary or _may_suffice(rows[row], width)]
        if not tried:
            continue
        here = logits if len(tried) == len(logits) else logits[tried]
        candidates = _cut_within(Candidates.of(here, width), [rows[row] for row in tried])
        complete = candidates.complete.tolist()
        done = [row for row, one in zip(tried, complete, strict=True) if one]
        if done:
            yield done, candidates if all(complete) else candidates.rows(candidates.complete)
        left = sorted({*left}.difference(done))


def _may_suffice(params: SamplingParams, width: int) -> bool:
    """Whether cuts that are told from the most likely tokens may leave fewer than `width`, which decides for each row
    alone at which widths it is tried.
    """
    monotone = params.top_k or params.top_p < 1 or params.min_p or params.top_h is not None
    return bool(monotone) and params.top_k < width


def _cut_within(candidates: Candidates, rows: Sequence[SamplingParams]) -> Candidates:
    """Apply all cuts that a row asks for to candidates. A row in which a cut cannot be told is left incomplete."""
    for one in _monotone(rows, candidates.logits.device):
        candidates = candidates.cut(one.keep(candidates))
    complete = candidates.complete
    for other in _distribution_wide(rows, candidates.logits.device):
        candidates = candidates.cut(other.keep(candidates))
    # What looks at the whole distribution was wrong about rows that had tokens beyond the candidates.
    return Candidates(candidates.logits, candidates.ids, candidates.log_total, complete)


def _monotone(rows: Sequence[SamplingParams], device: torch.device) -> Iterator[Cut]:
    """The cuts that keep the most likely tokens, and can be told from these alone."""
    if any(params.top_h is not None for params in rows):
        yield TopH(_floats([float("nan") if params.top_h is None else params.top_h for params in rows], device))
    if any(params.top_k for params in rows):
        yield TopK(torch.tensor([min(params.top_k, _ALL) for params in rows], device=device))
    if any(params.top_p < 1 for params in rows):
        yield TopP(_floats([params.top_p for params in rows], device))
    if any(params.min_p for params in rows):
        yield MinP(_floats([params.min_p for params in rows], device))


def _distribution_wide(rows: Sequence[SamplingParams], device: torch.device) -> Iterator[Cut]:
    """The cuts that follow from the whole distribution, or come after one that does."""
    if any(params.typical_p < 1 for params in rows):
        yield TypicalP(_floats([params.typical_p for params in rows], device))
    if any(params.epsilon_cutoff for params in rows):
        yield EpsilonCutoff(_floats([params.epsilon_cutoff for params in rows], device))
    if any(params.eta_cutoff for params in rows):
        yield EtaCutoff(_floats([params.eta_cutoff for params in rows], device))


def _floats(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _down_to(candidates: Candidates, counts: Tensor) -> Tensor:
    """The candidates that are at least as likely as the one of rank `counts`, from 1; at least the first."""
    rank = (counts - 1).clamp(0, candidates.logits.shape[1] - 1)[:, None]
    return candidates.logits >= candidates.logits.gather(1, rank)


def _largest(candidates: Candidates) -> Tensor:
    return candidates.logits == candidates.logits.amax(-1, keepdim=True)


def _entropy(logprobs: Tensor, probs: Tensor) -> Tensor:
    return -(logprobs * probs).nansum(-1, keepdim=True)
