"""What is wrong with a quantized checkpoint is said by name, before any weight is read."""

from pathlib import Path
from typing import Any

import pytest
import torch

from compiler.errors import CheckpointError, ConfigError, LlmcError
from compiler.frontends import lift, open_checkpoint
from tests.frontends.quantized import writers
from tests.frontends.quantized.checkpoints import change, neox, write, write_json
from tests.frontends.quantized.test_importers import compressed_config, gptq_config, modelopt_config
from tests.frontends.quantized.writers import Writer
from tests.frontends.steps import edit_config

PACKED = {"num_bits": 4, "strategy": "group", "group_size": 16}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16}
FIRST = "gpt_neox.layers.0.attention.query_key_value"


def fails(folder: Path, kind: type[LlmcError] = CheckpointError) -> LlmcError:
    """The error of lifting the checkpoint."""
    with pytest.raises(kind) as error:
        lift(open_checkpoint(folder))
    return error.value


@pytest.fixture
def gptq(tmp_path: Path) -> Path:
    """A GPTQ checkpoint to spoil."""
    write(neox(), writers.gptq(), tmp_path, **gptq_config())
    return tmp_path


MISSING: dict[str, tuple[Writer, dict[str, Any], tuple[str, ...]]] = {
    "gptq": (writers.gptq(order=True), gptq_config(desc_act=True), ("qweight", "qzeros", "scales", "g_idx")),
    "awq": (writers.awq(), {"quantization_config": AWQ}, ("qweight", "qzeros", "scales")),
    "pack-quantized": (
        writers.pack_quantized(symmetric=False),
        compressed_config({**PACKED, "symmetric": False}),
        ("weight_scale", "weight_zero_point"),
    ),
    "fp8": (
        writers.float8(input_scale=torch.tensor(0.1)),
        compressed_config({"num_bits": 8, "type": "float", "strategy": "tensor"}, {"type": "float"}),
        ("input_scale",),
    ),
}


@pytest.mark.parametrize(("case", "tensor"), [(case, name) for case, (*_, names) in MISSING.items() for name in names])
def test_a_missing_tensor_is_named(tmp_path: Path, case: str, tensor: str) -> None:
    writer, config, _ = MISSING[case]
    write(neox(), writer, tmp_path, **config)
    change(tmp_path, **{f"{FIRST}.{tensor}".replace(".", "__"): None})
    assert f"the tensor '{FIRST}.{tensor}' is missing from model.safetensors" in fails(tmp_path).message


def test_the_scale_that_is_missing_from_modelopt_is_named(tmp_path: Path) -> None:
    write(neox(), writers.float8(input_scale=torch.tensor(0.1)), tmp_path)
    write_json(tmp_path / "hf_quant_config.json", modelopt_config("FP8"))
    change(tmp_path, **{f"{FIRST}.weight_scale".replace(".", "__"): None})
    assert f"the tensor '{FIRST}.weight_scale' is missing" in fails(tmp_path).message


def test_a_tensor_without_a_place_is_named(gptq: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = gptq / "model.safetensors"
    save_file({**load_file(path), f"{FIRST}.workspace": torch.zeros(3)}, path)
    assert f"the tensor '{FIRST}.workspace' in model.safetensors has no place" in fails(gptq).message


def test_scales_without_a_scheme_are_left_over(tmp_path: Path) -> None:
    write(neox(), writers.int8(), tmp_path)
    error = fails(tmp_path)
    assert "is stored as I8; supported are f64, f32, f16, bf16" in error.message
    assert error.hint == "if the checkpoint is quantized: its config says nothing of it, or something else"


def test_a_shape_that_does_not_fit_is_named(gptq: Path) -> None:
    edit_config(gptq, **gptq_config(bits=8))
    assert f"the tensor '{FIRST}.qweight' in model.safetensors is [4,96], but the config makes it [8,96]" in (
        fails(gptq).message
    )


def test_groups_that_do_not_divide(gptq: Path) -> None:
    edit_config(gptq, **gptq_config(group_size=24))
    assert fails(gptq).message == f"the group size is 24, which does not divide the 32 inputs of {FIRST}"


def test_scales_that_do_not_divide(tmp_path: Path) -> None:
    write(neox(), writers.pack_quantized(), tmp_path, **compressed_config(PACKED))
    change(tmp_path, weight_scale=torch.ones(96, 3))
    assert f"the tensor '{FIRST}.weight_scale' is [96,3], which is no scale for blocks of [96,32]" in (
        fails(tmp_path).message
    )


def test_a_module_that_no_group_targets(tmp_path: Path) -> None:
    config = compressed_config(PACKED)
    config["quantization_config"]["config_groups"]["group_0"]["targets"] = ["re:.*mlp.*"]
    write(neox(), writers.pack_quantized(), tmp_path, **config)
    assert f"the module {FIRST!r} is quantized, but no group of" in fails(tmp_path).message


def test_scales_of_caches_that_are_missing(tmp_path: Path) -> None:
    write(neox(), writers.float8(input_scale=torch.tensor(0.1)), tmp_path)
    write_json(tmp_path / "hf_quant_config.json", modelopt_config("FP8", kv_cache_quant_algo="FP8"))
    assert "the tensor 'gpt_neox.layers.0.attention.k_proj.k_scale' is missing" in fails(tmp_path).message


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "bits": (gptq_config(bits=5), "config.json, quantization_config, sets 'bits' to 5, which is not supported"),
    "format": (gptq_config(checkpoint_format="marlin"), "sets 'checkpoint_format' to 'marlin'"),
    "by module": (gptq_config(dynamic={"x": {}}), "sets 'dynamic' to"),
    "words of 16 bits": (gptq_config(pack_dtype="int16"), "sets 'pack_dtype' to 'int16'"),
    "rotated weights": (gptq_config(rotation="hadamard"), "sets 'rotation' to 'hadamard', which is not supported"),
    "llm-awq": ({"quantization_config": {**AWQ, "backend": "llm-awq"}}, "sets 'backend' to 'llm-awq'"),
    "gemv": ({"quantization_config": {**AWQ, "version": "gemv"}}, "sets 'version' to 'gemv'"),
    "nvfp4": (compressed_config(PACKED, format="nvfp4-pack-quantized"), "sets 'format' to 'nvfp4-pack-quantized'"),
    "sparse": (
        compressed_config(PACKED, sparsity_config={"format": "sparse-24-bitmask"}),
        "sets 'format' to 'sparse-24-bitmask'",
    ),
    "rotations": (
        compressed_config(PACKED, transform_config={"config_groups": {"u": {"type": "hadamard"}}}),
        "config.json, quantization_config, sets 'transform_config' to",
    ),
    "a named scheme": (
        compressed_config(PACKED, config_groups={"W4A16": ["Linear"]}),
        "quantization_config, config_groups, sets 'W4A16' to ['Linear']; it must be an object",
    ),
    "a group without a size": (
        compressed_config({"num_bits": 4, "strategy": "group"}),
        "config_groups, group_0, weights, has no 'group_size'",
    ),
    "dynamic scales of whole tensors": (
        compressed_config(PACKED, {"dynamic": True}),
        "group_0, input_activations, sets 'strategy' to 'tensor', which is not supported; supported: 'token'",
    ),
    "groups of inputs": (
        compressed_config(PACKED, {"dynamic": True, "strategy": "group"}),
        "group_0, input_activations, sets 'strategy' to 'group'",
    ),
    "algorithm": (
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
        "sets 'quant_algo' to 'NVFP4'",
    ),
    "caches of 4 bits": (
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": "NVFP4"}},
        "sets 'kv_cache_scheme' to 'NVFP4', which is not supported; supported: 'fp8', 'int8'",
    ),
    "mixed algorithms": (
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}},
        "sets 'quant_algo' to 'MIXED_PRECISION'",
    ),
    "no object": ({"quantization_config": "gptq"}, "the config key 'quantization_config' is 'gptq'"),
    "no groups": (
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        "config.json, quantization_config, has no 'config_groups'",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_supported_is_named(gptq: Path, case: str) -> None:
    config, message = UNSUPPORTED[case]
    edit_config(gptq, **config)
    (gptq / "model.safetensors").unlink()
    assert message in fails(gptq, ConfigError).message


def test_a_tool_that_is_not_supported_is_named(gptq: Path) -> None:
    edit_config(gptq, quantization_config={"quant_method": "bitsandbytes"})
    error = fails(gptq, ConfigError)
    assert error.message == (
        "the checkpoint is quantized by bitsandbytes, which is not supported; "
        "supported: awq, compressed-tensors, gptq, modelopt"
    )
    assert error.hint == "compile the unquantized checkpoint, and let llmc quantize it"


def test_blocks_that_are_not_those_of_the_config(tmp_path: Path) -> None:
    scheme = compressed_config({**PACKED, "group_size": 24})  # 32 inputs have 2 groups of 24, the last one shorter
    write(neox(), writers.pack_quantized(), tmp_path, **scheme)
    message = fails(tmp_path).message
    assert f"the tensor '{FIRST}.weight_scale' is [96,2], which is a scale for each [1,16] of [96,32]" in message
    assert "the config says [1,24]" in message


def test_groups_that_are_not_those_of_modelopts_config(tmp_path: Path) -> None:
    write(neox(), writers.modelopt_int4(), tmp_path)
    write_json(tmp_path / "hf_quant_config.json", modelopt_config("W4A16_AWQ", group_size=24))
    assert "a scale for each [1,16] of [96,32]; the config says [1,24]" in fails(tmp_path).message


def test_more_scales_than_modelopts_algorithm_has(tmp_path: Path) -> None:
    write(neox(), writers.float8(by="channel", input_scale=torch.tensor(0.1)), tmp_path)
    write_json(tmp_path / "hf_quant_config.json", modelopt_config("FP8"))
    message = fails(tmp_path).message
    assert f"the tensor '{FIRST}.weight_scale' is [96,1], which is a scale for each [1,32]" in message


def test_blocks_of_outputs_cannot_be_split(tmp_path: Path) -> None:
    config = compressed_config({"type": "float", "strategy": "block", "block_structure": [8, 16]})
    write(neox(), writers.float8(by="block"), tmp_path, **config)
    assert fails(tmp_path).message == (
        f"'{FIRST}.weight' has a scale for each 8 outputs, which cannot be split into its parts"
    )


def test_words_with_bits_left_over(tmp_path: Path) -> None:
    config = compressed_config({"num_bits": 3, "strategy": "group", "group_size": 16})
    write(neox(), writers.pack_quantized(bits=3), tmp_path, **config)
    change(tmp_path, weight_packed=torch.zeros(96, 4, dtype=torch.int32))  # ten of the 32 inputs in each word
    message = fails(tmp_path).message
    assert f"the tensor '{FIRST}.weight_packed' has bits left over in each word" in message
    assert "compressed-tensors before 0.18 packed 3 bits so" in message


def test_zero_points_of_another_number(tmp_path: Path) -> None:
    config = compressed_config({"num_bits": 8, "strategy": "channel", "symmetric": False})
    write(neox(), writers.int8(symmetric=False), tmp_path, **config)
    change(tmp_path, weight_zero_point=torch.zeros(95, 1, dtype=torch.int8))
    assert f"the tensor '{FIRST}.weight_zero_point' is [95,1]; the scales are [96,1]" in fails(tmp_path).message


def test_a_file_beside_the_config_that_is_no_json(tmp_path: Path) -> None:
    write(neox(), writers.gptq(), tmp_path)
    (tmp_path / "quantize_config.json").write_text("{")
    assert "quantize_config.json is no JSON" in fails(tmp_path, ConfigError).message
