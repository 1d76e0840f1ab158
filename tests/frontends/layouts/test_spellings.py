"""MPT checkpoints with the names and flat configs of the time before llm-foundry, and runs as Composer saves them."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MptConfig, MptForCausalLM

from compiler.frontends import is_checkpoint, open_checkpoint
from tests.cli.llmc_command import llmc
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


def composer(folder: Path, path: Path, prefix: str = "model.", **state: Any) -> Path:
    """A run that has trained the model of a folder."""
    tensors = {prefix + name: tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    model = {"config": {"file_extension": ".json", "content": config}, "class": "llmfoundry.MPTForCausalLM"}
    tokenizer = {"tokenizer": {"file_extension": ".json", "content": {"version": "1.0"}}}
    moments = {name: {"exp_avg": torch.zeros_like(tensor)} for name, tensor in tensors.items()}
    run = {
        "model": tensors,
        "optimizers": {
            "DecoupledAdamW": {"state": moments, "param_groups": [{"betas": (0.9, 0.95), "params": [*tensors]}]}
        },
        "timestamp": {"Timestamp": {"epoch": 1, "total_wct": datetime.timedelta(seconds=3)}},
        "integrations": {"huggingface": {"model": model, "tokenizer": tokenizer}},
        **state,
    }
    torch.save({"state": run, "rng": [{"numpy": np.random.RandomState(0).get_state(), "torch": torch.zeros(2)}]}, path)
    return path


@pytest.mark.parametrize("spelling", ["usual", "old"])
def test_a_run_that_composer_saved(usual, tmp_path, spelling):
    folder = usual if spelling == "usual" else old(usual, tmp_path / "old", model_type="mosaic_gpt")
    path = composer(folder, tmp_path / "ep0-ba9-rank0.pt")
    assert_same_model(path, usual)
    assert open_checkpoint(path).notes == [
        "ep0-ba9-rank0.pt: of the state of the training run only the model is read",
        "the tokenizer within ep0-ba9-rank0.pt is not read: put its tokenizer.json beside it",
    ]


def test_a_run_without_a_config(usual, tmp_path):
    path = composer(usual, tmp_path / "run.pt", integrations={"huggingface": {}})
    assert refusal(path).message == (
        f"{path} has no state.integrations.huggingface.model.config.content, as Composer saves models of transformers"
    )


def test_a_file_of_torch_that_is_no_run(tmp_path):
    torch.save({"w": torch.zeros(3)}, tmp_path / "weights.pt")
    (tmp_path / "notes.pt").write_text("no archive")
    assert not any(map(is_checkpoint, tmp_path.iterdir()))


def test_a_run_on_the_command_line(usual, tmp_path):
    path = composer(usual, tmp_path / "run.pt")
    made = llmc("compile", path, "-o", tmp_path / "engine", "--dtype", "float32", "--max-seq", 16, "--target", "torch")
    assert made.status == 0, made.err
    assert json.loads(llmc("inspect", path, "--json").out)["facts"]["family"] == "mpt"
