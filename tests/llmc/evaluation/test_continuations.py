"""Log-probabilities of continuations, against the logits of all tokens."""

import pytest
import torch

import llmc
from compiler.errors import RequestError
from compiler.ir.step import Step
from llmc.evaluation import continuations
from llmc.evaluation.continuations import Continuation, score_continuations
from tests.paths import MODELS

CASES = [
    Continuation([5, 6, 7], [8]),
    Continuation([5, 6, 7], [9, 10]),
    Continuation([40], list(range(41, 60))),
    Continuation(list(range(100, 140)), [3, 3, 3]),
    Continuation([5, 6], [7, 12]),  # what goes in is that of the first case
    Continuation([300, 301], [302]),
]


@pytest.fixture(scope="module")
def engine(whole_context):
    return llmc.load(whole_context, executor="torch", device="cpu")


def expected(engine, context, tokens):
    logits = engine.logits([*context, *tokens][:-1])[-len(tokens) :].double()
    wanted = torch.tensor(tokens)
    return logits.log_softmax(-1).gather(1, wanted[:, None]).sum().item(), bool((logits.argmax(-1) == wanted).all())


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_scores_are_those_of_the_models_logits(engine, batch):
    seen = {}
    found = score_continuations(engine, CASES, batch=batch, scored=lambda number, score: seen.update({number: score}))
    assert [seen[number] for number in range(len(CASES))] == found
    for case, score in zip(CASES, found, strict=True):
        logprob, greedy = expected(engine, *case)
        assert score.logprob == pytest.approx(logprob, abs=1e-4)
        assert score.greedy == greedy


def test_the_most_likely_continuation_is_greedy(engine):
    context = [40, 41, 42]
    own = engine.generate([context], max_new_tokens=3, ignore_eos=True)[0].token_ids
    right, wrong = score_continuations(engine, [Continuation(context, own), Continuation(context, [*own[:2], 7])])
    assert right.greedy
    assert not wrong.greedy
    assert right.logprob > wrong.logprob


def test_what_goes_in_is_computed_once_and_logits_have_a_limit(engine, monkeypatch):
    steps: list[Step] = []
    session = engine.executor.open(4, 64)
    monkeypatch.setattr(type(session), "step", watched(type(session).step, steps))
    wanted = score_continuations(engine, CASES)
    assert sum(int((step.new_len > 0).sum()) for step in steps) == len(CASES) - 1
    assert max(step.wanted for step in steps) == 19  # of the longest continuation, not of the longest prompt
    monkeypatch.setattr(continuations, "_MOST_LOGITS", 4 * 1024)
    steps.clear()
    for small, large in zip(score_continuations(engine, CASES), wanted, strict=True):
        assert small.logprob == pytest.approx(large.logprob, abs=1e-4)
    assert all(int((step.new_len > 0).sum()) == 1 or step.wanted <= 2 for step in steps)


def watched(step, steps):
    def run(self, given, *rest):
        steps.append(given)
        return step(self, given, *rest)

    return run


def test_the_beginning_of_what_is_too_long_is_left_out(engine):
    context, tokens = [i % 1000 for i in range(700)], [5, 6]
    (score,) = score_continuations(engine, [Continuation(context, tokens)])
    assert score.logprob == pytest.approx(expected(engine, context[-511:], tokens)[0], abs=1e-3)
    (shorter,) = score_continuations(engine, [Continuation(context, tokens)], longest=20)
    assert shorter.logprob == pytest.approx(expected(engine, context[-19:], tokens)[0], abs=1e-4)


def test_paged_caches_score_alike(engine, tmp_path):
    paged = llmc.compile(MODELS / "gptneox-tiny", tmp_path / "e", dtype="float32", passes="cache=paged", max_batch=4)
    loaded = llmc.load(paged.path, executor="torch", device="cpu")
    for one, other in zip(score_continuations(engine, CASES), score_continuations(loaded, CASES), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert one.greedy == other.greedy


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Continuation([1], []), "continuation 1 has no tokens"),
        (Continuation([], [1]), "continuation 1 has no context"),
        (Continuation([1], [1024]), "continuation 1 holds the token id 1024; the model's ids are 0 to 1023"),
        (Continuation([1], [1] * 513), "continuation 1 has 513 tokens; the engine takes at most 512"),
    ],
)
def test_what_cannot_be_scored_is_named(engine, case, message):
    with pytest.raises(RequestError, match=message):
        score_continuations(engine, [case])
    assert score_continuations(engine, []) == []
