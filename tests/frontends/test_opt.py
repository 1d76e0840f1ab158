from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import OPTConfig, OPTForCausalLM

from compiler.errors import ConfigError
from compiler.frontends import Limits
from tests.frontends.models import check, logits_of, random_model, saved
from tests.frontends.steps import assert_same_logits, lift_folder


@st.composite
def configs(draw):
    heads = draw(st.integers(1, 3))
    hidden = heads * draw(st.sampled_from([4, 8]))
    return OPTConfig(
        vocab_size=31,
        hidden_size=hidden,
        num_attention_heads=heads,
        num_hidden_layers=draw(st.integers(1, 2)),
        ffn_dim=draw(st.sampled_from([8, 20])),
        max_position_embeddings=24,
        word_embed_proj_dim=draw(st.sampled_from([None, hidden, 10])),
        do_layer_norm_before=draw(st.booleans()),
        _remove_final_layer_norm=draw(st.booleans()),
        enable_bias=draw(st.booleans()),
        layer_norm_elementwise_affine=draw(st.booleans()),
        activation_function=draw(st.sampled_from(["relu", "gelu"])),
        tie_word_embeddings=draw(st.booleans()),
    )


@settings(max_examples=80, deadline=None, derandomize=True)
@given(configs(), st.integers(0, 2**31))
def test_random_models(config, seed):
    check(OPTForCausalLM, config, seed)


@pytest.mark.parametrize("prefix", ["decoder.", ""])
def test_names_without_the_whole_prefix(prefix):
    model = random_model(OPTForCausalLM, small_config(), seed=0)
    with saved(model) as folder:
        path = folder / "model.safetensors"
        save_file({name.replace("model.decoder.", prefix): t for name, t in load_file(path).items()}, path)
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=31, seed=0)


def test_a_copy_of_the_tied_head_is_skipped():
    model = random_model(OPTForCausalLM, small_config(), seed=0)
    with saved(model) as folder:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        save_file({**tensors, "lm_head.weight": tensors["model.decoder.embed_tokens.weight"].clone()}, path)
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=31, seed=0)


def test_no_more_tokens_than_learned_positions():
    with saved(random_model(OPTForCausalLM, small_config(), seed=0)) as folder:
        with pytest.raises(ConfigError) as error:
            lift_folder(folder, Limits(max_seq=25))
        assert error.value.message == "max_seq is 25, but the model has learned only 24 positions"
        longer = "longer sequences need a model with rotary or ALiBi positions"
        assert error.value.hint == f"use --max-seq 24 or less; {longer}"
        with pytest.raises(ConfigError) as error:
            lift_folder(folder, Limits(max_seq=30, max_input=26))
        assert error.value.hint == f"use --max-seq 24 and --max-input 24 or less; {longer}"


def small_config(**keys: Any) -> OPTConfig:
    sizes = {
        "vocab_size": 31,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "ffn_dim": 24,
        "max_position_embeddings": 24,
    }
    return OPTConfig(**(sizes | keys))
