"""Checkpoints with random weights for `cpu.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, GPTNeoXConfig, OPTConfig, PreTrainedTokenizerFast

SHAPES: dict[str, Any] = {
    "opt-125m": OPTConfig(),  # its defaults
    "opt-1.3b": OPTConfig(
        hidden_size=2048, word_embed_proj_dim=2048, ffn_dim=8192, num_hidden_layers=24, num_attention_heads=32
    ),
    "pythia-160m": GPTNeoXConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=50304
    ),
    "pythia-1.4b": GPTNeoXConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=16, vocab_size=50304
    ),
}
"""The shapes by name: `config.json` as transformers has it."""


def write_checkpoint(shape: str, folder: Path) -> Path:
    """A checkpoint of a shape in float32 with a tokenizer of made-up words `t0`, `t1`, ..., if it is not there yet.

    Weights are normal with a standard deviation of 0.02, biases as well, and those of norms are that far from 1.
    """
    if (folder / "tokenizer.json").is_file():
        return folder
    torch.manual_seed(0)
    config = SHAPES[shape]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            mean = 1.0 if parameter.ndim == 1 and bool((parameter == 1).all()) else 0.0
            parameter.normal_(mean, 0.02)
    model.save_pretrained(folder)
    words = Tokenizer(WordLevel({word(token): token for token in range(config.vocab_size)}, unk_token=word(3)))
    words.pre_tokenizer = WhitespaceSplit()
    special = {"bos_token": word(config.bos_token_id), "eos_token": word(config.eos_token_id), "unk_token": word(3)}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


def word(token: int) -> str:
    """What the made-up tokenizer calls a token."""
    return f"t{token}"
