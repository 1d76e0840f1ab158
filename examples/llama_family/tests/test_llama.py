"""Llama's frontend, compared with transformers in float64: every variant, and what is refused."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from compiler.errors import ConfigError
from examples.llama_family.tests.small import llama_config
from tests.frontends.models import check, logits_of, random_model, saved
from tests.frontends.steps import assert_same_logits, edit_config, lift_folder

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
ROPES = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {"factor": 8.0, **LLAMA3},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
}


def rope(kind, base=10000.0):
    return {"rope_type": kind, "rope_theta": base, **ROPES[kind]}


@st.composite
def configs(draw):
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    heads = kv_heads * draw(st.integers(1, 3))
    return llama_config(
        hidden_size=4 * heads,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=draw(st.sampled_from([None, 4, 6])),
        intermediate_size=draw(st.sampled_from([12, 20])),
        num_hidden_layers=draw(st.integers(1, 2)),
        hidden_act=draw(st.sampled_from(["silu", "gelu", "relu"])),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-2])),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        rope_parameters=rope(draw(st.sampled_from(sorted(ROPES))), draw(st.sampled_from([100.0, 500000.0]))),
    )


@settings(max_examples=25)
@given(configs(), st.integers(0, 2**31))
def test_random_models(config, seed):
    check(LlamaForCausalLM, config, seed)


@pytest.mark.parametrize("kind", ROPES)
def test_keys_of_older_configs_mean_the_same(kind):
    model = random_model(LlamaForCausalLM, llama_config(rope_parameters=rope(kind, 500.0)), seed=0)
    scaling = {"type": kind, **ROPES[kind]} if kind != "default" else None
    with saved(model) as folder:
        edit_config(folder, drop=["rope_parameters"], rope_theta=500.0, rope_scaling=scaling)
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=31, seed=0)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_change_with_the_length_are_refused(kind):
    with saved(random_model(LlamaForCausalLM, llama_config(), seed=0)) as folder:
        edit_config(folder, rope_parameters={"rope_type": kind, "factor": 2.0, "rope_theta": 100.0})
        with pytest.raises(ConfigError) as error:
            lift_folder(folder)
    assert error.value.message == (
        f"the config key 'rope_parameters.rope_type' is '{kind}', which is not supported; "
        "supported: 'default', 'linear', 'llama3', 'proportional', 'yarn'"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_key_value_heads", 3, "3 key heads do not divide the model's 4 query heads"),
        ("head_dim", 7, "the config key 'head_dim' is 7; it must be even: dims rotate in pairs"),
        ("hidden_act", "snake", "the config key 'hidden_act' is 'snake', which is not supported"),
        ("partial_rotary_factor", 0.5, "the config key 'partial_rotary_factor' is 0.5, which is not supported"),
    ],
)
def test_what_the_model_cannot_be_is_refused_by_its_key(key, value, message):
    with saved(random_model(LlamaForCausalLM, llama_config(), seed=0)) as folder:
        edit_config(folder, **{key: value})
        with pytest.raises(ConfigError, match=re.escape(message)):
            lift_folder(folder)


def test_stored_frequencies_of_old_checkpoints_are_compared_with_the_config():
    model = random_model(LlamaForCausalLM, llama_config(), seed=0)
    with saved(model) as folder:
        tensors = load_file(folder / "model.safetensors")
        frequencies = 1 / 10000.0 ** (torch.arange(0, 8, 2) / 8)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = frequencies
        save_file(tensors, folder / "model.safetensors")
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=31, seed=0)


def test_a_head_that_is_stored_is_used_although_the_config_ties_it():
    model = random_model(LlamaForCausalLM, llama_config(), seed=0)
    with saved(model) as folder:
        edit_config(folder, tie_word_embeddings=True)
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=31, seed=0)
