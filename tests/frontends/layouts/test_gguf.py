"""GGUF files."""

import copy
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from compiler.frontends import open_checkpoint
from compiler.ir.dtypes import DType
from tests.cli.llmc_command import llmc
from tests.frontends.layouts.compared import (
    assert_same_logits,
    assert_same_model,
    assert_same_tensors,
    lifted,
    refusal,
    weights,
)
from tests.frontends.models import neox_config, random_model
from tests.frontends.steps import edit_config

pytest.importorskip("gguf", reason="the package gguf is not installed")
from tests.frontends.layouts import gguf_writer
from tests.ir.test_block_ops import random_blocks

SIZES = {"vocab_size": 32, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}


def neox(**keys: Any) -> Any:
    config = neox_config(**SIZES, intermediate_size=128, max_position_embeddings=32, **keys)
    return random_model(transformers.GPTNeoXForCausalLM, config, 0)


def mpt() -> Any:
    config = transformers.MptConfig(
        vocab_size=32, d_model=64, n_heads=4, n_layers=1, max_seq_len=32, attn_config={"clip_qkv": 2.0}
    )
    return random_model(transformers.MptForCausalLM, config, 3)


def gptj() -> Any:
    config = transformers.GPTJConfig(
        vocab_size=32, n_embd=64, n_head=4, n_layer=1, n_positions=32, rotary_dim=8, n_inner=128
    )
    return random_model(transformers.GPTJForCausalLM, config, 1)


MODELS = {"gpt_neox": neox, "mpt": mpt, "gptj": gptj}


@pytest.mark.parametrize("family", MODELS)
def test_floats_are_the_model(tmp_path: Path, family: str) -> None:
    model = MODELS[family]()
    path = gguf_writer.write(model, tmp_path / "model.gguf")
    model.save_pretrained(tmp_path / "original")
    assert_same_model(path, tmp_path / "original")
    assert_same_logits(path, tmp_path / "original", vocab=32)


def test_a_sequential_residual(tmp_path: Path) -> None:
    model = neox(use_parallel_residual=False)
    path = gguf_writer.write(model, tmp_path / "model.gguf")
    model.save_pretrained(tmp_path / "original")
    assert_same_model(path, tmp_path / "original")


def in_blocks(form: str, table: str = "f16") -> Any:
    """Linears in blocks, the tables and the head as usual files have them, norms and biases as floats."""

    def kind(name: str, tensor: Tensor) -> str:
        if tensor.dim() < 2:
            return "f32"
        return table if name in ("token_embd.weight", "output.weight") else form

    return kind


def quantized(model: Any, folder: Path, kind: Any) -> Path:
    """The model with the weights that a file of these types stands for, in the Hugging Face layout, in float16."""
    copied = copy.deepcopy(model)
    _, tensors = gguf_writer.FAMILIES[model.config.model_type]
    forms = {name: kind(name, tensor) for name, tensor in tensors(model).items()}
    by_shape = {"attn": forms["blk.0.attn_output.weight"]}
    for name, parameter in copied.named_parameters():
        if parameter.dim() == 2:
            table = "embed" in name or "wte" in name or "lm_head" in name
            form = forms["token_embd.weight"] if table else by_shape["attn"]
            parameter.data = gguf_writer.rounded(parameter.data, form)
    copied.save_pretrained(folder)
    edit_config(folder, dtype="float16")
    return folder


@pytest.mark.parametrize("form", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_weights_in_blocks(tmp_path: Path, form: str) -> None:
    """Bit for bit those that the package gguf makes of the file, and integers where blocks are no more."""
    model, kind = neox(), in_blocks(form)
    path = gguf_writer.write(model, tmp_path / "model.gguf", kind=kind)
    assert_same_model(path, quantized(model, tmp_path / "original", kind))
    stored = {op.operands[0].type.dtype for op in lifted(path).find("dequantize")}
    assert stored == {"q4_0": {DType.i4}, "q5_0": {DType.i8}, "q8_0": {DType.i8}}.get(form, set())


def test_tables_in_blocks_are_looked_up_as_floats(tmp_path: Path) -> None:
    model, kind = mpt(), in_blocks("q8_0", "q8_0")
    path = gguf_writer.write(model, tmp_path / "model.gguf", kind=kind)
    assert_same_model(path, quantized(model, tmp_path / "original", kind))


@pytest.mark.parametrize("form", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"])
def test_weights_in_blocks_of_256(tmp_path: Path, form: str) -> None:
    config = neox_config(
        vocab_size=32, hidden_size=256, num_attention_heads=4, intermediate_size=256, max_position_embeddings=32
    )
    model = random_model(transformers.GPTNeoXForCausalLM, config, 0)
    blocks, state = {}, {}
    for seed, (name, tensor) in enumerate(gguf_writer.neox_tensors(model).items()):
        if name.startswith("blk.") and tensor.dim() == 2:
            blocks[name] = random_blocks(form, seed, len(tensor), 1)
            values = gguf_writer.dequantized(blocks[name], form)
            if "attn_qkv" in name:
                values = values.reshape(3, 4, 64, 256).transpose(0, 1).reshape(768, 256)
            state[name] = values
    path = gguf_writer.write(model, tmp_path / "model.gguf", kind=in_blocks(form), blocks=blocks)
    found = weights(lifted(path))
    layer = model.gpt_neox.layers[0]
    for module, name in (
        (layer.attention.query_key_value, "attn_qkv"),
        (layer.attention.dense, "attn_output"),
        (layer.mlp.dense_h_to_4h, "ffn_up"),
        (layer.mlp.dense_4h_to_h, "ffn_down"),
    ):
        module.weight.data = state[f"blk.0.{name}.weight"]
    model.save_pretrained(tmp_path / "original")
    edit_config(tmp_path / "original", dtype="float16")
    assert_same_tensors(found, weights(lifted(tmp_path / "original")))


def test_several_files_of_one_model(tmp_path: Path) -> None:
    model = neox()
    whole = gguf_writer.write(model, tmp_path / "whole.gguf")
    names = gguf_writer.neox_tensors(model).keys()
    for number in range(2):
        gguf_writer.write(
            model,
            tmp_path / f"part-0000{number + 1}-of-00002.gguf",
            only=[name for i, name in enumerate(names) if i % 2 == number],
            more=partial(_split, number),
        )
    first, second = sorted(tmp_path.glob("part-*"))
    assert_same_model(first, whole)
    assert "is one of 2 files of a model, and not the first" in refusal(second).message
    second.unlink()
    assert "part-00002-of-00002.gguf is missing" in refusal(first).message


def _split(number: int, writer: Any) -> None:
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", 2)


def changed(path: Path, data: bytes) -> Path:
    """The file with other content."""
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file to spoil."""
    return gguf_writer.write(mpt(), tmp_path_factory.mktemp("gguf") / "model.gguf").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-40], "ends inside the tensor"),
        (lambda data: data[:200], "ends inside its header, or is damaged"),
        (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], "is of version 1, which is not supported"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "is big-endian, which is not supported"),
        (lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:], "is damaged"),
        (lambda data: data.replace(b"mpt", b"xyz"), "of the architecture 'xyz', which is not supported"),
        (
            lambda data: data.replace(b"blk.0.ffn_up", b"blk.0.ffn_xx"),
            "'blk.0.ffn_xx.weight' in model.gguf has no place",
        ),
        (lambda data: data.replace(b"token_embd", b"token_xxxx"), "'token_embd.weight' is missing"),
        (lambda data: data.replace(b"mpt.block_count", b"mpt.block_xxxxx"), "'block_count' is missing"),
        (lambda data: data.replace(b"attn_output", b"attn_norm.q"), "has no place"),
        (
            lambda data: data.replace(b"blk.0.ffn_up", b"blk.1.ffn_up"),
            "'block_count' is 1, but the file holds 2 layers",
        ),
    ],
)
def test_damaged_and_foreign_files_are_refused(whole: bytes, tmp_path: Path, spoil: Any, message: str) -> None:
    assert message in refusal(changed(tmp_path / "model.gguf", spoil(whole))).message


def test_what_only_has_the_name_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for data, message in (
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"x", "is no GGUF"),
    ):
        assert message in refusal(changed(path, data)).message
    llmc("compile", tmp_path).failed(f"{tmp_path} has no config.json", f"such as {path}")


def test_other_quantizations_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    blocks = {"blk.0.attn_output.weight": torch.zeros(64, 36, dtype=torch.uint8)}
    gguf_writer.write(mpt(), path, kind=lambda name, tensor: "iq4_nl" if name in blocks else "f32", blocks=blocks)
    error = refusal(path)
    assert "is of the type 20 of GGUF, which is not supported" in error.message
    assert "Q8_0" in str(error.hint)


def test_unknown_keys_are_noted(tmp_path: Path) -> None:
    path = gguf_writer.write(mpt(), tmp_path / "model.gguf", more=lambda w: w.add_uint32("mpt.frobnicate", 1))
    assert "the key 'mpt.frobnicate' is not known and was ignored" in open_checkpoint(path).notes


def test_positions_that_are_scaled_are_refused(tmp_path: Path) -> None:
    path = gguf_writer.write(
        neox(), tmp_path / "model.gguf", more=lambda w: w.add_string("gptneox.rope.scaling.type", "yarn")
    )
    assert "'rope.scaling.type' is 'yarn', which is not supported" in refusal(path).message
