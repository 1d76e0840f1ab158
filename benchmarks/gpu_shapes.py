"""Models of 6 to 7 billion parameters with random weights, and what bounds their steps on a GPU."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import llmc
from compiler.ir.cost import PRODUCTS, graph_cost, step_sizes
from compiler.ir.dtypes import DType
from compiler.ir.evaluators.core import evaluator
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.torch_types import to_torch
from runtime.executors.cuda.executor import CudaExecutor
from runtime.generation.engine import Engine

POSITIONS = 4096
SHAPES: dict[str, dict[str, Any]] = {
    "gptj-6b": {"architectures": ["GPTJForCausalLM"], "model_type": "gptj", "n_embd": 4096, "n_layer": 28,
                "n_head": 16, "rotary_dim": 64, "vocab_size": 50400, "n_positions": POSITIONS},
    "opt-6.7b": {"architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 4096,
                 "num_hidden_layers": 32, "num_attention_heads": 32, "ffn_dim": 16384, "vocab_size": 50272,
                 "word_embed_proj_dim": 4096, "max_position_embeddings": POSITIONS},
    "pythia-6.9b": {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": 4096,
                    "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 16384,
                    "vocab_size": 50432, "max_position_embeddings": POSITIONS, "rotary_pct": 0.25,
                    "use_parallel_residual": True, "tie_word_embeddings": False},
    "mpt-7b": {"architectures": ["MPTForCausalLM"], "model_type": "mpt", "d_model": 4096, "n_layers": 32,
               "n_heads": 32, "vocab_size": 50432, "max_seq_len": POSITIONS, "attn_config": {"alibi": True}},
    "neox-20b": {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": 6144,
                 "num_hidden_layers": 44, "num_attention_heads": 64, "intermediate_size": 24576,
                 "vocab_size": 50432, "max_position_embeddings": POSITIONS, "rotary_pct": 0.25,
                 "use_parallel_residual": True, "tie_word_embeddings": False},
    "gptj-small": {"architectures": ["GPTJForCausalLM"], "model_type": "gptj", "n_embd": 1024, "n_layer": 4,
                   "n_head": 4, "rotary_dim": 64, "vocab_size": 50400, "n_positions": POSITIONS},
}  # fmt: skip
RECIPES = {
    "fp16": "", "int8": "quant=int8", "int4": "quant=int4:group=128", "int4-zero": "quant=awq",
    "fp8": "quant=fp8:act=token", "w8a8": "quant=int8:act=token", "fp16-kv8": "kv=fp8",
    "fp8-kv8": "quant=fp8:act=token,kv=fp8",
}  # fmt: skip


def write_config(shape: str, folder: Path, **more: Any) -> Path:
    """The `config.json` of a shape, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SHAPES[shape], "dtype": "float16", **more}))
    return folder


def random_constants(graph: Graph, device: torch.device) -> Callable[[Value], Tensor]:
    """Random numbers in place of a graph's weights, made on the device; literals as they are."""
    generator = torch.Generator(device).manual_seed(1)

    def load(value: Value) -> Tensor:
        op = graph.producers[value.name]
        if op.kind.name == "literal":
            tensor: Tensor = evaluator("literal").compute(op.attrs, {})
            return tensor
        if op.kind.name == "reshape":
            return load(op.operands[0]).reshape(op.attrs["shape"])
        sizes = value.type.sizes({})
        if value.type.dtype in (DType.i8, DType.i4):
            most = 127 if value.type.dtype is DType.i8 else 7
            return torch.randint(-most, most + 1, sizes, dtype=torch.int8, device=device, generator=generator)
        noise = torch.randn(sizes, device=device, generator=generator)
        if value.name.rsplit(".", 1)[-1].isdigit() or "scale" in value.name:
            most = 127 if any(user.operands[0].type.dtype is DType.i8 for user in graph.users[value.name]) else 7
            return (0.02 / most * (1 + noise.abs())).to(to_torch(value.type.dtype))
        if len(sizes) == 1:
            noise = 1 + 0.1 * noise if value.name.endswith("weight") else 0.1 * noise
        else:
            noise = 0.02 * noise
        return noise.to(to_torch(value.type.dtype))

    return load


def engine_of(shape: str, recipe: str, folder: Path, batch: int, longest: int, device: torch.device) -> Engine:
    """An engine of a shape for the executor `cuda` whose weights are random, in memory alone."""
    write_config(shape, folder)
    with warnings.catch_warnings(action="ignore"):
        passes = ",".join(filter(None, (RECIPES[recipe], "merge-linears=off")))
        dry = llmc.dry_run(folder, folder / "engine", passes=passes, dummy_weights=True, target="torch",
                           max_batch=batch, max_seq=longest)  # fmt: skip
    executor = CudaExecutor(dry.graph, device=device, load=random_constants(dry.graph, device))
    return Engine(folder / "engine", dry.manifest, executor, None)


def prompt_operations(graph: Graph, tokens: int) -> int:
    """The floating-point operations of the products of a prompt: the head for one token, and causal attention."""
    cost = graph_cost(graph, step_sizes(graph, batch=1, new=tokens))
    return sum(each.cost.flops for each in cost.ops if each.op.kind.name in PRODUCTS)
