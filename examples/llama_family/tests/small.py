"""Small random models of both families, as transformers makes them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.frontends.models import random_model
from tests.paths import MODELS

TOKENS = {"bos_token_id": 0, "eos_token_id": 0}


def llama_config(**keys: Any) -> LlamaConfig:
    """The config of a small Llama in which two query heads share each key head, with these keys changed."""
    sizes = {
        "vocab_size": 31,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "max_position_embeddings": 64,
    }
    return LlamaConfig(**(sizes | TOKENS | keys))


def gpt2_config(**keys: Any) -> GPT2Config:
    """The config of a small GPT-2, with these keys changed."""
    sizes = {"vocab_size": 31, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64}
    return GPT2Config(**(sizes | TOKENS | keys))


def large_vocabulary(family: str) -> Any:
    """A model with the vocabulary of the example checkpoints, whose tokenizer it can have."""
    if family == "llama":
        return random_model(LlamaForCausalLM, llama_config(vocab_size=1024, intermediate_size=64), seed=1)
    return random_model(GPT2LMHeadModel, gpt2_config(vocab_size=1024), seed=1)


def checkpoint(family: str, folder: Path) -> Path:
    """Save `large_vocabulary` with a tokenizer."""
    large_vocabulary(family).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODELS / "gptneox-tiny" / name, folder / name)
    return folder


def likeliest(model: Any, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """The continuations that transformers generates, each prompt by itself, in float32."""
    return [
        model.generate(
            torch.tensor([prompt]), do_sample=False, min_new_tokens=count, max_new_tokens=count, pad_token_id=0
        )[0, len(prompt) :].tolist()
        for prompt in map(list, prompts)
    ]  # fmt: skip
