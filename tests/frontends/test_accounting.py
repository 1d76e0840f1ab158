"""Every tensor has one place, and every key of the config a meaning."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compiler.errors import ConfigError, GraphError
from compiler.frontends import Limits, families, frontend, lift, open_checkpoint
from compiler.frontends.config import Config
from tests.frontends.steps import edit_config
from tests.frontends.test_checkpoint import fails
from tests.registrations import forgotten


def change(folder: Path, **tensors: Tensor | None) -> None:
    """Change tensors of the checkpoint; None removes one."""
    path = folder / "model.safetensors"
    changed = {**load_file(path), **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path)


def test_missing_tensor(folder):
    change(
        folder,
        gpt_neox__layers__0__mlp__dense_h_to_4h__weight=None,
        gpt_neox__layers__0__mlp__dense_h_to_4H__weight=torch.zeros(24, 16),
    )
    assert fails(folder).message == (
        "the tensor 'gpt_neox.layers.0.mlp.dense_h_to_4h.weight' is missing from model.safetensors; "
        "did you mean 'gpt_neox.layers.0.mlp.dense_h_to_4H.weight'?"
    )


def test_missing_tensor_that_has_two_spellings(folder):
    change(folder, embed_out__weight=None, lm_head__weight=None)
    assert fails(folder).message == (
        "the tensor 'embed_out.weight' (nor 'lm_head.weight') is missing from model.safetensors"
    )


def test_unknown_tensors(folder):
    change(folder, adapter__a=torch.zeros(1), adapter__b=torch.zeros(1))
    error = fails(folder)
    assert error.message == (
        "the tensor 'adapter.a' in model.safetensors (and 1 more) has no place in the model that config.json describes"
    )
    assert error.hint == "a key of config.json is wrong, or the model is a variant that is not supported"


def test_wrong_shape(folder):
    change(folder, gpt_neox__embed_in__weight=torch.zeros(40, 16))
    error = fails(folder)
    assert error.message == (
        "the tensor 'gpt_neox.embed_in.weight' in model.safetensors is [40,16], but the config makes it [31,16] "
        "(vocab_size = 31, hidden_size = 16)"
    )
    assert error.hint == "config.json and the weights belong to different models, or a key of config.json is wrong"


def test_tensor_of_integers(folder):
    change(folder, gpt_neox__embed_in__weight=torch.zeros(31, 16, dtype=torch.int8))
    error = fails(folder)
    assert error.message == (
        "the tensor 'gpt_neox.embed_in.weight' in model.safetensors is stored as I8; supported are f64, f32, f16, bf16"
    )
    assert error.hint == "if the checkpoint is quantized: its config says nothing of it, or something else"


def test_known_buffers_are_skipped(folder):
    plain = lift(open_checkpoint(folder))
    change(
        folder,
        gpt_neox__layers__0__attention__bias=torch.ones(1, 1, 8, 8, dtype=torch.uint8),
        gpt_neox__layers__0__attention__masked_bias=torch.tensor(-1e9),
        gpt_neox__layers__0__attention__rotary_emb__inv_freq=torch.zeros(2),
    )
    graph = lift(open_checkpoint(folder))
    stored = {op.attrs["data"].name for op in graph.find("const")}
    assert stored == {op.attrs["data"].name for op in plain.find("const")}
    assert [op.kind for op in graph.ops] == [op.kind for op in plain.ops]


def test_unsupported_model_type_is_said_before_weights_are_read(folder):
    (folder / "model.safetensors").unlink()
    edit_config(folder, model_type="llama")
    assert fails(folder, ConfigError).message == (
        "the config key 'model_type' is 'llama', which is not supported; supported: gpt_neox, gptj, mpt, opt"
    )
    edit_config(folder, ["model_type"], architectures=["LlamaForCausalLM"])
    assert fails(folder, ConfigError).message == (
        "the config has no 'model_type', and its 'architectures' ['LlamaForCausalLM'] tell none; "
        "supported: gpt_neox, gptj, mpt, opt"
    )
    assert families() == ("gpt_neox", "gptj", "mpt", "opt")


def test_the_class_tells_the_family_where_model_type_is_absent(folder):
    edit_config(folder, ["model_type"])
    assert lift(open_checkpoint(folder)).facts["family"] == "gpt_neox"


def test_a_family_of_ones_own(folder):
    lifted = []
    edit_config(folder, model_type="my_family")
    with forgotten():
        frontend("my_family", "MyForCausalLM")(lambda lifting: lifted.append(lifting.family))
        with pytest.raises(GraphError) as unfinished:
            lift(open_checkpoint(folder))
        assert lifted == ["my_family"]
        assert unfinished.value.message.startswith(
            "the frontend of 'my_family' made no step of a model: the input 'token_ids' is missing (tests/frontends/"
        )
        with pytest.raises(ConfigError) as error:
            frontend("gpt_neox")(lambda lifting: None)
        assert error.value.message.startswith(
            "model_type 'gpt_neox' has a frontend already, in compiler.frontends.gpt_neox, line "
        )


def test_unknown_keys_are_noted(folder):
    edit_config(folder, my_own_key=3, another=None, temperature=0.7)
    checkpoint = open_checkpoint(folder)
    lift(checkpoint)
    assert checkpoint.notes == ["the config key 'my_own_key' is not known and was ignored"]


def test_keys_that_were_ignored_are_named_where_the_weights_do_not_fit(folder):
    change(folder, gpt_neox__layers__0__mlp__dense_h_to_4h__bias=None)
    edit_config(folder, my_own_key=3, other_key=True, transformers_version="4.0")
    error = fails(folder)
    assert error.message == "the tensor 'gpt_neox.layers.0.mlp.dense_h_to_4h.bias' is missing from model.safetensors"
    assert error.hint == "these keys of config.json are not known and were ignored: 'my_own_key', 'other_key'"


def test_a_name_is_suggested_for_a_tensor_of_the_same_shape_only(folder):
    table = load_file(folder / "model.safetensors")["gpt_neox.embed_in.weight"]
    change(folder, gpt_neox__embed_in__weight=None, gpt_neox__embed_on__weight=torch.ones(16))
    assert "did you mean" not in fails(folder).message
    change(folder, gpt_neox__embed_on__weight=table)
    assert fails(folder).message.endswith("; did you mean 'gpt_neox.embed_on.weight'?")


def test_rounding_what_is_stored_to_the_type_of_the_config_is_noted(folder):
    edit_config(folder, dtype="float16")
    checkpoint = open_checkpoint(folder)
    lift(checkpoint)
    (note,) = checkpoint.notes
    assert note.startswith("the weights are stored in float32; config.json says 'float16', to which they are rounded")


BAD_KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "null": ({"hidden_size": None}, "the config key 'hidden_size' is null; it must be an integer"),
    "type": ({"hidden_size": "16"}, "the config key 'hidden_size' is '16'; it must be an integer"),
    "bool for int": ({"hidden_size": True}, "the config key 'hidden_size' is true; it must be an integer"),
    "int for bool": (
        {"use_parallel_residual": 1},
        "the config key 'use_parallel_residual' is 1; it must be true or false",
    ),
    "negative": ({"num_hidden_layers": -1}, "the config key 'num_hidden_layers' is -1; it must be at least 1"),
    "remainder": (
        {"num_attention_heads": 3},
        "the config key 'hidden_size' is 16, which 'num_attention_heads' = 3 does not divide",
    ),
    "activation": (
        {"hidden_act": "mish"},
        (
            "the config key 'hidden_act' is 'mish', which is not supported; supported: 'gelu', 'gelu_10', "
            "'gelu_accurate', 'gelu_fast', 'gelu_new', 'gelu_python', 'gelu_python_tanh', 'gelu_pytorch_tanh', "
            "'hardswish', 'leaky_relu', 'linear', 'quick_gelu', 'relu', 'relu2', 'relu6', 'sigmoid', 'silu', 'swish', "
            "'tanh'"
        ),
    ),
    "dtype": (
        {"dtype": "float64"},
        "the config key 'dtype' is 'float64', which is not supported; supported: 'float32', 'float16', 'bfloat16'",
    ),
    "contradiction": (
        {"rotary_pct": 0.5, "partial_rotary_factor": 0.25},
        "the config keys 'rotary_pct' and 'partial_rotary_factor' contradict each other: 0.5 and 0.25",
    ),
    "too much rotary": (
        {"rope_parameters": {"partial_rotary_factor": 1.5, "rope_theta": 10000.0}},
        "the config rotates 1.5 of each head ('rotary_pct'); it must be from 0 to 1",
    ),
    "section": ({"rope_parameters": [1]}, "the config key 'rope_parameters' is [1]; it must be an object"),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_bad_keys(folder, case):
    keys, message = BAD_KEYS[case]
    edit_config(folder, **keys)
    assert fails(folder, ConfigError).message == message


BAD_LIMITS = {
    "max_batch is 0; it must be at least 1": Limits(max_batch=0),
    "max_input is -1; it must be at least 1": Limits(max_input=-1),
    "max_input is 9, more than max_seq, which is 8": Limits(max_input=9, max_seq=8),
}


@pytest.mark.parametrize("message", BAD_LIMITS)
def test_bad_limits(folder, message):
    with pytest.raises(ConfigError) as error:
        lift(open_checkpoint(folder), limits=BAD_LIMITS[message])
    assert error.value.message == message


def test_limits_become_dims(folder):
    context = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    dims = lift(open_checkpoint(folder)).dims
    assert {name: tuple(dim) for name, dim in dims.items()} == {
        "B": (1, 8, 8),
        "S": (1, 1, context),
        "C": (1, context, context),
        "R": (1, 1, context),
    }
    # Rotary positions go on beyond the context that the model was trained for.
    assert lift(open_checkpoint(folder), limits=Limits(max_seq=2 * context)).dims["C"].max == 2 * context


def test_whole_numbers_may_be_written_as_floats():
    assert Config({"a": 3.0}).take("a", int) == 3
    assert Config({"a": 3}).take("a", float) == 3.0
