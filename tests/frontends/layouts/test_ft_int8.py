"""FasterTransformer directories with int8 weights and caches lift to what ModelOpt's form of the same numbers does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from compiler.frontends import open_checkpoint
from tests.frontends.layouts.compared import assert_same_model, lifted
from tests.frontends.layouts.ft_writer import Array, write_mpt, write_opt
from tests.frontends.models import random_model
from tests.frontends.steps import edit_config

OPT = {"vocab_size": 32, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "ffn_dim": 24}
MPT = {"vocab_size": 32, "d_model": 16, "n_heads": 4, "n_layers": 2, "max_seq_len": 32}
LINEARS = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
F32 = np.float32
Named = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def opt() -> Any:
    config = transformers.OPTConfig(**OPT, word_embed_proj_dim=16, max_position_embeddings=32)
    return random_model(transformers.OPTForCausalLM, config, seed=3)


@pytest.fixture(scope="module")
def mpt() -> Any:
    return random_model(transformers.MptForCausalLM, transformers.MptConfig(**MPT), seed=4)


def add_int8_opt(model: Any, folder: Path, degree: int) -> Named:
    """Beside the floats, the files that FasterTransformer's converter writes; returns ModelOpt's tensors for them."""
    place = folder / f"{degree}-gpu"
    named: Named = {}
    usuals = [[f"self_attn.{letter}_proj" for letter in "qkv"], ["self_attn.out_proj"], ["fc1"], ["fc2"]]
    for i in range(model.config.num_hidden_layers):
        layer = model.model.decoder.layers[i]
        for key, usual in zip(LINEARS, usuals, strict=True):
            modules = [layer.get_submodule(name) for name in usual]
            base = f"model.layers.{i}.{key}"
            matrix = np.stack([module.weight.detach().numpy().T for module in modules], axis=1)
            quantizes = 127 / np.abs(matrix).max(axis=(0, 2))
            into, out = np.full(len(modules), 127 / 3.0), 127 / np.linspace(2.0, 4.0, len(modules))
            q = np.round(matrix * quantizes[None, :, None]).astype(np.int8)
            per_rank = matrix.shape[2] // degree if len(modules) > 1 else 1
            inter = np.repeat((out / (into * quantizes))[:, None], per_rank, axis=1)
            for kind, values in (("scale", into), ("scale_inter", inter), ("scale_out", 1 / out)):
                values.astype(F32).tofile(place / f"{base}.{kind}.bin")
            axis = 0 if key in ("attention.dense", "mlp.dense_4h_to_h") else -1
            for rank, part in enumerate(np.split(q, degree, axis=axis)):
                part.tofile(place / f"{base}.weight.int8.{rank}.bin")
            for j, name in enumerate(usual):
                module = f"model.decoder.layers.{i}.{name}"
                scale = F32(inter[j, 0]) * F32(into[j]) * F32((1 / out)[j])
                named[f"{module}.weight"] = torch.from_numpy(q[:, j].T.copy())
                named[f"{module}.weight_scale"] = torch.full((q.shape[2],), float(scale))
                named[f"{module}.input_scale"] = torch.tensor([F32(1) / F32(into[j])])
    return named


def add_int8_mpt(model: Any, folder: Path, degree: int, *, only_caches: bool = False) -> Named:
    """Beside the floats, the files that TensorRT-LLM's first converters wrote; returns ModelOpt's tensors for them."""
    place = folder / f"{degree}-gpu"
    named: Named = {}
    names = ("attn.Wqkv", "attn.out_proj", "ffn.up_proj", "ffn.down_proj")

    def write(name: str, values: Array, axis: int | None = None) -> None:
        for rank, part in enumerate([values] if axis is None else np.split(values, degree, axis=axis)):
            part.tofile(place / f"{name}{'' if axis is None else f'.{rank}'}.bin")

    for i in range(model.config.n_layers):
        for key, name in zip(LINEARS[:1] if only_caches else LINEARS, names, strict=False):
            base, module = f"model.layers.{i}.{key}", f"transformer.blocks.{i}.{name}"
            matrix = model.get_submodule(module).weight.detach().numpy().T
            scale = (np.abs(matrix).max(axis=0) / 127).astype(F32)
            q = np.round(matrix / scale).astype(np.int8)
            fused = key == LINEARS[0]
            by_inputs = key in ("attention.dense", "mlp.dense_4h_to_h")
            if fused:
                q, scale = q.reshape(len(q), 3, -1), scale.reshape(3, -1)
            for kind in ("weight.int8", "weight.int8.col"):
                write(f"{base}.{kind}", q, 0 if by_inputs else -1)
            for kind in ("scale_w_quant_orig.col", "scale_y_accum_quant.col"):
                write(f"{base}.{kind}", scale, None if by_inputs else -1)
            write(f"{base}.scale_x_orig_quant", np.array(127 / 3, F32))
            write(f"{base}.scale_y_quant_orig", np.array(5 / 127, F32))
            for kind in ("scale_w_quant_orig", "scale_y_accum_quant"):
                write(f"{base}.{kind}", scale if fused else np.array(0.1, F32), -1 if fused else None)
            if only_caches:
                attn = module.removesuffix(".Wqkv")
                named |= {f"{attn}.{which}_scale": torch.tensor([5 / 127]) for which in "kv"}
                continue
            named[f"{module}.weight"] = torch.from_numpy(q.reshape(len(q), -1).T.copy())
            named[f"{module}.weight_scale"] = torch.from_numpy(scale.reshape(-1))
            named[f"{module}.input_scale"] = torch.tensor([F32(1) / F32(127 / 3)])
            if by_inputs:
                smoother = np.linspace(0.5, 2, len(q), dtype=F32)
                write(f"{base}.smoother", smoother, 0)
                named[f"{module}.pre_quant_scale"] = torch.from_numpy(F32(1) / smoother)
    return named


def save_modelopt(model: Any, folder: Path, named: Named, **options: Any) -> Path:
    """The same numbers as ModelOpt exports them."""
    model.save_pretrained(folder)
    save_file({**load_file(folder / "model.safetensors"), **named}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", **options}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_smoothquant_of_faster_transformer(opt, tmp_path, degree):
    folder = write_opt(opt, tmp_path / "ft", degree, int8=True)
    named = add_int8_opt(opt, folder, degree)
    assert_same_model(folder, save_modelopt(opt, tmp_path / "hf", named, quant_algo="W8A8_SQ_PER_CHANNEL"))


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_smoothquant_of_tensorrt_llm(mpt, tmp_path, degree):
    folder = write_mpt(mpt, tmp_path / "ft", degree, smoothquant=0.5)
    named = add_int8_mpt(mpt, folder, degree)
    assert_same_model(folder, save_modelopt(mpt, tmp_path / "hf", named, quant_algo="W8A8_SQ_PER_CHANNEL"))


@pytest.mark.parametrize("degree", [1, 2])
def test_int8_caches(mpt, tmp_path, degree):
    folder = write_mpt(mpt, tmp_path / "ft", degree, smoothquant=None)
    named = add_int8_mpt(mpt, folder, degree, only_caches=True)
    expected = save_modelopt(mpt, tmp_path / "hf", named, kv_cache_quant_algo="INT8")
    assert_same_model(folder, expected)
    assert str(lifted(folder).value("cache.0.k").type).startswith("i8[")


def test_int8_that_is_not_asked_for(opt, tmp_path):
    folder = write_opt(opt, tmp_path / "ft", 2)
    add_int8_opt(opt, folder, 2)
    opt.save_pretrained(tmp_path / "hf")
    assert_same_model(folder, tmp_path / "hf")
    assert open_checkpoint(folder).notes == [
        "int8 weights and their scales are not used: config.ini does not say int8 = True"
    ]


def test_int8_that_is_not_there(opt, tmp_path):
    folder = write_opt(opt, tmp_path / "ft", 2, int8=True)
    assert open_checkpoint(folder).notes == [
        "config.ini says that linears are int8, but none is stored in int8: the weights are used as stored"
    ]


def test_keys_of_tensorrt_llm_that_share_heads(mpt, tmp_path):
    """Of each rank, its queries, keys and values lie side by side."""
    folder = write_mpt(mpt, tmp_path / "ft", 2, n_kv_head=2)
    mpt.save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    for i in range(2):
        name = f"transformer.blocks.{i}.attn.Wqkv.weight"
        tensors[name] = tensors[name][:32].clone()
        q, k, v = np.split(tensors[name].numpy().T, [16, 24], axis=1)
        for rank in range(2):
            part = np.concatenate([np.split(third, 2, axis=1)[rank] for third in (q, k, v)], axis=1)
            part.tofile(folder / "2-gpu" / f"model.layers.{i}.attention.query_key_value.weight.{rank}.bin")
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    attention = {"attn_type": "grouped_query_attention", "kv_n_heads": 2}
    edit_config(tmp_path / "hf", attn_config={**mpt.config.attn_config.to_dict(), **attention})
    assert_same_model(folder, tmp_path / "hf")


def test_keys_of_tensorrt_llm(mpt, tmp_path):
    folder = write_mpt(mpt, tmp_path / "ft", 2)
    c = mpt.config
    keys = {
        "model_name": "mpt",
        "n_head": c.n_heads,
        "n_embd": c.d_model,
        "n_inner": 4 * c.d_model,
        "n_positions": c.max_seq_len,
        "n_layer": c.n_layers,
        "vocab_size": c.vocab_size,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "storage_dtype": "float32",
        "tensor_parallelism": 2,
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "position_embedding_type": "alibi",
        "bias": False,
        "smoothquant": None,
    }
    lines = [f"{key} = {value}" for key, value in keys.items()]
    (folder / "2-gpu" / "config.ini").write_text("\n".join(["[gpt]", *lines]))
    mpt.save_pretrained(tmp_path / "hf")
    assert_same_model(folder, tmp_path / "hf")
