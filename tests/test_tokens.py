"""Compiled engines against transformers in float32: 64 prompts, 48 new tokens each, token for token."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmc
from benchmarks.prompts import prompts
from compiler.ir.step import Step, all_positions
from runtime.executors.torch.executor import TorchExecutor
from tests.paths import MODELS

NEW_TOKENS = 48


@pytest.fixture(scope="module", params=["gptneox-tiny", "gptj-tiny", "opt-tiny", "mpt-tiny"])
def compiled(request, tmp_path_factory):
    """The checkpoint's folder, transformers' model of it, and an engine."""
    folder = MODELS / request.param
    engine = llmc.compile(folder, tmp_path_factory.mktemp("engines") / "engine", dtype="float32", max_batch=8)
    return folder, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), llmc.load(engine.path)


@torch.inference_mode()
def follows_greedily(model, prompt, tokens):
    """Whether each token is what transformers ranks first after those before it: greedy generation, by induction."""
    logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return logits.argmax(-1).tolist() == list(tokens)


def test_ragged_batches_and_single_prompts_give_the_tokens_of_transformers(compiled):
    folder, model, engine = compiled
    tokenizer = AutoTokenizer.from_pretrained(folder)
    together = engine.generate(prompts(), max_new_tokens=NEW_TOKENS)
    assert len(together) == 64
    assert [list(c.prompt_ids) for c in together] == [tokenizer(text).input_ids for text in prompts()]
    for completion in together:
        assert follows_greedily(model, completion.prompt_ids, completion.token_ids), completion.prompt
        ended = completion.token_ids[-1] == tokenizer.eos_token_id
        assert completion.finish_reason == ("stop" if ended else "length")
        assert ended or len(completion.token_ids) == NEW_TOKENS
    for text, completion in list(zip(prompts(), together, strict=True))[::4]:
        assert engine.generate([text], max_new_tokens=NEW_TOKENS)[0].token_ids == completion.token_ids


def test_generate_of_transformers_says_the_same(compiled):
    folder, model, engine = compiled
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in prompts()[:6]:
        ids = tokenizer(text, return_tensors="pt").input_ids
        expected = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids.shape[1] :].tolist()
        completion = engine.generate([text], max_new_tokens=NEW_TOKENS)[0]
        assert list(completion.token_ids) == expected
        everything = [*completion.prompt_ids, *expected]
        assert completion.prompt + completion.text == tokenizer.decode(everything, skip_special_tokens=True)


def test_float32_logits_are_within_1e_4_of_float64(compiled):
    folder, _, engine = compiled
    executor = TorchExecutor.load(engine.path / "rank0.ir", device="cpu")
    ids = torch.randint(1, 1000, (1, 300), generator=torch.Generator().manual_seed(0))
    step = Step.prefill(ids.int(), logit_pos=all_positions(1, 300))
    found = executor.open(1, 300).step(step).double()
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)(ids).logits
    assert (found - expected).norm() / expected.norm() < 1e-4
    assert ((found - expected).abs().amax(-1) / expected.abs().amax(-1)).max() < 1e-4
