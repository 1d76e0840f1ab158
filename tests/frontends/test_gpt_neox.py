import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from compiler.errors import ConfigError
from compiler.frontends.activations import ACTIVATIONS
from compiler.ir.printer import print_graph
from tests.frontends.models import check, logits_of, neox_config, random_model, saved
from tests.frontends.steps import assert_same_logits, edit_config, lift_folder


@st.composite
def configs(draw):
    heads = draw(st.integers(1, 3))
    rope = {
        "rope_theta": draw(st.sampled_from([10000.0, 500.0])),
        # Of these head sizes a quarter can be odd: transformers then rotates one dim more.
        "partial_rotary_factor": draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    }
    return GPTNeoXConfig(
        vocab_size=31,
        hidden_size=heads * draw(st.sampled_from([4, 8, 12])),
        num_attention_heads=heads,
        num_hidden_layers=draw(st.integers(1, 2)),
        intermediate_size=draw(st.sampled_from([8, 20])),
        hidden_act=draw(st.sampled_from(sorted(ACTIVATIONS))),
        max_position_embeddings=32,
        layer_norm_eps=draw(st.sampled_from([1e-5, 1e-2])),
        use_parallel_residual=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        rope_parameters={"rope_type": "default", **rope},
    )


@settings(max_examples=80, deadline=None, derandomize=True)
@given(configs(), st.integers(0, 2**31))
def test_random_models(config, seed):
    check(GPTNeoXForCausalLM, config, seed)


SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.5},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 16},
    "yarn, all keys": {
        "factor": 2.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 8.0,
        "beta_slow": 0.5,
        "mscale": 0.7,
        "mscale_all_dim": 0.4,
        "truncate": False,
    },
    "yarn, attention_factor": {"factor": 2.0, "attention_factor": 1.3},
    "yarn, factor null": {"factor": None, "original_max_position_embeddings": 12},
    "proportional": {"factor": 1.5},
}


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_rotary_positions(scaling):
    kind = scaling.partition(",")[0]
    rope = {"rope_type": kind, "rope_theta": 1000.0, "partial_rotary_factor": 0.5, **SCALINGS[scaling]}
    check(GPTNeoXForCausalLM, neox_config(rope_parameters=rope, max_position_embeddings=32), seed=3)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_positions_that_depend_on_the_length_are_rejected(tmp_path, kind):
    random_model(GPTNeoXForCausalLM, neox_config(), seed=0).save_pretrained(tmp_path)
    edit_config(tmp_path, ["rope_parameters"], rope_scaling={"type": kind, "factor": 2.0})
    with pytest.raises(ConfigError) as error:
        lift_folder(tmp_path)
    assert error.value.message == (
        f"the config key 'rope_scaling.rope_type' is '{kind}', which is not supported; "
        "supported: 'default', 'linear', 'llama3', 'proportional', 'yarn'"
    )


def test_old_spellings_mean_the_same(tmp_path):
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0, "partial_rotary_factor": 0.5}
    random_model(GPTNeoXForCausalLM, neox_config(rope_parameters=rope), seed=0).save_pretrained(tmp_path)
    new = print_graph(lift_folder(tmp_path))
    edit_config(
        tmp_path,
        ["rope_parameters", "dtype"],
        rotary_pct=0.5,
        rotary_emb_base=5000,
        rope_scaling={"type": "linear", "factor": 2.0},
        torch_dtype="float32",
    )
    assert print_graph(lift_folder(tmp_path)) == new


def test_defaults_of_absent_keys(tmp_path):
    model = random_model(GPTNeoXForCausalLM, neox_config(), seed=1)
    model.save_pretrained(tmp_path)
    required = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({key: config[key] for key in required | {"model_type"}}))
    assert_same_logits(lift_folder(tmp_path), logits_of(model), vocab=31, seed=1)


def test_head_as_older_versions_spell_it():
    from safetensors.torch import load_file, save_file

    model = random_model(GPTNeoXForCausalLM, neox_config(), seed=2)
    with saved(model) as folder:
        tensors = load_file(folder / "model.safetensors")
        other = {"lm_head.weight": "embed_out.weight", "embed_out.weight": "lm_head.weight"}
        save_file({other.get(name, name): t for name, t in tensors.items()}, folder / "model.safetensors")
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=31, seed=2)
