"""MPT as llm-foundry defines it, stated once more in plain torch.

For the keys that transformers' own MPT ignores. It computes whole rows without caches, in float64, from a config and
its weights by name; nothing is shared with the frontend.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def mpt_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model."""
    attn, ffn = config.get("attn_config", {}), config.get("ffn_config", {})
    d, heads = config["d_model"], config["n_heads"]
    width = config.get("head_dim", d // heads)
    q, kv = heads * width, kv_heads(config) * width
    inner = ffn.get("ffn_hidden_size", int(d * config.get("expansion_ratio", 4)))
    bias = not config["no_bias"]
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (config["vocab_size"], d)}

    def linear(name: str, out: int, width: int) -> None:
        shapes[f"{name}.weight"] = (out, width)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name: str, width: int, kind: str) -> None:
        shapes[f"{name}.weight"] = (width,)
        if bias and "rms" not in kind:
            shapes[f"{name}.bias"] = (width,)

    kind = config.get("norm_type", "low_precision_layernorm")
    for i in range(config["n_layers"]):
        block = f"transformer.blocks.{i}"
        source = sources(config)[i]
        norm(f"{block}.norm_1", d, kind)
        norm(f"{block}.norm_2", d, kind)
        if source == i and attn.get("fused_qkv", True):
            linear(f"{block}.attn.Wqkv", q + 2 * kv, d)
        else:
            linear(f"{block}.attn.Wq", q, d)
            if source == i:
                linear(f"{block}.attn.Wk", kv, d)
                linear(f"{block}.attn.Wv", kv, d)
        if attn.get("qk_ln") or attn.get("qk_gn"):
            by_head = attn.get("qk_gn", False)
            norm(f"{block}.attn.q_ln", width if by_head else q, attn.get("norm_type", "layernorm"))
            if source == i:
                norm(f"{block}.attn.k_ln", width if by_head else kv, attn.get("norm_type", "layernorm"))
        linear(f"{block}.attn.out_proj", d, q)
        linear(f"{block}.ffn.up_proj", inner, d)
        linear(f"{block}.ffn.down_proj", d, inner)
        if ffn.get("ffn_type") == "mptglu":
            linear(f"{block}.ffn.gate_proj", inner, d)
    norm("transformer.norm_f", d, kind)
    if has_learned_positions(config):
        shapes["transformer.wpe.weight"] = (config["max_seq_len"], d)
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (config["vocab_size"], d)
    return shapes


def mpt_logits(config: dict[str, Any], weights: Weights, row: list[int]) -> Tensor:
    """The logits `[tokens, vocab]` of one row of tokens."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    eps = config.get("norm_eps", config.get("layer_norm_epsilon", 1e-5))
    kind = config.get("norm_type", "low_precision_layernorm")
    x = w["transformer.wte.weight"][row]
    if has_learned_positions(config):
        x = x + w["transformer.wpe.weight"][: len(row)]
    kept: list[tuple[Tensor, Tensor]] = []
    for i in range(config["n_layers"]):
        block = f"transformer.blocks.{i}"
        x = x + attention(config, w, f"{block}.attn", i, norm(w, f"{block}.norm_1", x, kind, eps), kept)
        x = x + ffn(config, w, f"{block}.ffn", norm(w, f"{block}.norm_2", x, kind, eps))
    x = norm(w, "transformer.norm_f", x, kind, eps)
    head = "transformer.wte.weight" if config.get("tie_word_embeddings", True) else "lm_head.weight"
    logits = x @ w[head].T
    factor = config.get("logit_scale")
    if factor is not None:
        logits = logits * (1 / math.sqrt(config["d_model"]) if factor == "inv_sqrt_d_model" else factor)
    cap = config.get("final_logit_softcapping")
    return logits if cap is None else cap * torch.tanh(logits / cap)


def attention(config: dict[str, Any], w: Weights, name: str, layer: int, x: Tensor, kept: list[Any]) -> Tensor:
    """One layer's attention; `kept` gains the layer's keys and values, which later layers may use."""
    attn = config.get("attn_config", {})
    heads, shared = config["n_heads"], kv_heads(config)
    width = config.get("head_dim", config["d_model"] // heads)
    own = sources(config)[layer] == layer
    if own and attn.get("fused_qkv", True):
        q, k, v = linear(w, f"{name}.Wqkv", x).split([heads * width, shared * width, shared * width], dim=-1)
    else:
        q = linear(w, f"{name}.Wq", x)
        k, v = (linear(w, f"{name}.{part}", x) for part in ("Wk", "Wv")) if own else (q, q)
    if clip := attn.get("clip_qkv"):
        q, k, v = (part.clamp(-clip, clip) for part in (q, k, v))
    kind, eps = attn.get("norm_type", "layernorm"), attn.get("norm_eps", 1e-5)

    def by_head(x: Tensor, count: int, part: str) -> Tensor:
        if attn.get("qk_ln"):
            x = norm(w, f"{name}.{part}_ln", x, kind, eps)
        x = x.view(len(x), count, width)
        if attn.get("qk_gn"):
            x = norm(w, f"{name}.{part}_ln", x, kind, eps)
        return rotated(config, layer, x).transpose(0, 1)

    q = by_head(q, heads, "q")
    kept.append(
        (by_head(k, shared, "k"), v.view(len(x), shared, width).transpose(0, 1))
        if own
        else kept[sources(config)[layer]]
    )
    k, v = (part.repeat_interleave(heads // shared, dim=0) for part in kept[layer])
    scores = q @ k.transpose(1, 2) * (attn.get("softmax_scale") or 1 / math.sqrt(width))
    if cap := attn.get("attn_logit_softcapping"):
        scores = cap * torch.tanh(scores / cap)
    distance = torch.arange(len(x))[:, None] - torch.arange(len(x))[None, :]
    if attn.get("alibi"):
        scores = scores - slopes(heads, attn.get("alibi_bias_max", 8))[:, None, None] * distance.abs()
    visible = distance >= 0
    if (window := override(config, layer).get("sliding_window_size", attn.get("sliding_window_size", -1))) != -1:
        visible = visible & (distance <= window)
    probs = scores.masked_fill(~visible, -math.inf).softmax(dim=-1)
    return linear(w, f"{name}.out_proj", (probs @ v).transpose(0, 1).reshape(len(x), heads * width))


def rotated(config: dict[str, Any], layer: int, x: Tensor) -> Tensor:
    """`x [tokens, heads, width]` with its halves rotated by the token's position."""
    attn = config.get("attn_config", {})
    if not attn.get("rope") or override(config, layer).get("nope"):
        return x
    scaling = attn.get("rope_hf_config", {})
    stretch = scaling["factor"] if attn.get("rope_impl") == "hf" and scaling.get("type") == "linear" else 1.0
    width = x.shape[-1]
    frequency = attn.get("rope_theta", 10000) ** -(torch.arange(0, width, 2).double() / width)
    angle = torch.arange(len(x)).double()[:, None, None] / stretch * frequency
    a, b = x[..., : width // 2], x[..., width // 2 :]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


def ffn(config: dict[str, Any], w: Weights, name: str, x: Tensor) -> Tensor:
    """The MLP, gated or not."""
    keys = config.get("ffn_config", {})
    function = dict(keys.get("ffn_act_fn", {"name": "gelu"}))
    act = getattr(F, function.pop("name"))
    y = linear(w, f"{name}.up_proj", x)
    if keys.get("ffn_type") == "mptglu":
        return linear(w, f"{name}.down_proj", act(linear(w, f"{name}.gate_proj", x), **function) * y)
    return linear(w, f"{name}.down_proj", act(y, **function))


def slopes(heads: int, bias_max: float) -> Tensor:
    """ALiBi's slopes for any number of heads."""
    power = 2 ** math.ceil(math.log2(heads))
    series = 2.0 ** -(torch.arange(1, power + 1).double() * bias_max / power)
    return series if power == heads else torch.cat([series[1::2], series[::2]])[:heads]


def norm(w: Weights, name: str, x: Tensor, kind: str, eps: float) -> Tensor:
    """A LayerNorm, or an RMSNorm if the kind says so."""
    if "rms" in kind:
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"]
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w.get(f"{name}.bias"), eps)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """A linear layer, with a bias if there is one."""
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def kv_heads(config: dict[str, Any]) -> int:
    """How many key heads there are."""
    attn = config.get("attn_config", {})
    kinds = {"multiquery_attention": 1, "grouped_query_attention": attn.get("kv_n_heads")}
    count: int = kinds.get(attn.get("attn_type"), config["n_heads"])
    return count


def has_learned_positions(config: dict[str, Any]) -> bool:
    """Whether there is a table of positions."""
    attn = config.get("attn_config", {})
    return bool(config.get("learned_pos_emb", True)) and not attn.get("alibi") and not attn.get("rope")


def override(config: dict[str, Any], layer: int) -> dict[str, Any]:
    """What `block_overrides` says about the layer's attention; here `order` is a flat list of names."""
    blocks = config.get("block_overrides")
    if not blocks or (name := blocks["order"][layer]["name"]) == "default":
        return {}
    keys: dict[str, Any] = blocks["overrides"][name]["attn_config"]
    return keys


def sources(config: dict[str, Any]) -> list[int]:
    """The layer whose keys and values each layer uses."""
    found: list[int] = []
    for i in range(config["n_layers"]):
        back = override(config, i).get("reuse_kv_layer_idx")
        found.append(i if back is None else found[i + back])
    return found
