import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPTJConfig, GPTJForCausalLM

from compiler.errors import ConfigError
from tests.frontends.models import check, logits_of, random_model, saved
from tests.frontends.steps import assert_same_logits, edit_config, lift_folder


@st.composite
def configs(draw):
    heads = draw(st.integers(1, 3))
    head_dim = draw(st.sampled_from([4, 8, 12]))
    return GPTJConfig(
        vocab_size=31,
        n_embd=heads * head_dim,
        n_head=heads,
        n_layer=draw(st.integers(1, 2)),
        n_positions=32,
        n_inner=draw(st.sampled_from([None, 20])),
        rotary_dim=draw(st.sampled_from([2, 4, head_dim])),
        activation_function=draw(st.sampled_from(["gelu_new", "gelu", "relu", "silu"])),
        layer_norm_epsilon=draw(st.sampled_from([1e-5, 1e-2])),
        tie_word_embeddings=draw(st.booleans()),
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(configs(), st.integers(0, 2**31))
def test_random_models(config, seed):
    check(GPTJForCausalLM, config, seed)


def test_rotary_dim_null_means_all_dims():
    model = random_model(GPTJForCausalLM, small_config(rotary_dim=8), seed=0)
    with saved(model) as folder:
        edit_config(folder, rotary_dim=None)
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=31, seed=0)


def test_names_of_other_families_mean_the_same():
    model = random_model(GPTJForCausalLM, small_config(), seed=0)
    with saved(model) as folder:
        names = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({names.get(key, key): v for key, v in config.items()}))
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=31, seed=0)


def test_buffers_of_old_checkpoints_are_skipped(tmp_path):
    model = random_model(GPTJForCausalLM, small_config(), seed=0)
    with saved(model) as folder:
        (folder / "model.safetensors").unlink()
        buffers = {
            "transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32, dtype=torch.uint8),
            "transformer.h.0.attn.masked_bias": torch.tensor(-1e9),
        }
        torch.save({**model.state_dict(), **buffers}, folder / "pytorch_model.bin")
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=31, seed=0)


@pytest.mark.parametrize("rotary_dim", [3, 10])
def test_rotary_dim_must_fit(tmp_path, rotary_dim):
    random_model(GPTJForCausalLM, small_config(), seed=0).save_pretrained(tmp_path)
    edit_config(tmp_path, rotary_dim=rotary_dim)
    with pytest.raises(ConfigError) as error:
        lift_folder(tmp_path)
    assert error.value.message == (
        f"the config key 'rotary_dim' is {rotary_dim}; it must be even and at most the head's 8 dims"
    )


def small_config(**keys: Any) -> GPTJConfig:
    sizes = {
        "vocab_size": 31,
        "n_embd": 16,
        "n_head": 2,
        "n_layer": 1,
        "n_positions": 32,
        "rotary_dim": 4,
    }
    return GPTJConfig(**(sizes | keys))
