import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import MptConfig, MptForCausalLM

from compiler.errors import CheckpointError, ConfigError
from compiler.ir.printer import print_graph
from tests.frontends.models import check, random_model, randomize
from tests.frontends.mpt_reference import mpt_logits, mpt_shapes
from tests.frontends.steps import assert_same_logits, edit_config, lift_folder

SIZES = {"vocab_size": 31, "d_model": 16, "n_heads": 2, "n_layers": 1, "max_seq_len": 32, "model_type": "mpt"}


@st.composite
def shared_configs(draw):
    """Configs in which transformers honours every key."""
    heads = draw(st.integers(1, 5))
    return MptConfig(
        vocab_size=31,
        d_model=heads * draw(st.sampled_from([4, 8])),
        n_heads=heads,
        n_layers=draw(st.integers(1, 2)),
        max_seq_len=32,
        layer_norm_epsilon=draw(st.sampled_from([1e-5, 1e-2])),
        tie_word_embeddings=draw(st.booleans()),
        attn_config={
            "clip_qkv": draw(st.sampled_from([None, 0.5])),
            "softmax_scale": draw(st.sampled_from([None, 0.3])),
        },
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shared_configs(), st.integers(0, 2**31))
def test_random_models_of_transformers(config, seed):
    check(MptForCausalLM, config, seed)


def test_the_reference_agrees_with_transformers():
    config = MptConfig(vocab_size=31, d_model=24, n_heads=3, n_layers=2, max_seq_len=32, attn_config={"clip_qkv": 0.5})
    model = random_model(MptForCausalLM, config, seed=5).double()
    row = torch.randint(31, (1, 13))
    with torch.no_grad():
        expected = model(row, use_cache=False).logits[0]
    found = mpt_logits(config.to_dict(), model.state_dict(), row[0].tolist())
    assert torch.allclose(found, expected, atol=1e-5)  # transformers has a float32 softmax


@st.composite
def foundry_configs(draw):
    """Configs of llm-foundry, most of whose keys transformers ignores."""
    heads = draw(st.sampled_from([1, 2, 3, 4, 6]))
    width = draw(st.sampled_from([4, 8]))
    layers = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["multihead_attention", "multiquery_attention", "grouped_query_attention"]))
    attn = {
        "attn_type": kind,
        "alibi": draw(st.booleans()),
        "alibi_bias_max": draw(st.sampled_from([8, 4])),
        "rope": draw(st.booleans()),
        "rope_theta": draw(st.sampled_from([10000, 300.0])),
        "rope_impl": draw(st.sampled_from(["hf", "dail"])),
        "rope_hf_config": draw(
            st.sampled_from([{"type": "no_scaling", "factor": 1.0}, {"type": "linear", "factor": 3.0}])
        ),
        "fused_qkv": draw(st.booleans()),
        **draw(st.sampled_from([{}, {"clip_qkv": 0.5}])),
        **draw(st.sampled_from([{}, {"qk_ln": True}, {"qk_gn": True}, {"qk_ln": True, "norm_type": "rmsnorm"}])),
        **draw(st.sampled_from([{}, {"sliding_window_size": 3}])),
        **draw(st.sampled_from([{}, {"softmax_scale": 0.3}])),
        **draw(st.sampled_from([{}, {"attn_logit_softcapping": 2.0}])),
    }
    if kind == "grouped_query_attention":
        attn["kv_n_heads"] = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    ffn = {
        "ffn_type": draw(st.sampled_from(["mptmlp", "mptglu"])),
        **draw(st.sampled_from([{}, {"ffn_hidden_size": 10}])),
        **draw(
            st.sampled_from(
                [{}, {"ffn_act_fn": {"name": "silu"}}, {"ffn_act_fn": {"name": "gelu", "approximate": "tanh"}}]
            )
        ),
    }
    return {
        **SIZES,
        "architectures": ["MPTForCausalLM"],
        "d_model": heads * width,
        "n_heads": heads,
        "n_layers": layers,
        "attn_config": attn,
        "ffn_config": ffn,
        "expansion_ratio": draw(st.sampled_from([1, 1.5, 4])),
        "no_bias": draw(st.booleans()),
        "learned_pos_emb": draw(st.booleans()),
        "norm_type": draw(
            st.sampled_from(["layernorm", "low_precision_layernorm", "rmsnorm", "low_precision_rmsnorm"])
        ),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-2])),
        "tie_word_embeddings": draw(st.booleans()),
        **draw(st.sampled_from([{}, {"logit_scale": 0.3}, {"logit_scale": "inv_sqrt_d_model"}])),
        **draw(st.sampled_from([{}, {"final_logit_softcapping": 2.0}])),
        **draw(st.sampled_from([{}, {"head_dim": 6}])),
    }


@settings(max_examples=200, deadline=None, derandomize=True)
@given(foundry_configs(), st.integers(0, 2**31))
def test_random_models_of_llm_foundry(config, seed):
    check_foundry(config, seed)


def test_layers_that_differ():
    order = ["default", "near", "near_reuse", "near_reuse", "reuse", "no_positions"]
    overrides = {
        "near": {"attn_config": {"sliding_window_size": 2}},
        "near_reuse": {"attn_config": {"sliding_window_size": 3, "reuse_kv_layer_idx": -1}},
        "reuse": {"attn_config": {"reuse_kv_layer_idx": -4}},
        "no_positions": {"attn_config": {"nope": True}},
    }
    config = {
        **SIZES,
        "n_layers": len(order),
        "no_bias": True,
        "attn_config": {"alibi": False, "rope": True, "qk_ln": True},
        "block_overrides": {"order": [{"name": name} for name in order], "overrides": overrides},
    }
    with tempfile.TemporaryDirectory() as name:
        weights = write_foundry(Path(name), config, seed=1)
        graph = lift_folder(Path(name))
        assert sorted(graph.states()) == [f"cache.{i}.{which}" for i in (0, 1, 5) for which in "kv"]
        assert_same_logits(graph, lambda row: mpt_logits(config, weights, row), vocab=31, seed=1)
        nested = [
            {"name": "default"},
            {"order": [{"name": "near"}, {"name": "near_reuse", "repeat": 2}], "repeat": 1},
            {"name": "reuse"},
            {"name": "no_positions"},
        ]
        edit_config(Path(name), block_overrides={"order": nested, "overrides": overrides})
        assert print_graph(lift_folder(Path(name))) == print_graph(graph)


@pytest.mark.parametrize("architectures", [["MPTForCausalLM"], ["MptForCausalLM"], None])
def test_defaults_depend_on_the_spelling_of_the_class(tmp_path, architectures):
    """A key that is absent has llm-foundry's default under its spelling, else that of transformers."""
    foundry = architectures == ["MPTForCausalLM"]
    config = {**SIZES, "no_bias": not foundry, "attn_config": {"alibi": not foundry}}
    weights = write_foundry(tmp_path, config, seed=2)
    edit_config(tmp_path, ["no_bias", "attn_config"], architectures=architectures)
    assert_same_logits(lift_folder(tmp_path), lambda row: mpt_logits(config, weights, row), vocab=31, seed=2)


def test_modules_fused_with_their_norms(tmp_path):
    config = {**SIZES, "no_bias": True, "attn_config": {"alibi": True}}
    weights = write_foundry(tmp_path, config, seed=3)
    moved = {
        name.replace("blocks.0.", "blocks.0." if ".ffn." in name else "blocks.0.norm_attn_norm."): tensor
        for name, tensor in weights.items()
    }
    save_file(moved, tmp_path / "model.safetensors")
    edit_config(tmp_path, fuse_norm_attn_norm=True)
    assert_same_logits(lift_folder(tmp_path), lambda row: mpt_logits(config, weights, row), vocab=31, seed=3)


REJECTED: dict[str, tuple[dict[str, Any], str]] = {
    "prefix_lm": (
        {"attn_config": {"prefix_lm": True}},
        "the config key 'attn_config.prefix_lm' is true, which is not supported; supported: false",
    ),
    "attn_type": (
        {"attn_config": {"attn_type": "linear"}},
        (
            "the config key 'attn_config.attn_type' is 'linear', which is not supported; "
            "supported: 'multihead_attention', 'multiquery_attention', 'grouped_query_attention'"
        ),
    ),
    "kv_n_heads": (
        {"n_heads": 4, "attn_config": {"attn_type": "grouped_query_attention", "kv_n_heads": 3}},
        "the config key 'attn_config.kv_n_heads' is 3; it must divide 'n_heads', which is 4",
    ),
    "no kv_n_heads": (
        {"attn_config": {"attn_type": "grouped_query_attention"}},
        "the config key 'attn_config.kv_n_heads' is missing; grouped_query_attention needs it",
    ),
    "ffn_type": (
        {"ffn_config": {"ffn_type": "mb_dmoe"}},
        "the config key 'ffn_config.ffn_type' is 'mb_dmoe', which is not supported; supported: 'mptmlp', 'mptglu'",
    ),
    "norm_type": (
        {"norm_type": "batchnorm"},
        (
            "the config key 'norm_type' is 'batchnorm', which is not supported; supported: 'layernorm', "
            "'low_precision_layernorm', 'low_precision_rmsnorm', 'rmsnorm', 'triton_rmsnorm'"
        ),
    ),
    "logit_scale": (
        {"logit_scale": "sqrt"},
        "the config key 'logit_scale' is 'sqrt', which is not supported; supported: 'inv_sqrt_d_model'",
    ),
    "expansion_ratio": (
        {"expansion_ratio": 1.3},
        "the config key 'expansion_ratio' is 1.3; d_model * expansion_ratio is 20.8; it must be a whole number",
    ),
    "xpos": (
        {"attn_config": {"rope": True, "rope_dail_config": {"type": "xpos"}}},
        "the config key 'attn_config.rope_dail_config.type' is 'xpos', which is not supported; supported: 'original'",
    ),
    "dynamic": (
        {"attn_config": {"rope": True, "rope_impl": "hf", "rope_hf_config": {"type": "dynamic", "factor": 2.0}}},
        (
            "the config key 'attn_config.rope_hf_config.rope_type' is 'dynamic', which is not supported; "
            "supported: 'default', 'linear', 'llama3', 'proportional', 'yarn'"
        ),
    ),
    "heads": ({"n_heads": 3}, "the config key 'd_model' is 16, which 'n_heads' = 3 does not divide"),
    "contradiction": (
        {"norm_eps": 1e-5, "layer_norm_epsilon": 1e-6},
        "the config keys 'norm_eps' and 'layer_norm_epsilon' contradict each other: 1e-05 and 1e-06",
    ),
    "both qk norms": (
        {"attn_config": {"qk_ln": True, "qk_gn": True}},
        "the config key 'attn_config.qk_gn' is true; 'attn_config.qk_ln' is set too, and only one of them can be",
    ),
    "overridden ffn": (
        {
            "block_overrides": {
                "order": [{"name": "wide"}],
                "overrides": {"wide": {"ffn_config": {"ffn_hidden_size": 99}}},
            }
        },
        (
            "the config key 'block_overrides.overrides.wide.ffn_config' is not supported; "
            "overrides may set sliding_window_size, reuse_kv_layer_idx and nope"
        ),
    ),
    "length of the order": (
        {"block_overrides": {"order": [{"name": "default", "repeat": 2}], "overrides": {}}},
        "the config key 'block_overrides.order' describes 2 layers; 'n_layers' is 1",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_unsupported_configs(tmp_path, case):
    keys, message = REJECTED[case]
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, **keys}))
    with pytest.raises(ConfigError) as error:
        lift_folder(tmp_path)
    assert error.value.message == message


def test_a_config_that_promises_biases(tmp_path):
    write_foundry(tmp_path, {**SIZES, "no_bias": True, "attn_config": {"alibi": True}}, seed=0)
    edit_config(tmp_path, no_bias=False)
    with pytest.raises(CheckpointError) as error:
        lift_folder(tmp_path)
    assert error.value.message == ("the tensor 'transformer.blocks.0.norm_1.bias' is missing from model.safetensors")


def check_foundry(config: dict[str, Any], seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        weights = write_foundry(Path(name), config, seed)
        graph = lift_folder(Path(name))
        assert_same_logits(graph, lambda row: mpt_logits(config, weights, row), vocab=31, seed=seed)
        assert graph.facts["parameters"] == sum(tensor.numel() for tensor in weights.values())


def write_foundry(folder: Path, config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """A checkpoint as llm-foundry lays it out, with random weights."""
    weights = {name: torch.zeros(shape) for name, shape in mpt_shapes(config).items()}
    randomize(weights.items(), seed)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return weights
