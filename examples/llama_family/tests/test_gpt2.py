"""GPT-2's frontend, compared with transformers in float64: every variant, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from compiler.errors import CheckpointError
from examples.llama_family.tests.small import gpt2_config
from tests.frontends.models import check, logits_of, random_model, saved
from tests.frontends.steps import assert_same_logits, edit_config, lift_folder


@st.composite
def configs(draw):
    heads = draw(st.integers(1, 3))
    return gpt2_config(
        n_embd=heads * draw(st.sampled_from([4, 8])),
        n_head=heads,
        n_inner=draw(st.sampled_from([None, 20])),
        n_layer=draw(st.integers(1, 2)),
        activation_function=draw(st.sampled_from(["gelu_new", "gelu", "relu"])),
        layer_norm_epsilon=draw(st.sampled_from([1e-5, 1e-2])),
        scale_attn_weights=draw(st.booleans()),
        scale_attn_by_inverse_layer_idx=draw(st.booleans()),
        reorder_and_upcast_attn=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
    )


@settings(max_examples=20)
@given(configs(), st.integers(0, 2**31))
def test_random_models(config, seed):
    check(GPT2LMHeadModel, config, seed)


def test_names_without_a_prefix_and_masks_of_the_first_checkpoints():
    """As the checkpoint `gpt2` of the hub is stored."""
    model = random_model(GPT2LMHeadModel, gpt2_config(), seed=0)
    with saved(model) as folder:
        tensors = load_file(folder / "model.safetensors")
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        for layer in range(2):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
        save_file(tensors, folder / "model.safetensors")
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=31, seed=0)


def test_weights_of_another_shape_are_named_with_the_keys_that_say_it():
    with saved(random_model(GPT2LMHeadModel, gpt2_config(), seed=0)) as folder:
        edit_config(folder, n_inner=20)
        with pytest.raises(CheckpointError, match=r"h\.0\.mlp\.c_fc\.weight.*n_inner"):
            lift_folder(folder)


def test_quantized_checkpoints_are_refused():
    with saved(random_model(GPT2LMHeadModel, gpt2_config(), seed=0)) as folder:
        edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32})
        with pytest.raises(CheckpointError) as error:
            lift_folder(folder)
    assert error.value.message.startswith("quantized checkpoints of GPT-2 are not supported")
    assert error.value.hint.startswith("compile the unquantized checkpoint")
