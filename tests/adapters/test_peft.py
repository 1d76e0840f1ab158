"""Reading adapter folders: what PEFT saves is read, and what is damaged, foreign or of another kind is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compiler.adapters.reading import read_prompt_adapter
from compiler.errors import LlmcError
from compiler.ir.dtypes import DType
from tests.adapters.folders import PREFIX, adapter, config, table, write

KINDS = ("PROMPT_TUNING", "P_TUNING", PREFIX)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_what_its_config_says(tmp_path: Path, kind: str, pickled: bool) -> None:
    values = table(kind, 5)
    read = read_prompt_adapter(write(tmp_path / "a", config(kind, 5), {"prompt_embeddings": values}, pickled=pickled))
    assert (read.kind, read.virtual_tokens, read.width, read.is_prefix) == (kind, 5, 128, kind == PREFIX)
    assert (read.layers, read.heads) == (4, 4)
    assert (read.table.shape, read.table.dtype) == (tuple(values.shape), DType.f32)
    assert Path(read.table.file).is_absolute()


def test_old_configs_without_the_models_sizes_are_read(tmp_path: Path) -> None:
    keys = config("PROMPT_TUNING", 3, num_layers=None, num_attention_heads=None, num_transformer_submodules=None)
    read = read_prompt_adapter(write(tmp_path / "a", keys, {"prompt_embeddings": table("PROMPT_TUNING", 3)}))
    assert (read.layers, read.heads) == (None, None)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "LORA"}, "of the kind 'LORA', which has no virtual tokens"),
    "no kind": ({"peft_type": None}, "'peft_type' is null"),
    "a model of two halves": ({"num_transformer_submodules": 2}, "a model of an encoder and a decoder"),
    "no tokens": ({"num_virtual_tokens": 0}, "'num_virtual_tokens' is 0; it must be at least 1"),
    "no width": ({"token_dim": "128"}, "'token_dim' is '128'; it must be an integer"),
    "a width that heads do not divide": (
        {"num_attention_heads": 3},
        "the 3 heads of .* must divide it",
    ),
    "other tokens than stored": ({"num_virtual_tokens": 6}, r"has the shape \[5, 1024\]; .* describes \[6, 1024\]"),
    "other layers than stored": ({"num_layers": 3}, r"has the shape \[5, 1024\]; .* describes \[5, 768\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_config_that_does_not_do_is_refused(tmp_path: Path, name: str) -> None:
    keys, message = REFUSED[name]
    folder = write(tmp_path / "a", config(PREFIX, 5, **keys), {"prompt_embeddings": table(PREFIX, 5)})
    with pytest.raises(LlmcError, match=message) as raised:
        read_prompt_adapter(folder)
    assert raised.value.hint
    assert "adapter_config.json" in str(raised.value) or "prompt_embeddings" in str(raised.value)


@pytest.mark.parametrize(("kind", "mend"), [("IA3", True), ("BOFT", True), ("MULTITASK_PROMPT_TUNING", False)])
def test_of_an_adapter_that_can_be_merged_the_hint_says_so(tmp_path: Path, kind: str, mend: bool) -> None:
    with pytest.raises(LlmcError) as raised:
        read_prompt_adapter(write(tmp_path / "a", config(kind, 5), {}))
    assert ("merge_and_unload" in str(raised.value.hint)) is mend
    assert "PROMPT_TUNING, P_TUNING, PREFIX_TUNING" in str(raised.value.hint)


def spoil_no_folder(folder: Path) -> None:
    folder.rename(folder.with_name("adapters"))


def spoil_no_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def spoil_no_json(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def spoil_no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def spoil_truncated(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def spoil_code(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"prompt_embeddings": Path("x")}, folder / "adapter_model.bin")


def stored(tensors: dict[str, Tensor]) -> Any:
    return lambda folder: write(folder, config("PROMPT_TUNING", 4), tensors)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_no_folder, "there is no adapter folder .*; did you mean .*adapters"),
        (spoil_no_config, "has no adapter_config.json"),
        (spoil_no_json, "adapter_config.json is no JSON"),
        (spoil_no_weights, "holds no weights: neither adapter_model.safetensors nor adapter_model.bin"),
        (spoil_truncated, "adapter_model.safetensors"),
        (spoil_code, "carries code"),
        (stored({}), "no tensor 'prompt_embeddings'"),
        (stored({"prompt_encoder.default.embedding.weight": torch.ones(4, 128)}), "prompt_encoder.default.embedding"),
        (stored({"prompt_embeddings": torch.ones(4, 128), "score.weight": torch.ones(2)}), "'score.weight'"),
        (stored({"prompt_embeddings": torch.ones(4, 128, dtype=torch.int64)}), "the element type I64"),
    ],
)
def test_a_folder_that_does_not_do_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    folder = adapter(tmp_path / "adapter", "PROMPT_TUNING", 4)
    spoil(folder)
    with pytest.raises(LlmcError, match=message) as raised:
        read_prompt_adapter(folder)
    assert raised.value.hint
