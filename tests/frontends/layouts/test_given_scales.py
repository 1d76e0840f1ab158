"""Scales that AMMO and ModelOpt exported beside a checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from compiler.errors import LlmcError
from compiler.frontends import open_checkpoint
from compiler.frontends.source_options import source_options
from compiler.ir.dtypes import DType
from tests.cli.llmc_command import llmc
from tests.frontends.layouts.compared import assert_same_model, lifted
from tests.frontends.quantized.checkpoints import FAMILIES, linears, write, write_json
from tests.frontends.quantized.test_importers import modelopt_config
from tests.frontends.quantized.writers import Written

# What AMMO calls the linears of a layer, by the ends of their names.
MODULES = {
    "query_key_value": "attention:qkv",
    "Wqkv": "attention:qkv",
    "q_proj": "attention:qkv:q",
    "k_proj": "attention:qkv:k",
    "v_proj": "attention:qkv:v",
    "attention.dense": "attention:dense",
    "out_proj": "attention:dense",
    "dense_h_to_4h": "mlp:fc",
    "fc_in": "mlp:fc",
    "fc1": "mlp:fc",
    "up_proj": "mlp:fc",
    "dense_4h_to_h": "mlp:proj",
    "fc_out": "mlp:proj",
    "fc2": "mlp:proj",
    "down_proj": "mlp:proj",
}


def fp8(weight: Tensor) -> Written:
    """One scale of the weight, from its largest absolute value, and one of its inputs."""
    scale = (weight.abs().max() / 448).float()
    q = (weight.float() * (1 / scale)).to(torch.float8_e4m3fn)
    return Written({"weight": q, "weight_scale": scale, "input_scale": torch.tensor(0.05)}, weight)


def int8_sq(weight: Tensor) -> Written:
    """A scale for each output."""
    scale = (weight.abs().amax(1) / 127).float()
    q = (weight.float() * (1 / scale[:, None])).round().clamp(-128, 127).to(torch.int8)
    return Written({"weight": q, "weight_scale": scale, "input_scale": torch.tensor(0.05)}, weight)


def int8_wo(weight: Tensor) -> Written:
    """No scales of inputs."""
    tensors = {kind: tensor for kind, tensor in int8_sq(weight).tensors.items() if kind != "input_scale"}
    return Written(tensors, weight)


def int4_awq(weight: Tensor) -> Written:
    """Scales by groups of 16 inputs, and factors of inputs, by which the weight is divided."""
    factors = torch.linspace(0.5, 2.0, weight.shape[1])
    groups = (weight.float() / factors).unflatten(1, (-1, 16))
    scale = groups.abs().amax(2) / 7
    q = (groups * (1 / scale[:, :, None])).round().clamp(-8, 7).flatten(1).to(torch.int8)
    pairs = (q[::2] & 15 | (q[1::2] & 15) << 4).to(torch.uint8)
    return Written({"weight": pairs, "weight_scale": scale, "pre_quant_scale": factors}, weight)


KINDS = {
    "weight_scale": "weights_scaling_factor",
    "input_scale": "activation_scaling_factor",
    "pre_quant_scale": "prequant_scaling_factor",
}
ALGORITHMS: dict[str, tuple[Callable[[Tensor], Written], str]] = {
    "fp8": (fp8, "FP8"),
    "int8_sq": (int8_sq, "W8A8_SQ_PER_CHANNEL"),
    "int8_wo": (int8_wo, "W8A16"),
    "int4_awq": (int4_awq, "W4A16_AWQ"),
}


def arrays(model: Any, writer: Callable[[Tensor], Written]) -> dict[str, Any]:
    """The arrays that AMMO writes of a model's scales, and some that it writes besides."""
    found: dict[str, Any] = {"_np:vocab_embedding:weight": np.zeros((2, 2), np.float16)}
    for name, module in linears(model).items():
        ending = next((end for end in MODULES if name.endswith(end)), None)
        if ending is None:
            continue  # projections of embeddings
        number = next(part for part in name.split(".") if part.isdigit())
        prefix = f"_np:layers:{number}:{MODULES[ending]}:"
        written = writer(module.weight.detach().double()).tensors
        for kind, tensor in written.items():
            if kind in KINDS:
                found[prefix + KINDS[kind]] = tensor.reshape(1).numpy() if tensor.dim() == 0 else tensor.numpy()
        found[prefix + "weight"] = np.zeros((2, 2), np.float16)
    return found


@pytest.fixture(params=["gpt_neox", "gptj", "mpt"])
def model(request: pytest.FixtureRequest) -> Any:
    return FAMILIES[request.param]()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("beside", [True, False])
def test_scales_quantize_a_checkpoint_as_the_tool_would(
    tmp_path: Path, model: Any, algorithm: str, beside: bool
) -> None:
    writer, usual = ALGORITHMS[algorithm]
    original, exported = tmp_path / "original", tmp_path / "exported"
    original.mkdir()
    model.save_pretrained(original)
    file = tmp_path / "model_tp1_rank0.npz"
    np.savez(file, **arrays(model, writer))
    if beside:
        write_json(tmp_path / "model_tp1.json", {"version": 0.1, "quantization": algorithm, "layers": []})
        file = tmp_path / "model_tp1.json"
    write(model, writer, exported)
    write_json(exported / "hf_quant_config.json", modelopt_config(usual, group_size=16))
    assert_same_model(original, exported, source=source_options(scales=file))


def test_scales_of_caches(tmp_path: Path) -> None:
    model = FAMILIES["opt"]()
    model.save_pretrained(tmp_path)
    found = arrays(model, fp8)
    found |= {f"_np:layers:{i}:attention:kv_cache_scaling_factor": np.array([0.1], np.float32) for i in range(2)}
    np.savez(tmp_path / "scales.npz", **found)
    graph = lifted(tmp_path, source_options(scales=tmp_path / "scales.npz"))
    assert {value.type.dtype for value in graph.inputs if value.name.startswith("cache.")} == {DType.f8e4m3}


def test_scales_of_queries_keys_and_values_for_a_fused_module(tmp_path: Path) -> None:
    """The rows of the module keep their own, wherever they lie."""
    model = FAMILIES["gpt_neox"]()
    model.save_pretrained(tmp_path / "original")
    found = arrays(model, int8_wo)
    for i in range(2):
        whole = found.pop(f"_np:layers:{i}:attention:qkv:weights_scaling_factor")
        by_head = whole.reshape(2, 3, -1)
        for which, part in zip("qkv", by_head.swapaxes(0, 1), strict=True):
            found[f"_np:layers:{i}:attention:qkv:{which}:weights_scaling_factor"] = part.reshape(-1).copy()
    np.savez(tmp_path / "scales.npz", **found)
    write(model, int8_wo, tmp_path / "exported")
    write_json(tmp_path / "exported" / "hf_quant_config.json", modelopt_config("W8A16"))
    assert_same_model(
        tmp_path / "original", tmp_path / "exported", source=source_options(scales=tmp_path / "scales.npz")
    )


DENSE = "_np:layers:0:attention:dense:"
SPOILED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another model's weights": (
        lambda found: found.update({f"{name}": array * 8 for name, array in found.items() if "weights_s" in name}),
        "is for weights up to",
    ),
    "another number of layers": (
        lambda found: [found.pop(name) for name in list(found) if ":1:" in name],
        "it has scales for 1 layers, and the checkpoint has 2",
    ),
    "a module that is missing": (
        lambda found: [found.pop(name) for name in list(found) if name.startswith(DENSE)],
        "it has no scales of 'attention:dense' in layer 0",
    ),
    "inputs without a scale": (
        lambda found: found.pop(f"{DENSE}activation_scaling_factor"),
        "it has no 'activation_scaling_factor' for 'gpt_neox.layers.0.attention.dense.weight'",
    ),
    "scales of another shape": (
        lambda found: found.update({f"{DENSE}weights_scaling_factor": np.ones(7, np.float32)}),
        "is [7]; 'gpt_neox.layers.0.attention.dense.weight' is [32,32]",
    ),
    "scales of scales": (
        lambda found: found.update({f"{DENSE}weights_scaling_factor_2": np.ones(1, np.float32)}),
        "has scales of scales",
    ),
    "no scales at all": (lambda found: found.clear(), "holds no scales of layers"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_scales_that_do_not_fit_are_refused(tmp_path: Path, case: str) -> None:
    spoil, message = SPOILED[case]
    model = FAMILIES["gpt_neox"]()
    model.save_pretrained(tmp_path)
    found = arrays(model, fp8)
    spoil(found)
    np.savez(tmp_path / "scales.npz", **found)
    with pytest.raises(LlmcError) as caught:
        lifted(tmp_path, source_options(scales=tmp_path / "scales.npz"))
    assert message in caught.value.message
    assert caught.value.hint


def test_files_that_hold_none_are_refused(tmp_path: Path) -> None:
    model = FAMILIES["gpt_neox"]()
    model.save_pretrained(tmp_path)
    np.savez_compressed(tmp_path / "compressed.npz", x=np.zeros(3))
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "README.md").write_text("")
    (tmp_path / "scales.json").write_text(json.dumps({"quantization": "fp8"}))
    for name, message in [
        ("compressed.npz", "is compressed"),
        ("objects.npz", "elements of the type '|O'"),
        ("text.npz", "is no .npz file that can be read"),
        ("scales.json", "scales_rank0.npz is missing"),
        ("config.json", "config_rank0.npz is missing"),
        ("model.safetensors", "holds no scales of layers"),
        ("README.md", "ends in none of .json"),
        ("nowhere.npz", "there is no file"),
    ]:
        with pytest.raises(LlmcError, match=message.replace("|", r"\|")):
            open_checkpoint(tmp_path, source=source_options(scales=tmp_path / name))


def test_a_quantized_checkpoint_takes_no_scales(tmp_path: Path) -> None:
    model = FAMILIES["gpt_neox"]()
    np.savez(tmp_path / "scales.npz", **arrays(model, fp8))
    write(model, fp8, tmp_path, quantization_config={"quant_method": "modelopt", "quant_algo": "FP8"})
    llmc("lift", tmp_path, "--scales", tmp_path / "scales.npz").failed("the checkpoint is quantized already")


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("algorithm", ["fp8", "int8_sq", "int4_awq"])
def test_largest_values_in_a_state_of_the_model(tmp_path: Path, model: Any, algorithm: str, suffix: str) -> None:
    """What the quantizers of AMMO and ModelOpt keep, from which scales follow."""
    writer, usual = ALGORITHMS[algorithm]
    original, exported = tmp_path / "original", tmp_path / "exported"
    model.save_pretrained(original)
    largest = {"fp8": 448, "int8_sq": 127, "int4_awq": 7}[algorithm]
    state: dict[str, Tensor] = {}

    for name, module in linears(model).items():
        written = writer(module.weight.detach().double()).tensors
        groups = module.weight.detach().float()
        if "pre_quant_scale" in written:
            groups = (groups / written["pre_quant_scale"]).unflatten(1, (-1, 16)).flatten(0, 1)
            state[f"{name}.input_quantizer._pre_quant_scale"] = written["pre_quant_scale"]
        amax = groups.abs().amax() if algorithm == "fp8" else groups.abs().amax(1, keepdim=True)
        state[f"{name}.weight_quantizer._amax"] = amax
        if "input_scale" in written:
            state[f"{name}.input_quantizer._amax"] = torch.tensor(0.05 * largest)
        state[f"{name}.weight"] = module.weight.detach().clone()
    file = tmp_path / f"state{suffix}"
    if suffix == ".npz":
        arrays_: dict[str, Any] = {name: tensor.numpy() for name, tensor in state.items()}
        np.savez(file, **arrays_)
    elif suffix == ".pt":
        torch.save(state, file)
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    write(model, writer, exported)
    write_json(exported / "hf_quant_config.json", modelopt_config(usual, group_size=16))
    assert_same_model(original, exported, source=source_options(scales=file))
