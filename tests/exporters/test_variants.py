"""Every variant of a family that a frontend reads is written as it was read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compiler.errors import ExportError
from compiler.exporters.template import make_template
from compiler.frontends import frontend, lift, open_checkpoint
from compiler.frontends.attention import Attention
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.lifting import Lifting
from compiler.frontends.modules import embed, projected_attention
from compiler.frontends.step import ModelShape
from tests.exporters.digests import outputs_of
from tests.exporters.exporting import exported, rewritten, tensors_of
from tests.registrations import forgotten

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
NEOX = {**SIZES, "intermediate_size": 32}
GPTJ = {"n_embd": 16, "n_head": 2, "n_layer": 2, "rotary_dim": 4, "n_positions": 32}
OPT = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "ffn_dim": 32,
    "max_position_embeddings": 32,
}
MPT = {"d_model": 16, "n_heads": 4, "n_layers": 2, "max_seq_len": 32}
FOUNDRY = {**MPT, "architectures": ["MPTForCausalLM"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "neox": {"model_type": "gpt_neox", **NEOX},
    "neox without biases, tied": {
        "model_type": "gpt_neox",
        **NEOX,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "use_parallel_residual": False,
    },
    "gptj": {"model_type": "gptj", **GPTJ},
    "gptj tied": {"model_type": "gptj", **GPTJ, "tie_word_embeddings": True},
    "opt": {"model_type": "opt", **OPT},
    "opt post-norm, narrow embeddings": {
        "model_type": "opt",
        **OPT,
        "word_embed_proj_dim": 8,
        "do_layer_norm_before": False,
    },
    "galactica": {"model_type": "opt", **OPT, "enable_bias": False, "layer_norm_elementwise_affine": False},
    "opt untied": {"model_type": "opt", **OPT, "tie_word_embeddings": False},
    "mpt": {"model_type": "mpt", **MPT},
    "mpt with everything": {
        "model_type": "mpt",
        **FOUNDRY,
        "tie_word_embeddings": False,
        "no_bias": False,
        "logit_scale": "inv_sqrt_d_model",
        "final_logit_softcapping": 30.0,
        "ffn_config": {"ffn_type": "mptglu", "ffn_hidden_size": 24},
        "attn_config": {
            "attn_type": "grouped_query_attention",
            "kv_n_heads": 2,
            "qk_ln": True,
            "clip_qkv": 6.0,
            "alibi": True,
            "sliding_window_size": 8,
        },
    },
    "mpt, separate projections, positions": {
        "model_type": "mpt",
        **FOUNDRY,
        "norm_type": "rmsnorm",
        "learned_pos_emb": True,
        "attn_config": {"attn_type": "multiquery_attention", "fused_qkv": False, "qk_gn": True},
    },
    "mpt, layers that share caches": {
        "model_type": "mpt",
        **FOUNDRY,
        "attn_config": {"rope": True},
        "block_overrides": {
            "order": [{"name": "default"}, {"name": "reuse"}],
            "overrides": {"reuse": {"attn_config": {"reuse_kv_layer_idx": -1}}},
        },
    },
}
VARIANTS = {name: {"vocab_size": 31, "dtype": "float32", **config} for name, config in VARIANTS.items()}


def written(config: dict[str, Any], folder: Path) -> Path:
    """A checkpoint of random weights, with the tensors that the frontend asks for."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    template = make_template(config, lift(Checkpoint(folder, dict(config), dummy_weights=True)))
    generator = torch.Generator().manual_seed(0)
    sizes = {n: op.result.type.sizes({}) for n, op in template.weights.items() if not n.endswith(".act.scales")}
    save_file({n: torch.randn(size, generator=generator) for n, size in sizes.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("passes", ["", "merge-linears,fuse-attention,cleanup,cache=paged"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tensors(tmp_path: Path, variant: str, passes: str) -> None:
    source = written(VARIANTS[variant], tmp_path / "in")
    exported(rewritten(source, passes), source, "safetensors", tmp_path / "out")
    before, after = tensors_of(source), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    graph = lift(open_checkpoint(source))
    assert outputs_of(lift(open_checkpoint(tmp_path / "out"))) == outputs_of(graph)


@pytest.mark.parametrize("variant", VARIANTS)
def test_quantized(tmp_path: Path, variant: str) -> None:
    source = written(VARIANTS[variant], tmp_path / "in")
    graph = rewritten(source, "quant=int8:act=token")
    again = exported(graph, source, "compressed-tensors", tmp_path / "out")
    assert outputs_of(again) == outputs_of(graph)


def _lift_tiny(lifting: Lifting) -> None:
    """A family whose MLP stores its weights with a row for each input, as GPT-2 does."""
    config = lifting.config
    hidden, heads = config.size("d_model"), config.size("n_heads")
    shape = ModelShape(
        vocab=config.size("vocab_size"),
        context=32,
        layers=1,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        positions="none",
    )
    step = lifting.begin(shape)
    b = step.b
    x, table = embed(step, "wte", hidden)
    with b.scope("layers.0", "h.0"):
        attention = Attention(scale=0.25, mask=step.causal_mask())
        x = b.add(x, projected_attention(step, x, "h.0.attn", 0, attention, bias=False))
        weight = b.transpose(step.weights.take("h.0.fc.weight", hidden, hidden, name="stored"), perm=(1, 0))
        x = b.add(x, b.linear(x, weight, name="fc"))
    lifting.finish(step, b.linear(step.logit_rows(x), table, name="logits"))


def test_a_family_of_a_plug_in(tmp_path: Path) -> None:
    config = {"model_type": "tiny", "d_model": 16, "n_heads": 2, "vocab_size": 31, "dtype": "float32"}
    with forgotten():
        frontend("tiny", "TinyForCausalLM")(_lift_tiny)
        source = written(config, tmp_path / "in")
        exported(rewritten(source, ""), source, "safetensors", tmp_path / "out")
        before, after = tensors_of(source), tensors_of(tmp_path / "out")
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        graph = rewritten(source, "quant=int8:skip=fc")
        assert outputs_of(exported(graph, source, "gptq", tmp_path / "quantized")) == outputs_of(graph)
        with pytest.raises(ExportError) as caught:
            exported(rewritten(source, "quant=int8"), source, "gptq", tmp_path / "more")
    assert caught.value.message == (
        "the family stores 'h.0.fc.weight' with a row for each input, "
        "for which no format of quantized weights has a place"
    )
    assert caught.value.hint == "leave it as it is: skip=h.0.fc"
