"""Writes GPT-NeoX directories from models of transformers, by the published description of their files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


def yaml_of(config: Any, degree: int, **keys: Any) -> dict[str, Any]:
    """The keys of a run that trains the model of a transformers config."""
    rope = config.rope_parameters
    return {
        "model-parallel-size": degree,
        "pipe-parallel-size": 1,
        "num-layers": config.num_hidden_layers,
        "hidden-size": config.hidden_size,
        "num-attention-heads": config.num_attention_heads,
        "intermediate-size": config.intermediate_size,
        "seq-length": 16,
        "max-position-embeddings": config.max_position_embeddings,
        "norm": "layernorm",
        "pos-emb": "rotary",
        "rotary-pct": rope["partial_rotary_factor"],
        "rotary-emb-base": rope["rope_theta"],
        "no-weight-tying": not config.tie_word_embeddings,
        "gpt-j-residual": config.use_parallel_residual,
        "layernorm-epsilon": config.layer_norm_eps,
        "attention-config": [[["global"], config.num_hidden_layers]],
        "tokenizer-type": "HFTokenizer",
        "vocab-file": "/data/20B_tokenizer.json",
        "train-iters": 7,
        **keys,
    }


def shards(model: Any, degree: int, spell: Callable[[str], str] = str) -> dict[int, list[State]]:
    """By layer of the pipeline, what each tensor-parallel rank holds."""
    state = model.state_dict()
    config = model.config
    layers = {0: {"word_embeddings.weight": state["gpt_neox.embed_in.weight"]}}
    for i in range(config.num_hidden_layers):
        prefix = f"gpt_neox.layers.{i}."
        layers[i + 2] = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    prefix = "gpt_neox.final_layer_norm."
    layers[config.num_hidden_layers + 3] = {f"norm.{kind}": state[prefix + kind] for kind in ("weight", "bias")}
    if not config.tie_word_embeddings:
        head = next(tensor for name, tensor in state.items() if name in ("lm_head.weight", "embed_out.weight"))
        layers[config.num_hidden_layers + 4] = {"final_linear.weight": head}
    summed = config.use_parallel_residual
    return {
        layer: [{spell(n): _part(n, t, rank, degree, summed) for n, t in state.items()} for rank in range(degree)]
        for layer, state in layers.items()
    }


def _part(name: str, tensor: Tensor, rank: int, degree: int, summed: bool) -> Tensor:
    if "embeddings" in name or "final_linear" in name or "query_key_value" in name or "dense_h_to_4h" in name:
        return tensor.chunk(degree, 0)[rank].clone()
    if name in ("attention.dense.weight", "mlp.dense_4h_to_h.weight"):
        return tensor.chunk(degree, 1)[rank].clone()
    if name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias") and summed:
        # Of parts of unequal size, whose sum is exact.
        half = tensor / degree
        return half + (rank % 2 * 2 - 1) * half / 2 if degree > 1 else half
    return tensor.clone()


def write_by_layer(model: Any, folder: Path, degree: int, *, legacy: bool = False, **keys: Any) -> Path:
    """A run with pipeline stages: a file for each layer and rank, beside the states of the run."""
    step = _step(folder, yaml_of(model.config, degree, **keys))
    for layer, ranks in shards(model, degree).items():
        for rank, state in enumerate(ranks):
            path = step / f"layer_{layer:02d}-model_{rank:02d}-model_states.pt"
            torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    for rank in range(degree):
        torch.save({"module": None, **_client_state(model)}, step / f"mp_rank_{rank:02d}_model_states.pt")
        torch.save({"optimizer_state_dict": {}}, step / f"zero_pp_rank_0_mp_rank_{rank:02d}_optim_states.pt")
    return folder


def write_by_rank(model: Any, folder: Path, degree: int, *, legacy: bool = False, **keys: Any) -> Path:
    """A run without pipeline stages: a file for each rank, with all that DeepSpeed and the library put beside."""
    step = _step(folder, yaml_of(model.config, degree, **{"pipe-parallel-size": 0, **keys}))
    layers = shards(model, degree)
    for rank in range(degree):
        module = {f"sequential.{i}.{n}": t for i, ranks in layers.items() for n, t in ranks[rank].items()}
        state = {"module": module, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, **_client_state(model)}
        path = step / f"mp_rank_{rank:02d}_model_states.pt"
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return folder


def _step(folder: Path, keys: dict[str, Any]) -> Path:
    step = folder / "global_step10"
    (step / "configs").mkdir(parents=True)
    # As the library's own files are: braces, comments, numbers without a point, and a comma at the end.
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in keys.items() if key != "layernorm-epsilon"]
    text = "\n".join(
        ["# a model", "{", *lines, f'  "layernorm-epsilon": {keys["layernorm-epsilon"]:.0e}, # small', "}"]
    )
    (step / "configs" / "model.yml").write_text(text)
    (step / "configs" / "local_setup.yml").write_text('{"data-path": "x", "train_iters": 9}')
    (folder / "latest").write_text("global_step10\n")
    return step


def _client_state(model: Any) -> dict[str, Any]:
    return {
        "iteration": 10,
        "args": {"num_layers": model.config.num_hidden_layers, "tokenizer_type": "HFTokenizer"},
        "np_rng_state": np.random.RandomState(0).get_state(),
        "random_rng_state": (3, (1, 2, 3), None),
        "torch_rng_state": torch.get_rng_state(),
        "skipped": {1, 2},
    }
