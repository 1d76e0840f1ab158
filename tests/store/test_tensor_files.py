"""Tensors of safetensors files as constants of graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import llmc
from compiler.errors import CheckpointError


def test_a_constant_of_a_file_is_read_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(2, dtype=torch.float32).to(torch.bfloat16)}
    save_file(tensors, "some.safetensors")
    refs = llmc.read_tensors("some.safetensors")
    assert {name: str(ref.type) for name, ref in refs.items()} == {"a": "f32[3,4]", "b": "bf16[2]"}
    graph = llmc.parse("graph g\ninput x: f32[4]\n.:\n  %y: f32[4] = relu(%x)\noutput y = %y\n")

    def visit(op: llmc.Op, b: llmc.RewriteBuilder) -> llmc.Value:
        return b.linear(op.operands[0], b.const(data=refs["a"]))

    made = llmc.sweep(graph, visit, retype=True)
    monkeypatch.chdir("/")  # its file is named absolutely
    x = torch.randn(4)
    torch.testing.assert_close(llmc.Interpreter(made)({"x": x})["y"], tensors["a"] @ x)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as missing:
        llmc.read_tensors(tmp_path / "none.safetensors")
    assert str(missing.value) == (
        f"cannot read {tmp_path}/none.safetensors: No such file or directory\nhint: give a safetensors file"
    )
    (tmp_path / "short.safetensors").write_bytes(b"\xff\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(CheckpointError, match="is truncated: its header needs 263 bytes, the file has 10") as damaged:
        llmc.read_tensors(tmp_path / "short.safetensors")
    assert damaged.value.hint == "copy the file again"
    save_file({"c": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match="the tensor 'c' has the element type C64"):
        llmc.read_tensors(tmp_path / "odd.safetensors")
