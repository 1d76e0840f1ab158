"""Log-probabilities of tokens."""

import pytest
import torch

from runtime.generation.log_probabilities import prompt_logprobs, token_logprobs


def logits(rows, vocabulary=50):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(rows)) * 3


@pytest.mark.parametrize("rows", [1, 3, 130])
def test_they_are_those_of_a_log_softmax_in_float32(rows) -> None:
    given = logits(rows).to(torch.bfloat16)
    expected = given.float().log_softmax(-1)
    tokens = [row % 50 for row in range(rows)]
    tops = [row % 4 for row in range(rows)]
    for row, found in enumerate(token_logprobs(given, tokens, tops)):
        assert found.token_id == tokens[row]
        assert found.logprob == float(expected[row, tokens[row]])
        ranked = sorted(((i, float(value)) for i, value in enumerate(expected[row])), key=lambda one: (-one[1], one[0]))
        assert found.top == tuple(ranked[: tops[row]])


def test_equally_likely_tokens_come_by_their_ids() -> None:
    given = torch.zeros(1, 9)
    given[0, 7] = 1.0
    (found,) = token_logprobs(given, [0], [4])
    assert [token for token, _ in found.top] == [7, 0, 1, 2]


def test_no_more_than_the_vocabulary_are_given() -> None:
    (found,) = token_logprobs(logits(1), [3], [1000])
    assert sorted(token for token, _ in found.top) == list(range(50))


def test_a_prompts_tokens_follow_the_row_before() -> None:
    given = logits(5)
    prompt = [4, 8, 15, 16, 23]
    found = prompt_logprobs(given, prompt, 2)
    assert found[0] is None
    assert found[1:] == token_logprobs(given[:4], prompt[1:], [2] * 4)
    assert prompt_logprobs(given[:4], prompt, 2) == found
    assert prompt_logprobs(given[:1], [3], 2) == [None]


def test_json_names_what_it_holds() -> None:
    (found,) = token_logprobs(torch.tensor([[0.0, 0.0]]), [1], [1])
    half = -0.6931471824645996
    assert found.to_json() == {"token_id": 1, "logprob": half, "top": [{"token_id": 0, "logprob": half}]}
