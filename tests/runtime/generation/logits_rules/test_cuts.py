"""What cuts distributions, beside the warpers of transformers of the same names."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process

from runtime.generation.logits_rules.cuts import Temperature, cut, has_cuts, temperature
from runtime.generation.sampling_params import SamplingParams

NONE = torch.zeros(1, 1, dtype=torch.int64)


def logits_of(seed, vocabulary, rows=1, scale=3.0):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def kept(logits, rows):
    """The logits with -inf where tokens are cut; every row must come once."""
    result, seen = torch.full_like(logits, -math.inf), []
    for places, candidates in cut(logits, rows):
        assert bool(candidates.complete.all())
        seen += places
        result[places] = result[places].scatter(1, candidates.ids, candidates.logits)
    assert sorted(seen) == list(range(len(rows)))
    return result


def by_transformers(logits, warpers):
    for warper in warpers:
        logits = warper(NONE, logits)
    return logits


# Whole sizes: less and more tokens than are tried at first.
vocabularies = st.sampled_from([3, 40, 255, 256, 257, 700, 3000])
seeds = st.integers(0, 2**32)
# Sums of up to 3000 float32 numbers below 1 are off by at most this much, whatever their order.
ROUNDING = 3000 * 2**-24

# Of each parameter the warper, and whether more is kept the larger it is.
WARPERS = {
    "top_p": (logits_process.TopPLogitsWarper, True),
    "min_p": (logits_process.MinPLogitsWarper, False),
    "typical_p": (logits_process.TypicalLogitsWarper, True),
    "top_h": (logits_process.TopHLogitsWarper, True),
    "epsilon_cutoff": (logits_process.EpsilonLogitsWarper, False),
    "eta_cutoff": (logits_process.EtaLogitsWarper, False),
}


@pytest.mark.parametrize("name", WARPERS)
@given(seed=seeds, vocabulary=vocabularies, scale=st.sampled_from([0.1, 3.0]), value=st.floats(0.01, 0.98))
def test_a_cut_keeps_what_transformers_keeps(name, seed, vocabulary, scale, value) -> None:
    logits = logits_of(seed, vocabulary, scale=scale)
    got = kept(logits, [SamplingParams(**{name: value})])
    warper, grows = WARPERS[name]
    # A token whose probability lies within rounding of the boundary may be on either side of it.
    less, more = (value - ROUNDING, value + ROUNDING) if grows else (value + ROUNDING, value - ROUNDING)
    least, most = warper(less)(NONE, logits), warper(more)(NONE, logits)
    ours = ~got.isinf()
    assert bool((~least.isinf() <= ours).all())
    assert bool((ours <= ~most.isinf()).all())
    assert torch.equal(got[ours], logits[ours])


@given(seed=seeds, vocabulary=vocabularies, count=st.integers(1, 3000))
def test_top_k_keeps_equal_logits_together_as_transformers_does(seed, vocabulary, count) -> None:
    logits = logits_of(seed, vocabulary).round()
    expected = logits_process.TopKLogitsWarper(count)(NONE, logits)
    assert torch.equal(kept(logits, [SamplingParams(top_k=count)]), expected)


@pytest.mark.parametrize("fields", [{"top_p": 0.3}, {"top_p": 1e-6}, {"top_h": 0.2}])
def test_equal_logits_are_kept_together_whatever_the_device_sorts_first(fields) -> None:
    logits = torch.zeros(1, 700)
    logits[0, 350:] = -3.0
    assert kept(logits, [SamplingParams(**fields)]).isinf().tolist() == [[False] * 350 + [True] * 350]


@given(seed=seeds, vocabulary=vocabularies, forbidden=st.integers(0, 200))
def test_cuts_apply_one_after_another_as_in_transformers(seed, vocabulary, forbidden) -> None:
    logits = logits_of(seed, vocabulary)
    logits[0, : min(forbidden, vocabulary - 1)] = -math.inf
    fields: dict[str, Any] = {
        "top_k": 90,
        "top_p": 0.93,
        "min_p": 0.004,
        "typical_p": 0.9,
        "epsilon_cutoff": 0.004,
        "eta_cutoff": 0.02,
    }
    got = kept(logits, [SamplingParams(**fields)])
    expected = by_transformers(
        logits,
        [
            logits_process.TopKLogitsWarper(90),
            logits_process.TopPLogitsWarper(0.93),
            logits_process.MinPLogitsWarper(0.004),
            logits_process.TypicalLogitsWarper(0.9),
            logits_process.EpsilonLogitsWarper(0.004),
            logits_process.EtaLogitsWarper(0.02),
        ],
    )
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["typical_p", "eta_cutoff"])
def test_what_looks_at_the_whole_distribution_sees_it_whole(name) -> None:
    logits = logits_of(1, 3000, scale=0.5)
    value = {"typical_p": 0.3, "eta_cutoff": 0.1}[name]
    got = kept(logits, [SamplingParams.from_json({"top_p": 0.999, name: value})])
    expected = by_transformers(logits, [logits_process.TopPLogitsWarper(0.999), WARPERS[name][0](value)])
    # A token or two may lie within rounding of a boundary; of 256 tokens alone, most would be other ones.
    assert int((got.isinf() != expected.isinf()).sum()) <= 2
    assert 300 < int((~got.isinf()).sum()) < 2900


MIXED = [
    SamplingParams(top_p=0.9),
    SamplingParams(top_k=3),
    SamplingParams(top_k=400, min_p=0.001),
    SamplingParams(min_p=0.2),
    SamplingParams(typical_p=0.5),
    SamplingParams(top_h=0.5),
    SamplingParams(epsilon_cutoff=0.01),
    SamplingParams(eta_cutoff=0.01, top_p=0.99),
    SamplingParams(temperature=2.0),
]


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_a_row_is_cut_as_it_is_alone(scale) -> None:
    logits = logits_of(5, 4000, rows=len(MIXED), scale=scale)
    together = kept(logits, MIXED)
    for row, params in enumerate(MIXED):
        assert torch.equal(together[row], kept(logits[row : row + 1], [params])[0]), params
    assert not together[-1].isinf().any()


def test_temperature_divides_the_logits_of_each_row_by_its_own() -> None:
    logits = logits_of(3, 50, rows=3)
    rows = [SamplingParams(temperature=0.5), SamplingParams(top_k=3), SamplingParams(temperature=3.0)]
    rule = temperature(rows, logits.device)
    assert rule is not None
    for row, value in enumerate((0.5, 1.0, 3.0)):
        expected = logits_process.TemperatureLogitsWarper(value)(NONE, logits[row : row + 1])
        # Both differ by a constant; their differences to the largest are quotients of numbers below 64.
        torch.testing.assert_close(rule.apply(logits)[row], expected[0] - expected.max(), rtol=2**-20, atol=64 * 2**-22)
    assert temperature([SamplingParams(top_k=3), SamplingParams(temperature=1.0)], logits.device) is None


def test_the_smallest_temperature_leaves_the_most_likely_token() -> None:
    got = Temperature(torch.tensor([1e-300])).apply(torch.tensor([[1.0, 2.0, 2.0 - 2**-20]]))
    assert got.exp().tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.5}, {"top_k": 0, "top_p": 1.0, "seed": 3, "do_sample": True}])
def test_what_cuts_nothing_is_seen(fields) -> None:
    assert not has_cuts(SamplingParams(**fields))
    assert all(map(has_cuts, MIXED[:-1]))
