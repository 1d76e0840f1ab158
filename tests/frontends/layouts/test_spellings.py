"""MPT checkpoints with the names and flat configs of the time before llm-foundry, as Replit-code v1 has them."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import MptConfig, MptForCausalLM

from tests.frontends.layouts.compared import assert_same_model, lifted, refusal
from tests.frontends.models import random_model

# By the published conversion of old checkpoints, read backwards.
RENAMED = {".norm_": ".ln_", ".up_proj.": ".mlp_up.", ".down_proj.": ".mlp_down.", ".ffn.": ".mlp."}
MOVED = {"clip_qkv": "attn_clip_qkv", "qk_ln": "attn_qk_ln"}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as llm-foundry writes it."""
    folder = tmp_path_factory.mktemp("usual")
    config = MptConfig(
        vocab_size=31,
        d_model=16,
        n_heads=2,
        n_layers=2,
        max_seq_len=32,
        expansion_ratio=4,
        attn_config={"clip_qkv": 2.0},
    )
    random_model(MptForCausalLM, config, seed=4).save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    content |= {"architectures": ["MPTForCausalLM"], "no_bias": True, "norm_type": "low_precision_layernorm"}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def old(usual: Path, folder: Path, **keys: Any) -> Path:
    """The same model in the old spelling."""
    folder.mkdir()
    content = json.loads((usual / "config.json").read_text())
    attn = content.pop("attn_config")
    content.pop("norm_type")
    content |= {
        MOVED.get(key, key): attn[key] for key in ("alibi", "alibi_bias_max", "softmax_scale", "prefix_lm", *MOVED)
    }
    content |= {
        "mlp_ratio": content.pop("expansion_ratio"),
        "low_precision_layernorm": True,
        "param_init_fn": "kaiming",
    }
    (folder / "config.json").write_text(json.dumps(content | keys))
    tensors = load_file(usual / "model.safetensors")
    save_file({_old_name(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def _old_name(name: str) -> str:
    for new, before in RENAMED.items():
        name = name.replace(new, before)
    return name


def test_old_names_and_a_flat_config(usual, tmp_path):
    assert_same_model(old(usual, tmp_path / "old"), usual)


def test_the_old_name_of_the_family(usual, tmp_path):
    folder = old(usual, tmp_path / "old", model_type="mosaic_gpt", architectures=["MosaicGPT"])
    assert_same_model(folder, usual)


def test_a_flat_key_counts(usual, tmp_path):
    graph = lifted(old(usual, tmp_path / "old", attn_clip_qkv=0.25))
    clamps = list(graph.find("clamp"))
    assert len(clamps) == 6
    assert {op.attrs["max"] for op in clamps} == {0.25}


def test_attention_of_torch(usual, tmp_path):
    folder = old(usual, tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    spelled = {
        name.replace(".attn.Wqkv.weight", ".causal_attn.mhsa.in_proj_weight").replace(
            ".attn.out_proj.", ".causal_attn.mhsa.out_proj."
        ): tensor
        for name, tensor in tensors.items()
    }
    save_file(spelled, folder / "model.safetensors")
    assert_same_model(folder, usual)


def test_both_spellings_of_one_tensor(usual, tmp_path):
    folder = old(usual, tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    name = "transformer.blocks.0.mlp.mlp_up.weight"
    tensors["transformer.blocks.0.ffn.up_proj.weight"] = tensors[name].clone()
    save_file(tensors, folder / "model.safetensors")
    assert {name, "transformer.blocks.0.ffn.up_proj.weight"} <= set(refusal(folder).message.split("'"))
