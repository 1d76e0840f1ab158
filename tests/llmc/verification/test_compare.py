"""Comparing logits and tokens with a reference."""

import math

import pytest
import torch
from torch import tensor

import llmc
from compiler.ir import chunks
from compiler.ir.mesh import mesh_of, rank_graph
from compiler.ir.virtual_ranks import VirtualRanks
from llmc.verification.compare import Reference, compare
from llmc.verification.test_cases import Recorder, TestCase
from llmc.verification.tolerance import logits_tolerance
from runtime.generation.requests import Request
from tests.paths import MODELS

INF, NAN = math.inf, math.nan


class Fixed(Reference):
    """A reference whose logits are given."""

    def __init__(self, logits, noise=0.0):
        self.given, self.noise = tensor(logits), noise

    def rounding(self, prompt, tokens):
        return self.noise

    def logits(self, prompt, tokens):
        return self.given[: len(tokens)]


def run_of(engine, reference, tolerance, noise=None):
    recorder = Recorder()
    for logits in engine:
        recorder.choose(tensor([logits]), [0])
    test_case = TestCase("alone", (7,), (Request((1, 2), len(engine)),), 1)
    own = None if noise is None else Fixed(reference, noise)
    [run] = compare(test_case, recorder, Fixed(reference), tolerance, own)
    return run


def test_a_token_that_the_reference_likes_as_well_is_a_tie():
    run = run_of([[0.0, 1.0, 1.001]], [[0.0, 1.001, 1.0]], tolerance=0.01)
    [difference] = run.differences
    assert (difference.step, difference.token, difference.reference, difference.tie) == (0, 2, 1, True)
    assert difference.gap == pytest.approx(0.001 / math.sqrt(2 / 3), rel=0.01)
    assert (run.prompt, run.prompt_tokens, run.equal, run.failures) == (7, 2, 0, ())
    assert run.first_bad_step is None


def test_the_gap_is_to_the_token_chosen_not_to_the_second_best():
    run = run_of([[0.0, 1.0, 2.0]], [[1.0, 0.999, 0.0]], tolerance=0.01)
    assert [difference.tie for difference in run.differences] == [False]


def test_the_first_bad_step_is_where_tokens_or_logits_are_off():
    right, wrong = [0.0, 1.0], [0.0, 1.5]
    assert run_of([right, wrong, right], [right] * 3, 0.1).first_bad_step == 1
    assert run_of([right, right, [1.0, 0.9]], [right] * 3, 0.9).first_bad_step == 2


def test_logits_that_are_no_numbers_are_recorded_and_fail():
    run = run_of([[NAN, 1.0]], [[0.0, 1.0]], tolerance=0.1)
    assert run.error == INF
    assert run.first_bad_step == 0


def test_quantized_activations_allow_for_their_rounding():
    right, other = [4.0, 4.1, 0.0, 0.0], [4.1, 4.0, 0.0, 0.0]
    assert run_of([other], [right], tolerance=0.01).is_off
    run = run_of([other], [right], tolerance=0.01, noise=0.05)
    assert (run.tolerance, run.is_off, run.failures) == (0.05, False, ())
    [difference] = run.differences
    assert run.error < difference.gap < 3 * math.sqrt(2) * run.error  # the error of both logits


def test_a_difference_that_the_errors_of_a_step_do_not_make_is_no_tie():
    """A sampler that takes another token than its logits say: those are right and explain nothing."""
    right = [4.0, 4.1, 0.0, 0.0]
    recorder = Recorder({0: [tensor(right)]}, {0: [0]})
    test_case = TestCase("alone", (1,), (Request((1, 2), 1),), 1)
    [run] = compare(test_case, recorder, Fixed([right]), 0.01, Fixed([right], 0.5))
    assert [difference.tie for difference in run.differences] == [False]


@pytest.mark.parametrize(("dtype", "low", "high"), [("float32", 5e-5, 5e-4), ("float16", 8e-3, 4e-2)])
def test_tolerances_grow_with_depth_and_coarseness(dtype, low, high):
    assert low < logits_tolerance(dtype, 4) < logits_tolerance(dtype, 32) < high
    assert logits_tolerance("bfloat16", 4) == pytest.approx(8 * logits_tolerance("float16", 4))
    assert torch.finfo(torch.float16).eps < logits_tolerance("float16", 1)


@pytest.mark.parametrize(("model", "passes"), [("gptneox-tiny", "cleanup"), ("mpt-tiny", "tp=2,pp=2,cleanup")])
def test_a_long_text_is_interpreted_in_chunks(monkeypatch, model, passes):
    graph = llmc.optimize(llmc.lift(MODELS / model, max_batch=1, max_seq=64), f"dtype=float32,{passes}").graph
    graphs = [rank_graph(graph, rank) for rank in range(mesh_of(graph).size)]
    prompt, tokens = list(range(1, 41)), [5, 6, 7, 8]
    whole = Reference(*graphs).logits(prompt, tokens)
    steps = []
    call = VirtualRanks.__call__

    def counted(self, inputs, states):
        steps.append(inputs["token_ids"].shape[1])
        return call(self, inputs, states)

    monkeypatch.setattr(VirtualRanks, "__call__", counted)
    monkeypatch.setattr(chunks, "BUDGET", 43 * 4 * 10)
    cut = Reference(*graphs).logits(prompt, tokens)
    assert sum(steps) == 43
    assert len(steps) > 1
    assert cut.shape == (4, 1024)
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=2e-4)
