"""Changing what a checkpoint stores, and small models of every family to do it to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from compiler.frontends import Checkpoint, Limits, lift, open_checkpoint
from compiler.ir.graph import Graph
from tests.frontends.models import neox_config, random_model, saved

LIMITS = Limits(max_batch=4, max_input=16, max_seq=24)


def _neox(**keys: Any) -> Any:
    return random_model(transformers.GPTNeoXForCausalLM, neox_config(max_position_embeddings=32, **keys), 0)


def _gptj(**keys: Any) -> Any:
    sizes = {"vocab_size": 31, "n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 32, "rotary_dim": 4}
    return random_model(transformers.GPTJForCausalLM, transformers.GPTJConfig(**sizes, **keys), 1)


def _opt(**keys: Any) -> Any:
    sizes = {"vocab_size": 31, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 24}
    config = transformers.OPTConfig(**sizes, max_position_embeddings=32, word_embed_proj_dim=16, **keys)
    return random_model(transformers.OPTForCausalLM, config, 2)


def _mpt(**keys: Any) -> Any:
    config = transformers.MptConfig(vocab_size=31, d_model=16, n_heads=2, n_layers=1, max_seq_len=32, **keys)
    return random_model(transformers.MptForCausalLM, config, 3)


MODELS: dict[str, Callable[..., Any]] = {"gpt_neox": _neox, "gptj": _gptj, "opt": _opt, "mpt": _mpt}

# Names of the embedding and of the head in files.
TABLES = {
    "gpt_neox": ("gpt_neox.embed_in.weight", "embed_out.weight"),
    "gptj": ("transformer.wte.weight", "lm_head.weight"),
    "opt": ("model.decoder.embed_tokens.weight", "lm_head.weight"),
    "mpt": ("transformer.wte.weight", "lm_head.weight"),
}


@contextmanager
def spoiled(
    model: Any, spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], *, torch_file: bool = False
) -> Iterator[Path]:
    """A folder that holds the model, with other tensors; written by torch.save if so asked."""
    with saved(model) as folder:
        path = folder / "model.safetensors"
        tensors = spoil(load_file(path))
        if torch_file:
            path.unlink()
            torch.save(tensors, folder / "pytorch_model.bin")
        else:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        yield folder


def lifted(folder: Path) -> tuple[Graph, list[str]]:
    """The graph of a checkpoint, and the notes."""
    checkpoint: Checkpoint = open_checkpoint(folder)
    return lift(checkpoint, limits=LIMITS), checkpoint.notes
