"""Writes checkpoints as TensorRT-LLM's converters do, from a model of transformers: ranks, names, forms of linears."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LinearWriter = Callable[[Tensor], dict[str, Tensor]]
"""What is stored of the part `[N, K]` of a linear that one rank has, by what is behind its name."""


def plain(weight: Tensor) -> dict[str, Tensor]:
    """The floats as they are."""
    return {"weight": weight}


@dataclass
class Parts:
    """A model taken to pieces: linears as weight and bias, by the names that they get."""

    config: dict[str, Any]
    embedding: Tensor
    final_norm: dict[str, Tensor]
    head: dict[str, Tensor]
    layers: list[dict[str, Any]]
    positions: Tensor | None = None
    heads: int = 2
    kv_heads: int = 2
    extra: dict[str, Tensor] = field(default_factory=dict)


def gpt_neox(model: Any) -> Parts:
    """Queries, keys and values of each head are side by side."""
    c, s = model.config, dict(model.state_dict())

    def qkv(tensor: Tensor) -> list[Tensor]:
        by_head = tensor.reshape(c.num_attention_heads, 3, -1, *tensor.shape[1:])
        return [by_head[:, i].reshape(c.hidden_size, *tensor.shape[1:]) for i in range(3)]

    layers = []
    for i in range(c.num_hidden_layers):
        p = f"gpt_neox.layers.{i}."
        layers.append(
            {
                "qkv": (qkv(s[p + "attention.query_key_value.weight"]), qkv(s[p + "attention.query_key_value.bias"])),
                "dense": pair(s, p + "attention.dense"),
                "fc": pair(s, p + "mlp.dense_h_to_4h"),
                "proj": pair(s, p + "mlp.dense_4h_to_h"),
                "input_layernorm": norm(s, p + "input_layernorm"),
                "post_attention_layernorm": norm(s, p + "post_attention_layernorm"),
            }
        )
    config = {
        **shared(c, "GPTNeoXForCausalLM", c.hidden_size, c.num_hidden_layers, c.num_attention_heads),
        "position_embedding_type": "learned_absolute",
        "max_position_embeddings": c.max_position_embeddings,
        "rotary_emb_base": c.rope_parameters["rope_theta"],
        "rotary_pct": c.rope_parameters["partial_rotary_factor"],
        "hidden_act": c.hidden_act,
        "intermediate_size": c.intermediate_size,
    }
    head = {"weight": s["embed_out.weight" if "embed_out.weight" in s else "lm_head.weight"]}
    return Parts(config, s["gpt_neox.embed_in.weight"], norm(s, "gpt_neox.final_layer_norm"), head, layers)


def gptj(model: Any) -> Parts:
    """One norm a layer, no biases in attention, a bias in the head."""
    c, s = model.config, dict(model.state_dict())
    layers = []
    for i in range(c.n_layer):
        p = f"transformer.h.{i}."
        layers.append(
            {
                "qkv": ([s[f"{p}attn.{x}_proj.weight"] for x in "qkv"], None),
                "dense": pair(s, p + "attn.out_proj"),
                "fc": pair(s, p + "mlp.fc_in"),
                "proj": pair(s, p + "mlp.fc_out"),
                "input_layernorm": norm(s, p + "ln_1"),
            }
        )
    config = {
        **shared(c, "GPTJForCausalLM", c.n_embd, c.n_layer, c.n_head),
        "norm_epsilon": c.layer_norm_epsilon,
        "position_embedding_type": "rope_gptj",
        "max_position_embeddings": c.n_positions,
        "hidden_act": "gelu",
        "rotary_dim": c.rotary_dim,
        "intermediate_size": c.n_inner,
    }
    head = {"weight": s["lm_head.weight"], "bias": s["lm_head.bias"]}
    return Parts(config, s["transformer.wte.weight"], norm(s, "transformer.ln_f"), head, layers)


def opt(model: Any) -> Parts:
    """Learned positions without the two rows that none has; projected embeddings are multiplied out."""
    c, s = model.config, dict(model.state_dict())
    base = "model.decoder."
    layers = []
    for i in range(c.num_hidden_layers):
        p = f"{base}layers.{i}."
        qkv = [pair(s, f"{p}self_attn.{x}_proj") for x in "qkv"]
        layers.append(
            {
                "qkv": ([weight for weight, _ in qkv], [bias for _, bias in qkv]),
                "dense": pair(s, p + "self_attn.out_proj"),
                "fc": pair(s, p + "fc1"),
                "proj": pair(s, p + "fc2"),
                "input_layernorm": norm(s, p + "self_attn_layer_norm"),
                "post_layernorm": norm(s, p + "final_layer_norm"),
            }
        )
    config = {
        **shared(c, "OPTForCausalLM", c.hidden_size, c.num_hidden_layers, c.num_attention_heads),
        "position_embedding_type": "learned_absolute",
        "max_position_embeddings": c.max_position_embeddings,
        "hidden_act": c.activation_function,
        "do_layer_norm_before": c.do_layer_norm_before,
        "intermediate_size": c.ffn_dim,
    }
    table = s[base + "embed_tokens.weight"]
    head = table.clone()
    if f"{base}project_in.weight" in s:
        head = table @ s[f"{base}project_out.weight"]
        table = table @ s[f"{base}project_in.weight"].T
    final = norm(s, f"{base}final_layer_norm") if c.do_layer_norm_before else {}
    return Parts(config, table, final, {"weight": head}, layers, s[f"{base}embed_positions.weight"][2:])


def mpt(model: Any) -> Parts:
    """No biases; fused projections one below the other."""
    c, s = model.config, dict(model.state_dict())
    kv_heads = c.attn_config.kv_n_heads if getattr(c.attn_config, "kv_n_heads", None) else c.n_heads
    kv = kv_heads * (c.d_model // c.n_heads)
    layers = []
    for i in range(c.n_layers):
        p = f"transformer.blocks.{i}."
        fused = s[p + "attn.Wqkv.weight"]
        layers.append(
            {
                "qkv": (list(fused.split([c.d_model, kv, kv])), None),
                "dense": pair(s, p + "attn.out_proj"),
                "fc": pair(s, p + "ffn.up_proj"),
                "proj": pair(s, p + "ffn.down_proj"),
                "input_layernorm": norm(s, p + "norm_1"),
                "post_layernorm": norm(s, p + "norm_2"),
            }
        )
    config = {
        **shared(c, "MPTForCausalLM", c.d_model, c.n_layers, c.n_heads),
        "num_key_value_heads": kv_heads,
        "position_embedding_type": "alibi",
        "hidden_act": "gelu",
        "intermediate_size": 4 * c.d_model,
        "bias": False,
        "clip_qkv": c.attn_config.clip_qkv,
        "alibi_bias_max": c.attn_config.alibi_bias_max,
    }
    table = s["transformer.wte.weight"]
    head = {"weight": table.clone()}
    return Parts(config, table, norm(s, "transformer.norm_f"), head, layers, kv_heads=kv_heads)


FAMILIES: Mapping[str, Callable[[Any], Parts]] = {"gpt_neox": gpt_neox, "gptj": gptj, "opt": opt, "mpt": mpt}


def shared(config: Any, architecture: str, hidden: int, layers: int, heads: int) -> dict[str, Any]:
    """The keys that all families have."""
    return {
        "architecture": architecture,
        "dtype": "float32",
        "logits_dtype": "float32",
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_size": hidden,
        "vocab_size": config.vocab_size,
    }


def pair(state: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear."""
    return state[f"{name}.weight"], state.get(f"{name}.bias")


def norm(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What a norm stores."""
    return {kind: state[f"{name}.{kind}"] for kind in ("weight", "bias") if f"{name}.{kind}" in state}


def write(
    model: Any,
    folder: Path,
    *,
    tp: int = 1,
    pp: int = 1,
    linear: LinearWriter = plain,
    quantization: Mapping[str, Any] | None = None,
    row_bias: str = "copied",
    parallel_embedding: int | None = None,
    per_layer: Mapping[str, Tensor] | None = None,
    share_embedding: bool = False,
    **keys: Any,
) -> Path:
    """Write a checkpoint.

    Args:
        model: the model.
        folder: where to.
        tp: how many ranks share a layer.
        pp: how many runs of layers there are.
        linear: the form of linears.
        quantization: what the config says of it.
        row_bias: what ranks store of the bias of a linear whose inputs are shared out: `copied`, `first` or `shares`.
        parallel_embedding: the dim by which the table of tokens is shared out; None for a copy in each rank.
        share_embedding: whether the head is the table of tokens, which the last ranks have as well as the first.
        per_layer: what each rank has for each layer besides.
        keys: of the config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = FAMILIES[model.config.model_type](model)
    heads = parts.config["num_attention_heads"]
    kv_heads = parts.config.get("num_key_value_heads", heads)
    config = {
        **parts.config,
        "quantization": dict(quantization or {"quant_algo": None}),
        "mapping": {"world_size": tp * pp, "tp_size": tp, "pp_size": pp},
        "use_parallel_embedding": parallel_embedding is not None,
        "embedding_sharding_dim": parallel_embedding or 0,
        "share_embedding_table": share_embedding,
        **keys,
    }
    (folder / "config.json").write_text(json.dumps(config))
    count = len(parts.layers)
    stages = torch.tensor_split(torch.arange(count), pp)
    for rank in range(tp * pp):
        stage, r = divmod(rank, tp)
        tensors: dict[str, Tensor] = {}
        for local, number in enumerate(stages[stage].tolist()):
            prefix = f"transformer.layers.{local}."
            layer = parts.layers[number]
            weights, biases = layer["qkv"]
            tensors |= _named(prefix + "attention.qkv", linear(_qkv_part(weights, heads, kv_heads, tp, r)))
            if biases is not None:
                tensors[prefix + "attention.qkv.bias"] = _qkv_part(biases, heads, kv_heads, tp, r)
            weight, bias = layer["fc"]
            tensors |= _named(prefix + "mlp.fc", linear(weight.chunk(tp, 0)[r]))
            if bias is not None:
                tensors[prefix + "mlp.fc.bias"] = bias.chunk(tp, 0)[r]
            for module, kind in (("attention.dense", "dense"), ("mlp.proj", "proj")):
                weight, bias = layer[kind]
                tensors |= _named(prefix + module, linear(weight.chunk(tp, 1)[r]))
                if bias is not None:
                    tensors[f"{prefix}{module}.bias"] = _row_bias(bias, row_bias, tp, r)
            for name, stored in layer.items():
                if name.endswith("layernorm"):
                    tensors |= _named(prefix + name, stored)
            tensors |= {prefix + name: tensor for name, tensor in (per_layer or {}).items()}
        if stage == 0 or (share_embedding and stage == pp - 1):
            table = parts.embedding
            dim = parallel_embedding
            tensors["transformer.vocab_embedding.weight"] = table if dim is None else table.chunk(tp, dim)[r]
            if parts.positions is not None and stage == 0:
                tensors["transformer.position_embedding.weight"] = parts.positions
        if stage == pp - 1:
            tensors |= _named("transformer.ln_f", parts.final_norm)
            if not share_embedding:
                tensors |= {f"lm_head.{kind}": tensor.chunk(tp, 0)[r] for kind, tensor in parts.head.items()}
        copied = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        save_file(copied, folder / f"rank{rank}.safetensors")
    return folder


def _named(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{kind}": tensor for kind, tensor in tensors.items()}


def _qkv_part(parts: list[Tensor], heads: int, kv_heads: int, tp: int, rank: int) -> Tensor:
    """Queries, keys and values of a rank's heads; where there are fewer key heads than ranks, several have the same."""
    q, k, v = parts
    chunks = min(tp, kv_heads)
    shared_by = tp // chunks
    return torch.cat([q.chunk(tp, 0)[rank], *(part.chunk(chunks, 0)[rank // shared_by] for part in (k, v))])


def _row_bias(bias: Tensor, how: str, tp: int, rank: int) -> Tensor:
    if how == "shares":
        return bias / tp
    return torch.zeros_like(bias) if how == "first" and rank else bias


def kernel_order(q: Tensor, bits: int, gpu: str) -> Tensor:
    """Integers `[K, N]` in the order of the kernels of a GPU, one by one, as bytes of the shape that is stored."""
    inputs, outputs = q.shape
    rows = q.tolist()
    if gpu in ("ampere", "hopper"):
        size = 128 // bits
        place = [
            base + 8 * ((t // 2) % (size // 8)) + 2 * (t // (size // 4)) + t % 2
            for base in range(0, inputs, size)
            for t in range(size)
        ]
        rows = [rows[source] for source in place]
    stream = [value for row in rows for value in row]
    if gpu != "volta":
        stream = [rows[k][n] for n in range(outputs) for k in range(inputs)]
    if gpu == "ampere":
        turns, tile = 16 // bits, 64
        columns = [[rows[k][n] for k in range(inputs)] for n in range(outputs)]
        stream = [
            value
            for first in range(0, outputs, turns)
            for start in range(0, inputs, tile)
            for column in columns[first : first + turns]
            for value in column[start : start + tile]
        ]
    if gpu != "hopper-plain":
        order = {8: (0, 2, 1, 3), 4: (0, 2, 4, 6, 1, 3, 5, 7)}[bits]
        size = len(order)
        stream = [stream[base + i] + (1 << (bits - 1)) for base in range(0, len(stream), size) for i in order]
    mask = (1 << bits) - 1
    stream = [value & mask for value in stream]
    if bits == 4:
        stream = [low | high << 4 for low, high in zip(stream[::2], stream[1::2], strict=True)]
    return torch.tensor(stream, dtype=torch.uint8).view(torch.int8).reshape(inputs, -1)


def rounded_columns(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers `[K, N]` and scales `[N]` of a weight `[N, K]`: the largest absolute value is half of the range."""
    half = 1 << (bits - 1)
    scale = (weight.abs().amax(1) / half).float()
    q = (weight / scale[:, None]).round().clamp(-half, half - 1).to(torch.int8)
    return q.T.contiguous(), scale


def weight_only(bits: int, gpu: str = "ampere") -> LinearWriter:
    """Integers with a scale for each output."""

    def linear(weight: Tensor) -> dict[str, Tensor]:
        q, scale = rounded_columns(weight.float(), bits)
        return {"weight": kernel_order(q, bits, gpu), "per_channel_scale": scale}

    return linear
