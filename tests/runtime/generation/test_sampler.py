"""Choosing the tokens of a batch."""

import functools
import math
import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from compiler.errors import RequestError
from runtime.generation.logits_rules.request import RuleContext
from runtime.generation.sampler import Choice, SampledSequence, choose, draw_tokens
from runtime.generation.sampling_params import SamplingParams

VOCABULARY = 600


def sequence(params, prompt=(1, 2, 3), sample=0):
    context = RuleContext(len(prompt), max_new_tokens=50, end_ids=[0], vocab_size=VOCABULARY)
    return SampledSequence(params, context, prompt, sample)


def logits_after(token_ids):
    """Logits that follow from a sequence's tokens, as a model's do."""
    state = functools.reduce(lambda state, token: (state * 31 + token + 1) % 2**32, token_ids, 7)
    generator = torch.Generator().manual_seed(state)
    return torch.randn(VOCABULARY, generator=generator) * 2


def generated(sequences, steps=12, rows=None):
    """The new tokens of sequences that run in one batch, in rows of the given numbers."""
    rows = rows or list(range(len(sequences)))
    for _ in range(steps):
        logits = torch.full((max(rows) + 1, VOCABULARY), math.nan)
        slots = [None] * len(logits)
        for row, one in zip(rows, sequences, strict=True):
            logits[row], slots[row] = logits_after(one.token_ids), one
        choices = choose(slots, logits)
        assert all((choice is None) == (slot is None) for choice, slot in zip(choices, slots, strict=True))
        for row, one in zip(rows, sequences, strict=True):
            choice = choices[row]
            assert isinstance(choice, Choice)
            one.append(choice.token)
    return [one.token_ids[3:] for one in sequences]


NEIGHBOURS = [
    SamplingParams(),
    SamplingParams(temperature=1.3, seed=4),
    SamplingParams(top_k=300, seed=5, logprobs=3),
    SamplingParams(top_p=0.95, temperature=3.0, repetition_penalty=1.2, seed=6),
    SamplingParams(typical_p=0.5, seed=7),
    SamplingParams(min_p=0.1, seed=8, presence_penalty=1.0),
    SamplingParams(no_repeat_ngram_size=2),
]


@pytest.mark.parametrize("own", [*NEIGHBOURS, SamplingParams(top_p=0.9, seed=1), SamplingParams(top_k=40, seed=2)])
def test_a_request_gets_the_same_alone_and_among_others_in_any_row(own) -> None:
    (alone,) = generated([sequence(own)])
    others = [sequence(params, prompt=(i, 2, 5)) for i, params in enumerate(NEIGHBOURS)]
    rows = random.Random(0).sample(range(11), 8)
    together = generated([*others, sequence(own)], rows=rows)
    assert together[-1] == alone
    assert len({tuple(tokens) for tokens in together}) == 8


def test_draws_differ_by_seed_and_sample_and_come_again() -> None:
    def of(seed, sample):
        return generated([sequence(SamplingParams(temperature=1.0, seed=seed), sample=sample)])[0]

    texts = [of(1, 0), of(1, 1), of(2, 0)]
    assert len(set(map(tuple, texts))) == 3
    assert texts == [of(1, 0), of(1, 1), of(2, 0)]


def test_the_seed_that_was_drawn_gives_the_same_text_again() -> None:
    first = sequence(SamplingParams(temperature=1.0))
    (text,) = generated([first])
    assert first.params.seed is not None
    assert generated([sequence(first.params)]) == [text]
    assert sequence(SamplingParams()).params.seed is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_greedy_takes_the_first_of_equal_logits(dtype) -> None:
    logits = torch.randint(0, 4, (4, VOCABULARY), generator=torch.Generator().manual_seed(0)).to(dtype)
    before = logits.clone()
    chosen = choose([sequence(SamplingParams()), None, sequence(SamplingParams(suppress_tokens=[0])), None], logits)
    first = int((logits[0] == logits[0].max()).nonzero()[0])
    other = int((logits[2, 1:] == logits[2, 1:].max()).nonzero()[0]) + 1
    assert chosen == [Choice(first), None, Choice(other), None]
    assert torch.equal(logits, before)


def chi_square(params, logits, draws=20_000):
    """How far the frequencies of draws lie from the probabilities, and from how many tokens was drawn."""
    probabilities = torch.tensor(logits, dtype=torch.float64).div(params.temperature).softmax(-1)
    if params.top_k:
        probabilities[probabilities < probabilities.topk(params.top_k).values[-1]] = 0
    if params.top_p < 1:
        ranked = probabilities.sort(descending=True)
        probabilities[ranked.indices[(ranked.values.cumsum(-1) - ranked.values) >= params.top_p]] = 0
    probabilities /= probabilities.sum()
    rows = 500
    counts = torch.zeros(len(logits), dtype=torch.float64)
    given = torch.tensor([logits] * rows)
    slots = [sequence(params, sample=sample) for sample in range(rows)]
    for _ in range(draws // rows):
        tokens = [choice.token for choice in choose(slots, given) if isinstance(choice, Choice)]
        counts += torch.bincount(torch.tensor(tokens), minlength=len(logits))
        for slot in slots:
            slot.append(0)
    possible = probabilities > 0
    assert not counts[~possible].any()
    expected = probabilities[possible] * draws
    return float(((counts[possible] - expected) ** 2 / expected).sum()), int(possible.sum())


@pytest.mark.parametrize(
    ("params", "tokens", "limits"),
    [
        # The quantiles of 0.1 % and 99.9 % of chi-square with one degree of freedom less than there are tokens.
        (SamplingParams(temperature=1.0, seed=11), 10, (1.15, 27.88)),
        (SamplingParams(temperature=0.5, seed=12), 10, (1.15, 27.88)),
        (SamplingParams(temperature=1.0, top_k=6, seed=13), 6, (0.21, 20.52)),
        (SamplingParams(temperature=2.0, top_p=0.8, seed=14), 7, (0.38, 22.46)),
    ],
)
def test_draws_follow_the_distribution(params, tokens, limits) -> None:
    logits = [0.5, -1.0, 2.0, 0.0, 1.0, -0.5, 1.5, 0.25, -0.75, 0.75]
    statistic, possible = chi_square(params, logits)
    assert possible == tokens
    assert limits[0] < statistic < limits[1]


def test_a_draw_without_cuts_is_that_with_cuts_that_cut_nothing() -> None:
    logits = torch.randn(64, VOCABULARY, generator=torch.Generator().manual_seed(3))
    numbers = torch.rand(64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    plain = draw_tokens(logits, [SamplingParams(temperature=1.0)] * 64, numbers)
    assert plain == draw_tokens(logits, [SamplingParams(temperature=1.0, top_k=VOCABULARY)] * 64, numbers)
    assert len(set(plain)) > 32


def test_draws_hardly_depend_on_how_logits_are_rounded() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(1, 5000, generator=generator).expand(2000, -1)
    noise = 1 + (torch.rand(2000, 5000, generator=generator) - 0.5) * 2**-22
    numbers = torch.rand(2000, generator=generator, dtype=torch.float64)
    rows = [SamplingParams(temperature=1.0)] * 2000
    exact, rounded = draw_tokens(logits, rows, numbers), draw_tokens(logits * noise, rows, numbers)
    # A boundary between tokens moves by less than 2**-20, so that 2000 draws meet one with a chance below 0.2 %.
    assert exact == rounded


def fails(token_ids, logits):
    raise ValueError("not today")


def nan(token_ids, logits):
    return logits * math.nan


@pytest.mark.parametrize(
    ("params", "values", "words"),
    [
        (SamplingParams(logits_processors=[fails]), 0.0, "fails (.*raised ValueError"),
        (SamplingParams(logits_processors=[fails], temperature=1.0), 0.0, "raised ValueError"),
        (SamplingParams(logits_processors=[nan]), 0.0, "not finite .nan. after the rules"),
        (SamplingParams(suppress_tokens=range(VOCABULARY), temperature=1.0), 0.0, "leave no token"),
        (SamplingParams(), math.nan, "the model's logits are not finite .nan."),
        (SamplingParams(temperature=1.0, seed=1), math.inf, "the model's logits are not finite .inf."),
        (SamplingParams(top_p=0.5, seed=1), -math.inf, "the model's logits are not finite"),
    ],
)
def test_a_sequence_that_fails_leaves_the_others_alone(params, values, words) -> None:
    good = [sequence(SamplingParams(temperature=1.0, seed=5)), sequence(SamplingParams())]
    logits = torch.stack([logits_after([1]), torch.full((VOCABULARY,), values), logits_after([2])])
    first, failed, last = choose([good[0], sequence(params), good[1]], logits)
    assert isinstance(failed, RequestError)
    with pytest.raises(RequestError, match=words.replace("(", r"\(", 1) if words.startswith("fails") else words):
        raise failed
    assert [first, last] == choose(good, logits[[0, 2]])


@pytest.mark.parametrize("top_k", [VOCABULARY, 2**31, 2**63, 10**30])
def test_more_of_the_most_likely_tokens_than_there_are_are_all(top_k) -> None:
    logits = torch.stack([logits_after([1]), logits_after([2])])
    neighbour = sequence(SamplingParams(top_k=5, seed=1))
    all_tokens = sequence(SamplingParams(do_sample=True, seed=2))
    assert choose([neighbour, sequence(SamplingParams(top_k=top_k, seed=2))], logits) == choose(
        [neighbour, all_tokens], logits
    )


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(top_k=3, seed=1)])
def test_invalid_values_can_be_removed(params) -> None:
    logits = torch.full((1, VOCABULARY), -5.0)
    logits[0, 3], logits[0, 4] = math.inf, math.nan
    assert choose([sequence(params.changed(remove_invalid_values=True))], logits) == [Choice(3)]


def test_log_probabilities_are_of_the_models_own_distribution() -> None:
    logits = torch.stack([logits_after([1]), logits_after([2])])
    params = SamplingParams(temperature=0.5, top_k=5, logit_bias={7: 50.0}, logprobs=2, seed=3)
    plain, reporting = choose([sequence(SamplingParams()), sequence(params)], logits)
    assert isinstance(plain, Choice) and plain.logprobs is None
    assert isinstance(reporting, Choice) and reporting.logprobs is not None
    expected = logits[1].log_softmax(-1)
    assert reporting.token == reporting.logprobs.token_id == 7
    assert reporting.logprobs.logprob == float(expected[7])
    assert reporting.logprobs.top == tuple(zip(*(part.tolist() for part in reversed(expected.topk(2))), strict=True))


def test_penalties_follow_what_a_sequence_took_up() -> None:
    one = sequence(SamplingParams(frequency_penalty=2.0))
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 8], logits[0, 9] = 4.5, 1.0
    texts = []
    for _ in range(4):
        (choice,) = choose([one], logits)
        assert isinstance(choice, Choice)
        texts.append(choice.token)
        one.append(choice.token)
    assert texts == [8, 8, 9, 8]
    assert one.position == 4


class Operations(TorchDispatchMode):
    """Collects the names of the operations that torch runs, and of those over a whole vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.wide: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        if any(isinstance(one, torch.Tensor) and VOCABULARY in one.shape for one in args):
            self.wide.append(str(func))
        return func(*args, **(kwargs or {}))


def operations(params, rows, dtype=torch.float32):
    logits = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(0)).to(dtype)
    slots = [sequence(params, prompt=(1, row)) for row in range(rows)]
    with Operations() as seen:
        choose(slots, logits)
    return seen


def test_a_greedy_batch_costs_one_maximum() -> None:
    assert operations(SamplingParams(), 8, torch.bfloat16).wide == ["aten.max.dim"]
    # That of float32 on a CPU is numpy's: all that torch does is to hand the logits over.
    handing_over = {
        "aten.detach.default",
        "aten.to.dtype_layout",
        "aten.resolve_conj.default",
        "aten.resolve_neg.default",
    }
    assert {*operations(SamplingParams(), 8).wide} <= handing_over


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.8, seed=1),
        SamplingParams(temperature=0.8, top_k=20, top_p=0.9, seed=1),
        SamplingParams(min_p=0.1, seed=1, logprobs=None),
    ],
)
def test_a_batch_that_draws_costs_no_operation_for_each_row(params) -> None:
    assert len(operations(params, 3).names) == len(operations(params, 17).names)
