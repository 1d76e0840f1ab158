"""Attention fusion on lifted models: every variant of attention that the frontends write, in every element type."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import GPTJConfig, GPTJForCausalLM, MptConfig, MptForCausalLM, OPTConfig, OPTForCausalLM

from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.ir.printer import print_graph
from compiler.ir.trace import Trace
from compiler.passes import run_pipeline
from tests.cli.llmc_command import llmc
from tests.frontends.models import neox_config, random_model, randomize, saved
from tests.frontends.mpt_reference import mpt_shapes
from tests.frontends.steps import lift_folder, random_rows, run_rows

Check = Callable[[Op], bool]

GPTJ = {"vocab_size": 31, "n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 32, "rotary_dim": 4}
OPT = {"vocab_size": 31, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "ffn_dim": 20}
MPT = {"vocab_size": 31, "d_model": 24, "n_heads": 6, "n_layers": 2, "max_seq_len": 32, "model_type": "mpt"}


def neox(**keys: Any) -> tuple[Any, Any]:
    return transformers.GPTNeoXForCausalLM, neox_config(num_hidden_layers=2, **keys)


def opt(**keys: Any) -> tuple[Any, Any]:
    return OPTForCausalLM, OPTConfig(max_position_embeddings=24, **OPT, **keys)


def mpt(**attn: Any) -> tuple[Any, Any]:
    return MptForCausalLM, MptConfig(**MPT, attn_config=attn)


def plain(op: Op) -> bool:
    return len(op.operands) == 4


def alibi(op: Op) -> bool:
    return len(op.operands) == 5 and op.operands[4].name.startswith("positions.alibi")


def scaled(factor: float, inner: Check) -> Check:
    return lambda op: op.attrs["scale"] == pytest.approx(factor) and inner(op)


def groups(kv_heads: int, inner: Check) -> Check:
    return lambda op: (op.operands[0].type.shape[1], op.operands[1].type.shape[1]) == (6, kv_heads) and inner(op)


TRANSFORMERS: dict[str, tuple[tuple[Any, Any], Check]] = {
    "neox": (neox(), scaled(8**-0.5, plain)),
    "neox, sequential, no biases": (neox(use_parallel_residual=False, attention_bias=False), plain),
    "neox, all dims rotate": (neox(rotary_pct=1.0), plain),
    "neox, no dims rotate": (neox(rotary_pct=0.0), plain),
    "gptj, float32 scores over sqrt": ((GPTJForCausalLM, GPTJConfig(**GPTJ)), scaled(1 / 4, plain)),
    "opt, queries scaled": (opt(), scaled(8**-0.5, plain)),
    "opt, norms after": (opt(do_layer_norm_before=False), plain),
    "mpt, alibi": (mpt(), scaled(0.5, alibi)),
    "mpt, alibi, clipped": (mpt(clip_qkv=0.5, softmax_scale=0.3), scaled(0.3, alibi)),
    "mpt, no scale": (mpt(softmax_scale=1.0), scaled(1.0, alibi)),
}
SHARED = {"attn_type": "grouped_query_attention", "kv_n_heads": 2}
FOUNDRY: dict[str, tuple[dict[str, Any], Check]] = {
    "clipped": ({"clip_qkv": 0.5}, groups(6, plain)),
    "normalised": ({"qk_ln": True, "rope": True}, groups(6, plain)),
    "normalised by head": ({"qk_gn": True, "norm_type": "rmsnorm", "rope": True}, groups(6, plain)),
    "clipped and normalised, alibi": ({"clip_qkv": 0.5, "qk_ln": True, "alibi": True}, groups(6, alibi)),
    "shared": (SHARED | {"rope": True}, groups(2, plain)),
    "shared, alibi": (SHARED | {"alibi": True, "clip_qkv": 0.5, "qk_ln": True}, groups(2, alibi)),
    "one key head": ({"attn_type": "multiquery_attention", "alibi": True}, groups(1, alibi)),
    "window": (SHARED | {"sliding_window_size": 3, "softmax_scale": 1.0}, scaled(1.0, groups(2, plain))),
}


def foundry(folder: Path, **attn: Any) -> Graph:
    """The graph of an MPT checkpoint as llm-foundry writes it."""
    config = {**MPT, "architectures": ["MPTForCausalLM"], "no_bias": True, "attn_config": attn}
    weights = {name: torch.zeros(shape) for name, shape in mpt_shapes(config).items()}
    randomize(weights.items(), seed=1)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return lift_folder(folder)


def check_fused(graph: Graph, check: Check) -> None:
    """Both layers' attentions are one op, whatever ran before, and compute the same."""
    for before in ("", "dtype=float16,", "dtype=bfloat16,", "cleanup,", "dtype=float16,merge-linears,cleanup,"):
        for mode in ("fp32", "fp16"):
            trace = Trace()
            fused = run_pipeline(graph, f"{before}fuse-attention={mode}", trace=trace).graph
            found = list(fused.find("attention"))
            assert len(found) == 2 and all(map(check, found)), before
            assert {op.attrs["rounded"] for op in found} == {mode == "fp16"}
            assert not list(fused.find("softmax"))
            assert "declined" not in trace.text().partition("fuse-attention")[2]
    rows = random_rows(31, seed=3)
    # One step, because caches pass through float32 between steps.
    plan = ((7, 1, 4),)
    fused = run_pipeline(graph, "fuse-attention").graph
    for expected, logits in zip(run_rows(graph, rows, plan), run_rows(fused, rows, plan), strict=True):
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", TRANSFORMERS)
def test_models_of_transformers(case):
    (model_class, config), check = TRANSFORMERS[case]
    with saved(random_model(model_class, config, seed=0)) as folder:
        check_fused(lift_folder(folder), check)


@pytest.mark.parametrize("case", FOUNDRY)
def test_models_of_llm_foundry(case, tmp_path):
    attn, check = FOUNDRY[case]
    check_fused(foundry(tmp_path, **attn), check)


@pytest.mark.parametrize("attn", [{"alibi": True}, SHARED], ids=["own heads", "shared heads"])
def test_a_cap_on_the_scores_is_declined_in_every_layer(attn, tmp_path):
    graph = foundry(tmp_path, attn_logit_softcapping=2.0, **attn)
    (tmp_path / "model.ir").write_text(print_graph(graph))
    done = llmc("opt", tmp_path / "model.ir", "--passes", "fuse-attention", "--explain", "-o", tmp_path / "out.ir")
    assert done.status == 0
    product = "reshape" if "kv_n_heads" in attn else "matmul"
    root = "context.heads" if "kv_n_heads" in attn else "context"
    assert (
        f"    declined %layers.0..1.attn.{root} from transformer.blocks.0.attn: the scores are not a "
        f"product behind a mask: expected {product}, found tanh %layers.0.attn.scores.tanh\n"
    ) in done.err
