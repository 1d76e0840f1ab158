"""Small quantized checkpoints of every family, and what transformers computes with the weights that they stand for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.frontends.models import neox_config, random_model
from tests.frontends.quantized.writers import Writer
from tests.frontends.steps import edit_config

SIZES = {"vocab_size": 31, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


def neox() -> Any:
    """Fused projections by head."""
    return random_model(transformers.GPTNeoXForCausalLM, neox_config(**SIZES, intermediate_size=64), 0)


def gptj() -> Any:
    """Separate projections, no biases."""
    config = transformers.GPTJConfig(
        vocab_size=31, n_embd=32, n_head=2, n_layer=1, n_positions=32, rotary_dim=8, n_inner=64
    )
    return random_model(transformers.GPTJForCausalLM, config, 1)


def opt() -> Any:
    """Projected embeddings."""
    config = transformers.OPTConfig(
        **SIZES, ffn_dim=64, max_position_embeddings=32, word_embed_proj_dim=64, do_layer_norm_before=False
    )
    return random_model(transformers.OPTForCausalLM, config, 2)


def mpt() -> Any:
    """Fused projections one below the other."""
    config = transformers.MptConfig(vocab_size=31, d_model=32, n_heads=2, n_layers=1, max_seq_len=32)
    return random_model(transformers.MptForCausalLM, config, 3)


FAMILIES: dict[str, Callable[[], Any]] = {"gpt_neox": neox, "gptj": gptj, "opt": opt, "mpt": mpt}


def linears(model: Any) -> dict[str, torch.nn.Linear]:
    """The linears that tools quantize: all but the head."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name not in ("lm_head", "embed_out")
    }


def write(model: Any, writer: Writer, folder: Path, **config: Any) -> None:
    """Save the model with quantized linears, and give the model the weights that they stand for."""
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, module in linears(model).items():
        written = writer(module.weight.detach().double())
        del tensors[f"{name}.weight"]
        tensors |= {
            f"{name}.{word}": tensor.clone(memory_format=torch.contiguous_format)
            for word, tensor in written.tensors.items()
        }
        module.double()
        module.weight.data = written.weight
    save_file(tensors, path)
    edit_config(folder, **config)


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Change tensors by the ends of their names, with __ for dots; None removes those that end so."""
    path = folder / "model.safetensors"
    known = load_file(path)
    for ending, tensor in tensors.items():
        for name in [name for name in known if name.endswith(ending.replace("__", "."))]:
            if tensor is None:
                del known[name]
            else:
                known[name] = tensor.clone()
    save_file(known, path)


def write_json(path: Path, content: Any) -> None:
    """Write a file beside config.json."""
    path.write_text(json.dumps(content))
