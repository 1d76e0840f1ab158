"""Checkpoints of TensorRT-LLM."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from compiler.frontends import lift, open_checkpoint
from tests.frontends.layouts import tensorrt_llm_writer as trtllm
from tests.frontends.layouts.compared import LIMITS, assert_same_logits, assert_same_model, lifted, refusal
from tests.frontends.models import logits_of, neox_config, random_model
from tests.frontends.steps import assert_same_logits as checked_logits
from tests.frontends.steps import edit_config

SIZES = {"vocab_size": 32, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3}


def neox(**keys: Any) -> Any:
    config = neox_config(**SIZES, intermediate_size=64, max_position_embeddings=32, **keys)
    return random_model(transformers.GPTNeoXForCausalLM, config, 0)


def gptj() -> Any:
    config = transformers.GPTJConfig(
        vocab_size=32, n_embd=32, n_head=4, n_layer=3, n_positions=32, rotary_dim=4, n_inner=64
    )
    return random_model(transformers.GPTJForCausalLM, config, 1)


def opt() -> Any:
    config = transformers.OPTConfig(**SIZES, ffn_dim=64, max_position_embeddings=32, word_embed_proj_dim=32)
    return random_model(transformers.OPTForCausalLM, config, 2)


def mpt() -> Any:
    config = transformers.MptConfig(
        vocab_size=32, d_model=32, n_heads=4, n_layers=3, max_seq_len=32, attn_config={"clip_qkv": 2.0}
    )
    return random_model(transformers.MptForCausalLM, config, 3)


MODELS = {"gpt_neox": neox, "gptj": gptj, "opt": opt, "mpt": mpt}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """A model of each family, and a folder that holds it in the Hugging Face layout."""
    found = {}
    for family, make in MODELS.items():
        model, folder = make(), tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        found[family] = model, folder
    return found


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (4, 1), (2, 2)])
@pytest.mark.parametrize("family", MODELS)
def test_ranks_make_the_model_that_was_converted(
    originals: dict[str, tuple[Any, Path]], family: str, tp: int, pp: int, tmp_path: Path
) -> None:
    model, original = originals[family]
    folder = trtllm.write(model, tmp_path / "ranks", tp=tp, pp=pp, max_position_embeddings=32)
    assert_same_model(folder, original)
    if (tp, pp) == (2, 2):
        assert_same_logits(folder, original, vocab=32)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_table_of_tokens_that_is_shared_out(originals: dict[str, tuple[Any, Path]], dim: int, tmp_path: Path) -> None:
    model, original = originals["gpt_neox"]
    assert_same_model(trtllm.write(model, tmp_path, tp=4, parallel_embedding=dim), original)


@pytest.mark.parametrize("family", ["gpt_neox", "opt", "mpt"])
@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (2, 3)])
def test_a_table_of_tokens_that_is_the_head(family: str, tp: int, pp: int, tmp_path: Path) -> None:
    """Of several stages the last has it as well as the first."""
    model = MODELS[family]()
    if family == "gpt_neox":
        model = neox(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "original")
    folder = trtllm.write(
        model,
        tmp_path / "ranks",
        tp=tp,
        pp=pp,
        parallel_embedding=0,
        share_embedding=True,
        max_position_embeddings=32,
    )
    assert_same_model(folder, tmp_path / "original")


def test_a_bias_that_only_the_first_rank_has(originals: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    model, original = originals["gptj"]
    assert_same_model(trtllm.write(model, tmp_path, tp=2, row_bias="first"), original)


def test_rows_that_pad_the_vocabulary_are_cut_off(originals: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    model, original = originals["gpt_neox"]
    trtllm.write(model, tmp_path, tp=2, parallel_embedding=0)
    for rank in range(2):
        path = tmp_path / f"rank{rank}.safetensors"
        tensors = load_file(path)
        if rank == 1:
            tensors |= {
                name: torch.cat([tensors[name], torch.zeros(4, 32)])
                for name in ("transformer.vocab_embedding.weight", "lm_head.weight")
            }
        save_file(tensors, path)
    assert_same_model(tmp_path, original)


def test_key_heads_that_several_ranks_have(tmp_path: Path) -> None:
    """llm-foundry's grouped queries: two key heads in four ranks."""
    model = mpt()
    model.config.attn_config.kv_n_heads = 2
    model.transformer.blocks = model.transformer.blocks[:1]
    model.config.n_layers = 1
    block = model.transformer.blocks[0]
    block.attn.Wqkv.weight = torch.nn.Parameter(block.attn.Wqkv.weight[: 32 + 2 * 16].clone())
    original = tmp_path / "original"
    model.save_pretrained(original)
    attn = json.loads((original / "config.json").read_text())["attn_config"]
    grouped = {**attn, "attn_type": "grouped_query_attention", "kv_n_heads": 2}
    edit_config(original, architectures=["MPTForCausalLM"], no_bias=True, attn_config=grouped)
    folder = trtllm.write(model, tmp_path / "ranks", tp=4, max_position_embeddings=32)
    assert_same_model(folder, original)


def test_projected_embeddings_that_were_multiplied_out(tmp_path: Path) -> None:
    """OPT 350m: the converter makes a table and a head of the model's width, which are not tied."""
    config = transformers.OPTConfig(
        **SIZES, ffn_dim=64, max_position_embeddings=32, word_embed_proj_dim=16, do_layer_norm_before=False
    )
    model = random_model(transformers.OPTForCausalLM, config, 2).double()
    folder = trtllm.write(model, tmp_path, tp=2)
    for path in folder.glob("*.safetensors"):
        save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path)
    checked_logits(lifted(folder), logits_of(model), vocab=32, seed=5)


def test_a_folder_of_engines_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"pretrained_config": {}, "build_config": {}}')
    assert "holds engines of TensorRT-LLM, not a checkpoint" in refusal(tmp_path).message


def spoil(folder: Path, rank: int, **tensors: torch.Tensor | None) -> None:
    """Change tensors of a rank by their whole names; None removes one."""
    path = folder / f"rank{rank}.safetensors"
    stored = load_file(path) | tensors
    save_file({name: tensor for name, tensor in stored.items() if tensor is not None}, path)


def spoil_all(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Change tensors of both ranks."""
    for rank in range(2):
        spoil(folder, rank, **tensors)


NORM = "transformer.layers.0.input_layernorm.weight"
DENSE = "transformer.layers.0.attention.dense.weight"

SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing rank": (
        lambda folder: (folder / "rank1.safetensors").unlink(),
        "rank1.safetensors is missing from {}: config.json says tp_size 2 and pp_size 1",
    ),
    "a rank too many": (
        lambda folder: shutil.copy(folder / "rank1.safetensors", folder / "rank2.safetensors"),
        "{} holds rank2.safetensors, but config.json says tp_size 2",
    ),
    "a tensor that one rank lacks": (
        lambda folder: spoil(folder, 1, **{NORM: None}),
        f"the tensor {NORM!r} is in rank0.safetensors, but not in rank1.safetensors",
    ),
    "a tensor that all lack": (
        lambda folder: spoil_all(folder, **{DENSE: None}),
        f"the tensor {DENSE!r} is missing from rank0.safetensors",
    ),
    "a norm that differs": (
        lambda folder: spoil(folder, 1, **{NORM: torch.zeros(32)}),
        f"the tensor {NORM!r} is another one in rank1.safetensors than in rank0.safetensors",
    ),
    "a part of another shape": (
        lambda folder: spoil(folder, 1, **{DENSE: torch.zeros(31, 16)}),
        "do not fit together: rank0.safetensors has [32,16], rank1.safetensors [31,16]",
    ),
    "a tensor without a place": (
        lambda folder: spoil_all(folder, medusa=torch.zeros(2)),
        "the tensor 'medusa' in rank0.safetensors has no place in the model that config.json describes",
    ),
    "another number of layers": (
        lambda folder: edit_config(folder, num_hidden_layers=4),
        "hold 3 layers; config.json says 4 ('num_hidden_layers')",
    ),
    "heads that ranks cannot share": (
        lambda folder: edit_config(folder, num_attention_heads=1),
        "'num_attention_heads' is 1, which 'mapping.tp_size' = 2 does not divide",
    ),
    "a world of another size": (
        lambda folder: edit_config(folder, mapping={"world_size": 3, "tp_size": 2}),
        "'mapping.world_size' is 3; 'tp_size' 2 times 'pp_size' 1 is not",
    ),
    "a key that is missing": (lambda folder: edit_config(folder, drop=("rotary_pct",)), "'rotary_pct' is missing"),
    "another architecture": (
        lambda folder: edit_config(folder, architecture="LlamaForCausalLM"),
        "'architecture' is 'LlamaForCausalLM', which is not supported",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_does_not_fit_is_named(originals: dict[str, tuple[Any, Path]], case: str, tmp_path: Path) -> None:
    spoil_, message = SPOILED[case]
    folder = trtllm.write(originals["gpt_neox"][0], tmp_path / "ranks", tp=2)
    spoil_(folder)
    assert message.format(folder) in refusal(folder).message


def test_unknown_keys_are_noted(originals: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    quantization = {"quant_algo": None, "group_size": 64, "pre_quant_scale": False}
    folder = trtllm.write(originals["gpt_neox"][0], tmp_path, frobnicate=1, quantization=quantization)
    checkpoint = open_checkpoint(folder)
    lift(checkpoint)
    assert checkpoint.notes == ["the config key 'frobnicate' is not known and was ignored"]


def test_dummy_weights_need_no_files_of_ranks(originals: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    folder = trtllm.write(originals["gpt_neox"][0], tmp_path)
    (folder / "rank0.safetensors").unlink()
    assert lift(open_checkpoint(folder, dummy_weights=True), limits=LIMITS).facts["family"] == "gpt_neox"
