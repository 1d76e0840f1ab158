"""Adapter folders as PEFT saves them, and what transformers computes with what they hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from tests.paths import MODELS

LAYERS, HEADS, HIDDEN = 4, 4, 128
"""The sizes of all bundled checkpoints."""

PREFIX = "PREFIX_TUNING"


class Sizes(NamedTuple):
    """The sizes of the model that an adapter is for; those of the bundled checkpoints if nothing is said."""

    layers: int = LAYERS
    heads: int = HEADS
    width: int = HIDDEN


def config(kind: str, tokens: int, sizes: Sizes = Sizes(), **keys: Any) -> dict[str, Any]:  # noqa: B008 - a constant
    """The config of an adapter, with some keys changed."""
    usual = {
        "base_model_name_or_path": "some/model",
        "inference_mode": True,
        "num_attention_heads": sizes.heads,
        "num_layers": sizes.layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": tokens,
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "token_dim": sizes.width,
    }
    return usual | keys


def table(kind: str, tokens: int, seed: int = 0, sizes: Sizes = Sizes()) -> Tensor:  # noqa: B008 - a constant
    """Random embeddings of virtual tokens, or keys and values of a prefix."""
    columns = 2 * sizes.layers * sizes.width if kind == PREFIX else sizes.width
    return 0.5 * torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed))


def write(folder: Path, keys: dict[str, Any], tensors: dict[str, Tensor], *, pickled: bool = False) -> Path:
    """Write an adapter folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(keys))
    if pickled:
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def adapter(folder: Path, kind: str, tokens: int, seed: int = 0) -> Path:
    """Write a random adapter for the bundled checkpoints, and return its folder."""
    return write(folder, config(kind, tokens), {"prompt_embeddings": table(kind, tokens, seed)})


@cache
def bundled(family: str) -> Any:
    """A bundled checkpoint as a model of transformers, in float32."""
    return AutoModelForCausalLM.from_pretrained(MODELS / f"{family}-tiny", dtype=torch.float32).eval()


@torch.no_grad()
def logits(
    model: Any,
    token_ids: Sequence[int],
    kind: str | None = None,
    values: Tensor | None = None,
    sizes: Sizes = Sizes(),  # noqa: B008 - a constant
) -> Tensor:
    """The logits of transformers after each of some tokens, `[tokens, vocabulary]`, after virtual tokens.

    They are fed as PEFT does: embeddings in front of those of the tokens, or past keys and values of each layer.
    """
    ids = torch.tensor([list(token_ids)])
    if kind is None or values is None:
        found: Tensor = model(ids).logits[0]
        return found
    count = len(values)
    mask = torch.ones(1, count + len(token_ids), dtype=torch.int64)
    if kind == PREFIX:
        parts = values.view(1, count, 2 * sizes.layers, sizes.heads, sizes.width // sizes.heads).permute(2, 0, 3, 1, 4)
        past = DynamicCache()
        for layer in range(sizes.layers):
            past.update(parts[2 * layer], parts[2 * layer + 1], layer)
        prefixed: Tensor = model(ids, past_key_values=past, attention_mask=mask).logits[0]
        return prefixed
    rows = torch.cat([values[None], model.get_input_embeddings()(ids)], 1)
    whole: Tensor = model(inputs_embeds=rows, attention_mask=mask).logits[0]
    return whole[count:]


def greedy(model: Any, token_ids: Sequence[int], count: int, kind: str | None = None, values: Any = None) -> list[int]:
    """The likeliest continuation of some tokens by transformers, computed anew for each token."""
    new: list[int] = []
    for _ in range(count):
        new.append(int(logits(model, [*token_ids, *new], kind, values)[-1].argmax()))
    return new
