"""Writes FasterTransformer directories from models of transformers, by the published description of their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TYPES = {"fp32": np.float32, "fp16": np.float16}

# Tensors of a block that are stored whole, cut along their last axis, and cut along their first.
_WHOLE = ("input_layernorm", "post_attention_layernorm", "attention.dense.bias", "mlp.dense_4h_to_h.bias")
_LAST = ("attention.query_key_value", "mlp.dense_h_to_4h")


class Writer:
    """Puts tensors into files of one directory, in parts."""

    def __init__(self, folder: Path, degree: int, dtype: str) -> None:
        self.place = folder / f"{degree}-gpu"
        self.place.mkdir(parents=True)
        self.degree = degree
        self.dtype = TYPES[dtype]

    def whole(self, key: str, values: Array) -> None:
        """One file."""
        values.astype(self.dtype).tofile(self.place / f"model.{key}.bin")

    def block(self, layer: int, tensors: Mapping[str, Array]) -> None:
        """A block, linears as `[inputs, outputs]`, fused ones as `[inputs, 3, outputs]`."""
        for name, values in tensors.items():
            key = f"layers.{layer}.{name}"
            if name.startswith(_WHOLE):
                self.whole(key, values)
            else:
                axis = -1 if name.startswith(_LAST) else 0
                for rank, part in enumerate(np.split(values, self.degree, axis=axis)):
                    self.whole(f"{key}.{rank}", part)

    def config(self, section: str, **keys: Any) -> None:
        """The file config.ini."""
        lines = [f"[{section}]", *(f"{key} = {value}" for key, value in keys.items())]
        (self.place / "config.ini").write_text("\n".join(lines) + "\n")


def arrays(model: Any) -> dict[str, Array]:
    """The model's tensors by their names in transformers."""
    return {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}


def write_neox(model: Any, folder: Path, degree: int, dtype: str = "fp32", **keys: Any) -> Path:
    c, state, out = model.config, arrays(model), Writer(folder, degree, dtype)
    heads, hidden, parallel = c.num_attention_heads, c.hidden_size, c.use_parallel_residual
    out.whole("wte", state["gpt_neox.embed_in.weight"])
    for kind in ("weight", "bias"):
        out.whole(f"final_layernorm.{kind}", state[f"gpt_neox.final_layer_norm.{kind}"])
    if not c.tie_word_embeddings:
        out.whole("lm_head.weight", state["lm_head.weight"])
    for i in range(c.num_hidden_layers):
        prefix = f"gpt_neox.layers.{i}."
        block = {name.removeprefix(prefix): a.T for name, a in state.items() if name.startswith(prefix)}
        for name, shape, perm in (
            ("weight", (hidden, heads, 3, -1), (0, 2, 1, 3)),
            ("bias", (heads, 3, -1), (1, 0, 2)),
        ):
            fused = block[f"attention.query_key_value.{name}"].reshape(shape).transpose(perm)
            block[f"attention.query_key_value.{name}"] = fused.reshape(*fused.shape[:-2], hidden)
        if parallel:  # each rank adds them
            for name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias"):
                block[name] = block[name] / degree
            out.whole(
                f"layers.{i}.mlp.attention.bias.sum", block["attention.dense.bias"] + block["mlp.dense_4h_to_h.bias"]
            )
        out.block(i, block)
    said = {
        "model_name": "pythia",
        "head_num": heads,
        "size_per_head": hidden // heads,
        "inter_size": c.intermediate_size,
        "num_layer": c.num_hidden_layers,
        "rotary_embedding": int(hidden // heads * c.rope_parameters["partial_rotary_factor"]),
        "vocab_size": c.vocab_size,
        "start_id": 0,
        "end_id": 2,
        "use_gptj_residual": int(parallel),
        "weight_data_type": dtype,
    }
    out.config("gptneox", **(said | keys))
    return folder


def write_gptj(model: Any, folder: Path, degree: int, dtype: str = "fp32", **keys: Any) -> Path:
    c, state, out = model.config, arrays(model), Writer(folder, degree, dtype)
    out.whole("wte", state["transformer.wte.weight"])
    for kind in ("weight", "bias"):
        out.whole(f"final_layernorm.{kind}", state[f"transformer.ln_f.{kind}"])
        out.whole(f"lm_head.{kind}", state[f"lm_head.{kind}"])
    for i in range(c.n_layer):
        h = {name.removeprefix(f"transformer.h.{i}."): a for name, a in state.items()}
        out.block(
            i,
            {
                "input_layernorm.weight": h["ln_1.weight"],
                "input_layernorm.bias": h["ln_1.bias"],
                "attention.query_key_value.weight": _side_by_side(*(h[f"attn.{p}_proj.weight"].T for p in "qkv")),
                "attention.dense.weight": h["attn.out_proj.weight"].T,
                "mlp.dense_h_to_4h.weight": h["mlp.fc_in.weight"].T,
                "mlp.dense_h_to_4h.bias": h["mlp.fc_in.bias"],
                "mlp.dense_4h_to_h.weight": h["mlp.fc_out.weight"].T,
                "mlp.dense_4h_to_h.bias": h["mlp.fc_out.bias"],
            },
        )
    said = {
        "model_name": "gptj",
        "head_num": c.n_head,
        "size_per_head": c.n_embd // c.n_head,
        "inter_size": 4 * c.n_embd,
        "num_layer": c.n_layer,
        "rotary_embedding": c.rotary_dim,  # None for all
        "vocab_size": c.vocab_size,
        "start_id": 50256,
        "end_id": 50256,
        "weight_data_type": dtype,
    }
    out.config("gptj", **(said | keys))
    return folder


def write_opt(model: Any, folder: Path, degree: int, dtype: str = "fp32", **keys: Any) -> Path:
    c, state, out = model.config, arrays(model), Writer(folder, degree, dtype)
    state = {name.removeprefix("model.decoder."): a for name, a in state.items()}
    table = state["embed_tokens.weight"]
    narrow = "project_in.weight" in state
    out.whole("wte", table @ state["project_in.weight"].T if narrow else table)
    out.whole("lm_head.weight", table @ state["project_out.weight"] if narrow else table)
    out.whole("wpe", state["embed_positions.weight"][2:])
    final = "final_layer_norm.weight" in state
    for kind in ("weight", "bias") if final else ():
        out.whole(f"final_layernorm.{kind}", state[f"final_layer_norm.{kind}"])
    for i in range(c.num_hidden_layers):
        h = {name.removeprefix(f"layers.{i}."): a for name, a in state.items()}
        block = {
            "attention.query_key_value.weight": _side_by_side(*(h[f"self_attn.{p}_proj.weight"].T for p in "qkv")),
            "attention.query_key_value.bias": np.stack([h[f"self_attn.{p}_proj.bias"] for p in "qkv"]),
        }
        for ours, theirs in (
            ("input_layernorm", "self_attn_layer_norm"),
            ("attention.dense", "self_attn.out_proj"),
            ("post_attention_layernorm", "final_layer_norm"),
            ("mlp.dense_h_to_4h", "fc1"),
            ("mlp.dense_4h_to_h", "fc2"),
        ):
            block |= {f"{ours}.{kind}": h[f"{theirs}.{kind}"].T for kind in ("weight", "bias")}
        out.block(i, block)
    said = {
        "model_name": "opt",
        "head_num": c.num_attention_heads,
        "size_per_head": c.hidden_size // c.num_attention_heads,
        "inter_size": c.ffn_dim,
        "max_pos_seq_len": c.max_position_embeddings,
        "num_layer": c.num_hidden_layers,
        "layernorm_eps": "1e-5",
        "layernorm_type": "pre_layernorm" if c.do_layer_norm_before else "post_layernorm",
        "activation_type": "Relu",
        "has_post_decoder_layernorm": int(final),
        "vocab_size": c.vocab_size,
        "start_id": 2,
        "end_id": 2,
        "weight_data_type": dtype,
        "int8": False,
    }
    out.config("gpt", **(said | keys))
    return folder


def write_mpt(model: Any, folder: Path, degree: int, dtype: str = "fp32", **keys: Any) -> Path:
    """As llm-foundry writes it: with zeros where a model has no biases."""
    c, state, out = model.config, arrays(model), Writer(folder, degree, dtype)
    out.whole("wte", state["transformer.wte.weight"])
    _norm_without_bias(out, "final_layernorm", state["transformer.norm_f.weight"])
    for i in range(c.n_layers):
        h = {name.removeprefix(f"transformer.blocks.{i}."): a for name, a in state.items()}
        block = {"attention.query_key_value.weight": _side_by_side(*np.split(h["attn.Wqkv.weight"].T, 3, axis=-1))}
        for ours, theirs in (
            ("input_layernorm", "norm_1"),
            ("attention.dense", "attn.out_proj"),
            ("post_attention_layernorm", "norm_2"),
            ("mlp.dense_h_to_4h", "ffn.up_proj"),
            ("mlp.dense_4h_to_h", "ffn.down_proj"),
        ):
            block[f"{ours}.weight"] = h[f"{theirs}.weight"].T
        zeros = {name.replace(".weight", ".bias"): np.zeros(a.shape[1:] or a.shape) for name, a in block.items()}
        out.block(i, block | zeros)
    said = {
        "model_name": "mpt",
        "head_num": c.n_heads,
        "size_per_head": c.d_model // c.n_heads,
        "inter_size": c.d_model * c.expansion_ratio,
        "max_pos_seq_len": c.max_seq_len,
        "num_layer": c.n_layers,
        "vocab_size": c.vocab_size,
        "start_id": 0,
        "end_id": 0,
        "weight_data_type": dtype,
        "tensor_para_size": degree,
        "layernorm_eps": 1e-5,
        "has_positional_encoding": False,
        "use_attention_linear_bias": True,
    }
    out.config("gpt", **(said | keys))
    return folder


def write_gpt2(model: Any, folder: Path, degree: int, dtype: str = "fp32", **keys: Any) -> Path:
    """GPT-2, whose linears transformers stores as `[inputs, outputs]` already."""
    c, state, out = model.config, arrays(model), Writer(folder, degree, dtype)
    state = {name.removeprefix("transformer."): a for name, a in state.items()}
    out.whole("wte", state["wte.weight"])
    out.whole("wpe", state["wpe.weight"])
    for kind in ("weight", "bias"):
        out.whole(f"final_layernorm.{kind}", state[f"ln_f.{kind}"])
    for i in range(c.n_layer):
        h = {name.removeprefix(f"h.{i}."): a for name, a in state.items()}
        block = {
            "attention.query_key_value.weight": _side_by_side(*np.split(h["attn.c_attn.weight"], 3, axis=-1)),
            "attention.query_key_value.bias": h["attn.c_attn.bias"].reshape(3, -1),
        }
        for ours, theirs in (
            ("input_layernorm", "ln_1"),
            ("attention.dense", "attn.c_proj"),
            ("post_attention_layernorm", "ln_2"),
            ("mlp.dense_h_to_4h", "mlp.c_fc"),
            ("mlp.dense_4h_to_h", "mlp.c_proj"),
        ):
            block |= {f"{ours}.{kind}": h[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
        out.block(i, block)
    said = {
        "model_name": "gpt2",
        "head_num": c.n_head,
        "size_per_head": c.n_embd // c.n_head,
        "inter_size": 4 * c.n_embd,
        "max_pos_seq_len": c.n_positions,
        "num_layer": c.n_layer,
        "vocab_size": c.vocab_size,
        "start_id": 30,
        "end_id": 30,
        "layernorm_eps": c.layer_norm_epsilon,
        "weight_data_type": dtype,
        "tensor_para_size": degree,
    }
    out.config("gpt", **(said | keys))
    return folder


def _side_by_side(*thirds: Array) -> Array:
    return np.stack(thirds, axis=1)


def _norm_without_bias(out: Writer, key: str, weight: Array) -> None:
    out.whole(f"{key}.weight", weight)
    out.whole(f"{key}.bias", np.zeros_like(weight))
