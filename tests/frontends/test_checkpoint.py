"""Files of weights: what is read, and what is said about damaged ones."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from compiler.errors import CheckpointError, ConfigError, LlmcError
from compiler.frontends import lift, open_checkpoint
from compiler.ir.graph import Graph
from compiler.ir.tensor_data import read_tensor
from tests.frontends.steps import edit_config, lift_folder


def fails(folder: Path, kind: type[LlmcError] = CheckpointError) -> LlmcError:
    with pytest.raises(kind) as error:
        lift(open_checkpoint(folder))
    return error.value


def weights_of(graph: Graph) -> dict[str, Tensor]:
    """Every constant's values by the checkpoint's name."""
    refs: list[Any] = [op.attrs["data"] for op in graph.find("const")]
    return {ref.name: read_tensor(ref, graph.root) for ref in refs}


def same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_shards_hold_the_same_as_one_file(single, sharded):
    assert len(open_checkpoint(sharded).files) > 2
    assert same_weights(weights_of(lift_folder(sharded)), weights_of(lift_folder(single)))


def test_shards_without_an_index(single, sharded):
    (sharded / "model.safetensors.index.json").unlink()
    assert same_weights(weights_of(lift_folder(sharded)), weights_of(lift_folder(single)))


def test_one_file_of_another_name(single, folder):
    (folder / "model.safetensors").rename(folder / "pythia.safetensors")
    assert same_weights(weights_of(lift_folder(folder)), weights_of(lift_folder(single)))


def test_several_files_without_an_index(folder):
    for name in ("a", "b"):
        shutil.copy(folder / "model.safetensors", folder / f"{name}.safetensors")
    (folder / "model.safetensors").unlink()
    error = fails(folder)
    assert error.message == f"{folder} holds several files of weights and no index: a.safetensors, b.safetensors"
    assert error.hint == "keep the one to compile in a folder of its own, beside config.json"


def test_missing_shard(sharded):
    count = len(open_checkpoint(sharded).files)
    name = f"model-00002-of-{count:05}.safetensors"
    (sharded / name).unlink()
    assert fails(sharded).message == (
        f"the shard {name} is missing from {sharded}: model.safetensors.index.json calls for {count} shards, "
        f"{count - 1} are there"
    )
    (sharded / "model.safetensors.index.json").unlink()
    assert fails(sharded).message == (
        f"the shard {name} is missing from {sharded}: the shards' names call for {count} shards, {count - 1} are there"
    )


def test_an_index_that_does_not_fit(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    file = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "ghost.weight": file}}))
    assert fails(sharded).message == f"the index says that {file} holds the tensor 'ghost.weight', but it does not"
    path.write_text(json.dumps({"weight_map": {"x": "../../secrets.safetensors"}}))
    assert fails(sharded).message == (
        "model.safetensors.index.json names '../../secrets.safetensors', which is no file of the same folder"
    )


def test_truncated_file(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    error = fails(folder)
    assert error.message == (
        f"model.safetensors is truncated: it should have {len(data):,} bytes but has {len(data) - 100:,}"
    )
    assert error.hint == "download or copy the file again"
    path.write_bytes(data[:50])
    length = struct.unpack("<Q", data[:8])[0]
    assert fails(folder).message == (
        f"model.safetensors is truncated: its header needs {8 + length:,} bytes, the file has 50"
    )
    path.write_bytes(b"")
    assert fails(folder).message.startswith("model.safetensors is truncated")


def test_file_of_something_else(folder):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 20) + b"this is not JSON at all")
    assert fails(folder).message.startswith("model.safetensors is no safetensors file: its header cannot be read")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    error = fails(folder)
    size = path.stat().st_size
    assert error.message == f"model.safetensors is a Git LFS pointer of {size} bytes, not what it points to"
    assert error.hint == "fetch it: git lfs pull"


@pytest.mark.parametrize(
    ("file", "content", "kind", "hint"),
    [
        ("model.safetensors", b"PK\3\4more", "an archive of torch.save", "give it a name that ends in .bin"),
        ("model.safetensors", b"<!DOCTYPE html>", "a web page, as failed downloads leave", "download or copy the file"),
        ("model.safetensors", b"GGUF\3\0\0\0", "a GGUF file", "give the file itself as the model"),
        (
            "pytorch_model.bin",
            b"\x80\2\0\0\0\0\0\0{}",
            "a safetensors file",
            "give it a name that ends in .safetensors",
        ),
        ("pytorch_model.bin", b"\x1f\x8b", "a gzip archive", "unpack it first"),
    ],
)
def test_file_of_another_kind(folder, file, content, kind, hint):
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(content)
    error = fails(folder)
    assert error.message.startswith(f"{file} is {kind}, not a ")
    assert error.hint is not None and error.hint.startswith(hint)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_a_folder_where_a_file_should_be(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).mkdir()
    error = fails(folder)
    assert error.message == f"{folder / name} is a folder, where the file of that name should be"
    assert error.hint == "put the file in its place, or give that folder if it holds the whole checkpoint"


def test_a_folder_where_the_settings_of_generation_should_be(folder):
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"generation_config\.json is a folder, where the file of that name"):
        _ = open_checkpoint(folder).generation_config


def test_a_folder_of_another_name_is_no_file_of_weights(single, folder):
    (folder / "old.safetensors").mkdir()
    (folder / "model.safetensors").rename(folder / "pythia.safetensors")
    assert same_weights(weights_of(lift_folder(folder)), weights_of(lift_folder(single)))


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "quantize_config.json", "model.safetensors.index.json"]
)
def test_a_pointer_to_a_file_that_was_never_fetched(folder, name):
    path = folder / name
    if name.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")

    def read_all() -> None:
        checkpoint = open_checkpoint(folder)
        lift(checkpoint)
        _ = checkpoint.generation_config

    with pytest.raises(CheckpointError) as error:
        read_all()
    assert error.value.message == f"{path} is a Git LFS pointer of {path.stat().st_size} bytes, not what it points to"
    assert error.value.hint == "fetch it: git lfs pull"


def test_a_config_with_a_byte_order_mark(single, folder):
    path = folder / "config.json"
    path.write_text("\ufeff" + path.read_text().replace("\n", "\r\n"))
    assert same_weights(weights_of(lift_folder(folder)), weights_of(lift_folder(single)))


def test_header_whose_sizes_contradict(folder):
    header = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"12345678")
    assert fails(folder).message == (
        "model.safetensors is no safetensors file: its header cannot be read "
        "(tensor 'w' of F32 and shape [3] cannot take 8 bytes)"
    )


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    error = fails(folder)
    assert error.message == (
        f"{folder} holds no weights: neither model.safetensors, model.safetensors.index.json, pytorch_model.bin "
        "nor pytorch_model.bin.index.json"
    )
    assert error.hint == "download the weights too, or compile without them: --dummy-weights"


def test_dummy_weights_need_no_files(folder):
    with_files = lift_folder(folder)
    (folder / "model.safetensors").unlink()
    graph = lift(open_checkpoint(folder, dummy_weights=True))
    assert graph.facts == with_files.facts
    assert not list(graph.find("const"))
    stds = {str(op.attrs["key"]).rpartition(".")[2]: op.attrs["std"] for op in graph.find("random")}
    assert stds == {"weight": 0.02, "bias": 0.0}


def test_no_folder_and_no_config(tmp_path):
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path / "nowhere")
    assert error.value.message == f"there is no folder '{tmp_path / 'nowhere'}'"
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path)
    assert error.value.message == f"{tmp_path} has no config.json"
    (tmp_path / "config.json").write_text("{,}")
    assert fails(tmp_path, ConfigError).message.startswith(f"{tmp_path / 'config.json'} is no JSON: ")


def test_generation_config(folder):
    assert open_checkpoint(folder).generation_config["eos_token_id"] == 2
    (folder / "generation_config.json").unlink()
    assert open_checkpoint(folder).generation_config == {}


def test_weights_stored_in_another_type_are_cast(folder):
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    graph = lift_folder(folder)
    assert graph.facts["dtype"] == "f32"
    table = graph.value("embed.weight")
    assert str(table) == "%embed.weight: f32[31,16]"
    assert str(graph.producers["embed.weight"].operands[0]) == "%embed.weight.stored: bf16[31,16]"
    edit_config(folder, ["dtype"])
    assert lift_folder(folder).facts["dtype"] == "bf16"  # as most of the weights are stored


def test_lifting_needs_no_torch(folder):
    """So that it is quick, and cannot read data by accident."""
    program = (
        "import sys, compiler.frontends as f; f.lift(f.open_checkpoint(sys.argv[1])); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
