"""The pass `lora` adds what PEFT's formula says, in float32, to the weights that the adapter names."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compiler.errors import LlmcError
from tests.exporters.exporting import exported, rewritten, saved_model, tensors_of
from tests.frontends.quantized.checkpoints import FAMILIES

# By family, two linears of the first layer, one of them fused where the family has one.
MODULES = {
    "gpt_neox": ("gpt_neox.layers.0.attention.query_key_value", "gpt_neox.layers.0.mlp.dense_4h_to_h"),
    "gptj": ("transformer.h.0.attn.q_proj", "transformer.h.0.mlp.fc_in"),
    "opt": ("model.decoder.layers.0.self_attn.v_proj", "model.decoder.layers.0.fc2"),
    "mpt": ("transformer.blocks.0.attn.Wqkv", "transformer.blocks.0.ffn.down_proj"),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small checkpoint of every family in float32."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        saved_model(folder / family, family, torch.float32)
    return folder


def noise(seed: int, *shape: int) -> Tensor:
    """Random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 4


def factors(base: Mapping[str, Tensor], modules: tuple[str, ...], rank: int = 3) -> dict[str, Tensor]:
    """Random factors for some linears, as PEFT names them."""
    found = {}
    for i, module in enumerate(modules):
        out, width = base[f"{module}.weight"].shape
        found[f"base_model.model.{module}.lora_A.weight"] = noise(2 * i, rank, width)
        found[f"base_model.model.{module}.lora_B.weight"] = noise(2 * i + 1, out, rank)
    return found


def adapter(folder: Path, tensors: Mapping[str, Tensor], **config: Any) -> Path:
    """Write an adapter folder."""
    folder.mkdir()
    usual = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(usual | config))
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    return folder


def merged(source: Path, passes: str, folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a checkpoint before and after a pipeline, by the names that exports give them."""
    exported(rewritten(source, passes), source, "safetensors", folder)
    before = load_file(source / "model.safetensors")
    after = tensors_of(folder)
    renamed = {
        name.replace("lm_head", "embed_out") if "embed_out.weight" in after else name: before[name] for name in before
    }
    return renamed, after


def delta(tensors: Mapping[str, Tensor], module: str, scaling: float) -> Tensor:
    """What is added to a weight, in float64."""
    a, b = (tensors[f"base_model.model.{module}.lora_{letter}.weight"].double() for letter in "AB")
    return scaling * (b @ a)


def same(found: Tensor, expected: Tensor) -> None:
    """Equal but for float32's roundings of a sum of a few products, of the size of the largest number."""
    assert (found.double() - expected).abs().max() <= 8 * 2**-24 * expected.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("config", "scalings"),
    [
        ({}, (2.0, 2.0)),
        ({"use_rslora": True}, (6 / 3**0.5, 6 / 3**0.5)),
        ({"r": 8, "rank_pattern": {".*": 3}, "alpha_pattern": {r"0\.(mlp\.|ffn\.)?\w+": 12}}, (2.0, 4.0)),
    ],
    ids=["plain", "rslora", "patterns"],
)
def test_every_family(
    checkpoints: Path, tmp_path: Path, family: str, config: dict[str, Any], scalings: tuple[float, float]
) -> None:
    source, modules = checkpoints / family, MODULES[family]
    tensors = factors(load_file(source / "model.safetensors"), modules)
    folder = adapter(tmp_path / "adapter", tensors, **config)
    before, after = merged(source, f"lora={folder}", tmp_path / "out")
    for module, scaling in zip(modules, scalings, strict=True):
        weight = f"{module}.weight"
        same(after[weight], before[weight].double() + delta(tensors, module, scaling))
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{module}.weight" for module in modules}


def test_dora_gives_each_row_its_norm(checkpoints: Path, tmp_path: Path) -> None:
    source, module = checkpoints / "gptj", MODULES["gptj"][1]
    tensors = factors(load_file(source / "model.safetensors"), (module,))
    norms = noise(9, 64).abs() + 1
    tensors[f"base_model.model.{module}.lora_magnitude_vector"] = norms
    folder = adapter(tmp_path / "adapter", tensors, use_dora=True)
    before, after = merged(source, f"lora={folder}", tmp_path / "out")
    total = before[f"{module}.weight"].double() + delta(tensors, module, 2.0)
    same(after[f"{module}.weight"], norms.double()[:, None] * total / total.norm(dim=1, keepdim=True))


def test_several_adapters_add_up(checkpoints: Path, tmp_path: Path) -> None:
    source, modules = checkpoints / "opt", MODULES["opt"]
    base = load_file(source / "model.safetensors")
    first = factors(base, modules)
    second = {name: -3 * tensor for name, tensor in factors(base, modules[1:]).items()}
    folders = [adapter(tmp_path / name, tensors) for name, tensors in (("a", first), ("b", second))]
    before, after = merged(source, f"lora={folders[0]}+{folders[1]}:scale=0.5+2", tmp_path / "out")
    total = before[f"{modules[1]}.weight"].double() + delta(first, modules[1], 1.0) + delta(second, modules[1], 4.0)
    same(after[f"{modules[1]}.weight"], total)
    same(after[f"{modules[0]}.weight"], before[f"{modules[0]}.weight"].double() + delta(first, modules[0], 1.0))


def test_embeddings_biases_and_whole_modules(checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "gptj"
    prefix = "base_model.model."
    a, b = noise(1, 3, 31), noise(2, 32, 3)
    tensors = {
        f"{prefix}transformer.wte.lora_embedding_A": a,
        f"{prefix}transformer.wte.lora_embedding_B": b,
        f"{prefix}transformer.h.0.mlp.fc_in.base_layer.bias": noise(3, 64),
        f"{prefix}lm_head.modules_to_save.default.weight": noise(4, 31, 32),
    }
    folder = adapter(tmp_path / "adapter", tensors, bias="lora_only", modules_to_save=["lm_head"])
    before, after = merged(source, f"lora={folder}", tmp_path / "out")
    same(after["transformer.wte.weight"], before["transformer.wte.weight"].double() + 2 * (b.double() @ a.double()).T)
    assert torch.equal(after["transformer.h.0.mlp.fc_in.bias"], noise(3, 64))
    assert torch.equal(after["lm_head.weight"], noise(4, 31, 32))


@pytest.mark.parametrize("module", ["transformer.wte", "lm_head"])
def test_a_tied_head_is_untied_where_one_of_the_two_changes(checkpoints: Path, tmp_path: Path, module: str) -> None:
    """PEFT stores the weight of an embedding beside its change."""
    source, key = checkpoints / "mpt", f"base_model.model.{module}"
    table = load_file(source / "model.safetensors")["transformer.wte.weight"]
    trained = table + 1
    a, b = noise(1, 3, 31 if module != "lm_head" else 32), noise(2, 32 if module != "lm_head" else 31, 3)
    names = ("lora_A.weight", "lora_B.weight") if module == "lm_head" else ("lora_embedding_A", "lora_embedding_B")
    tensors = {f"{key}.base_layer.weight": trained, f"{key}.{names[0]}": a, f"{key}.{names[1]}": b}
    _, after = merged(source, f"lora={adapter(tmp_path / 'adapter', tensors)}", tmp_path / "out")
    product = b.double() @ a.double()
    same(after[f"{module}.weight"], trained.double() + 2 * (product if module == "lm_head" else product.T))
    other = "lm_head" if module != "lm_head" else "transformer.wte"
    assert torch.equal(after[f"{other}.weight"], table)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_tie_that_is_kept(checkpoints: Path, tmp_path: Path) -> None:
    source, key = checkpoints / "mpt", "base_model.model.transformer.wte"
    a, b = noise(1, 3, 31), noise(2, 32, 3)
    tensors = {f"{key}.lora_embedding_A": a, f"{key}.lora_embedding_B": b}
    folder = adapter(tmp_path / "adapter", tensors, ensure_weight_tying=True)
    before, after = merged(source, f"lora={folder}", tmp_path / "out")
    assert "lm_head.weight" not in after
    name = "transformer.wte.weight"
    same(after[name], before[name].double() + 2 * (b.double() @ a.double()).T)


@pytest.mark.parametrize("family", ["gpt_neox", "opt", "mpt"])
def test_the_sum_is_rounded_once_and_then_quantized(checkpoints: Path, tmp_path: Path, family: str) -> None:
    source = checkpoints / family
    base = load_file(source / "model.safetensors")
    folder = adapter(tmp_path / "adapter", factors(base, MODULES[family]))
    exported(rewritten(source, f"lora={folder}"), source, "safetensors", tmp_path / "plain")
    plain = tensors_of(tmp_path / "plain")
    for name, passes in (("behind", f"lora={folder},dtype=float16"), ("before", f"dtype=float16,lora={folder}")):
        exported(rewritten(source, passes), source, "safetensors", tmp_path / name)
        rounded = tensors_of(tmp_path / name)
        assert all(torch.equal(plain[key].half(), tensor) for key, tensor in rounded.items())
    at_once = rewritten(source, f"lora={folder},quant=int8")
    exported(at_once, source, "compressed-tensors", tmp_path / "at once")
    later = rewritten(tmp_path / "plain", "quant=int8")
    exported(later, tmp_path / "plain", "compressed-tensors", tmp_path / "later")
    first, second = tensors_of(tmp_path / "at once"), tensors_of(tmp_path / "later")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, "of the kind 'IA3'; the pass lora merges those of the kind 'LORA'"),
    "another rank": ({"r": 4}, r"the rank of '.*q_proj' is 3; adapter_config.json says 4"),
    "another task": ({"task_type": "SEQ_CLS"}, "'task_type' is 'SEQ_CLS': it is for a model with another head"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "which changes the base weights, too"),
    "no magnitudes": ({"use_dora": True}, "has no lora_magnitude_vector of '.*q_proj'"),
    "an unknown key": ({"use_magic": 3}, "the key 'use_magic' is 3, which is not supported"),
    "activated": ({"alora_invocation_tokens": [1]}, "the key 'alora_invocation_tokens' is .*, which is not supported"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_that_is_refused(checkpoints: Path, tmp_path: Path, case: str) -> None:
    source = checkpoints / "gptj"
    config, message = REFUSED[case]
    folder = adapter(tmp_path / "a", factors(load_file(source / "model.safetensors"), MODULES["gptj"]), **config)
    with pytest.raises(LlmcError) as caught:
        rewritten(source, f"lora={folder}")
    assert re.search(message, caught.value.message), caught.value.message
    assert caught.value.hint


def test_tensors_that_do_not_fit(checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "gptj"
    good = factors(load_file(source / "model.safetensors"), MODULES["gptj"][:1])
    a, b = (f"base_model.model.{MODULES['gptj'][0]}.lora_{letter}.weight" for letter in "AB")
    cases: dict[str, tuple[dict[str, Tensor], str]] = {
        "unknown": (
            {f"base_model.model.h.7.lora_{x}.weight": noise(0, 3, 3) for x in "AB"},
            "which the model has not",
        ),
        "width": (good | {a: noise(0, 3, 16)}, r"as one of \[32,16\]; the model's is \[32,32\]"),
        "half": ({a: good[a]}, "has no lora_B of"),
        "ranks": (good | {b: noise(0, 32, 2)}, r"is \[3, 32\] and lora_B \[32, 2\]"),
        "bias": (good | {b.replace("weight", "bias"): noise(0, 32)}, "is a bias of a factor, which is not read"),
    }
    for name, (tensors, message) in cases.items():
        folder = adapter(tmp_path / name, tensors)
        with pytest.raises(LlmcError, match=message):
            rewritten(source, f"lora={folder}")


def test_what_the_pass_refuses(checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "mpt"
    folder = adapter(tmp_path / "a", factors(load_file(source / "model.safetensors"), MODULES["mpt"]))
    cases = {
        f"quant=int8,lora={folder}": "the graph is quantized already, and adapters are merged before that",
        f"tp=2,lora={folder}": "the graph is split over ranks already",
        f"lora={folder}+{folder}:scale=1+2+3": "lora has 2 adapter folders and 3 scales",
        f"lora={tmp_path / 'nowhere'}": "there is no adapter folder",
    }
    for passes, message in cases.items():
        with pytest.raises(LlmcError, match=message):
            rewritten(source, passes)
