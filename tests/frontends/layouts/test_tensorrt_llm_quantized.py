"""Quantized checkpoints of TensorRT-LLM: the same numbers as in the forms of other tools."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from compiler.errors import CheckpointError
from compiler.frontends.source_options import SourceOptions, parse_weights_format
from tests.frontends.layouts import tensorrt_llm_writer as trtllm
from tests.frontends.layouts.compared import assert_same_logits, assert_same_model, lifted, refusal
from tests.frontends.models import neox_config, random_model
from tests.frontends.quantized.checkpoints import linears, write, write_json
from tests.frontends.quantized.test_importers import compressed_config, modelopt_config
from tests.frontends.quantized.writers import Written

WIDTH = 64


def neox(hidden: int = WIDTH) -> Any:
    config = neox_config(
        vocab_size=32,
        hidden_size=hidden,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=32,
    )
    return random_model(transformers.GPTNeoXForCausalLM, config, 0)


def mpt() -> Any:
    config = transformers.MptConfig(vocab_size=32, d_model=WIDTH, n_heads=4, n_layers=1, max_seq_len=32)
    return random_model(transformers.MptForCausalLM, config, 3)


def dequantized(model: Any, folder: Path, linear: trtllm.LinearWriter, tp: int) -> Path:
    """The model in the Hugging Face layout, with the weights that the writer's integers of each rank stand for."""
    copied = copy.deepcopy(model)
    for name, module in linears(copied).items():
        parts = tp if name.endswith(("attention.dense", "dense_4h_to_h")) else 1
        chunks = []
        for part in module.weight.data.chunk(parts, 1):
            q, scale = trtllm.rounded_columns(part, 8 if linear is None else linear.bits)  # type: ignore[attr-defined]
            chunks.append(q.T.float() * scale[:, None])
        module.weight.data = torch.cat(chunks, 1)
    copied.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("bits", "gpu", "tp"),
    [(8, "ampere", 1), (8, "hopper", 1), (8, "hopper-plain", 1), (8, "volta", 1), (4, "ampere", 1), (8, "ampere", 2)],
)
def test_weight_only_integers_are_put_back_in_order(tmp_path: Path, bits: int, gpu: str, tp: int) -> None:
    model, linear = neox(WIDTH * tp), trtllm.weight_only(bits, gpu)
    linear.bits = bits  # type: ignore[attr-defined]
    original = dequantized(model, tmp_path / "original", linear, tp)
    quantization = {"quant_algo": f"W{bits}A16"}
    folder = trtllm.write(model, tmp_path / "ranks", tp=tp, linear=linear, quantization=quantization)
    assert_same_model(folder, original)


def test_the_first_versions_say_weight_only_in_two_keys(tmp_path: Path) -> None:
    model, linear = neox(), trtllm.weight_only(8)
    folder = trtllm.write(model, tmp_path / "new", linear=linear, quantization={"quant_algo": "W8A16"})
    said = {"use_weight_only": True, "weight_only_precision": "int8"}
    assert_same_model(trtllm.write(model, tmp_path / "old", linear=linear, quantization=said), folder)
    plain = trtllm.write(model, tmp_path / "plain", quantization={**said, "use_weight_only": False})
    assert not list(lifted(plain).find("dequantize"))


def test_integers_of_4_bits_may_be_in_several_orders(tmp_path: Path) -> None:
    """What fits is taken, and noted; a user who knows the GPU says so."""
    model = neox(2 * WIDTH)
    linear = trtllm.weight_only(4, "hopper")
    linear.bits = 4  # type: ignore[attr-defined]
    original = dequantized(model, tmp_path / "original", linear, 1)
    folder = trtllm.write(model, tmp_path / "ranks", linear=linear, quantization={"quant_algo": "W4A16"})
    said = SourceOptions(weights_format=parse_weights_format("tensorrt-llm:gpu=hopper"))
    assert_same_model(folder, original, source=said)


def test_integers_in_no_known_order_are_refused(tmp_path: Path) -> None:
    folder = trtllm.write(neox(), tmp_path, linear=trtllm.weight_only(8), quantization={"quant_algo": "W8A16"})
    tensors = load_file(folder / "rank0.safetensors")
    name = "transformer.layers.0.attention.qkv.weight"
    save_file(
        tensors | {name: torch.randint(-50, 50, tensors[name].shape, dtype=torch.int8)}, folder / "rank0.safetensors"
    )
    assert "in no order that llmc knows" in refusal(folder).message


FIXED = 0.0625


def fixed_int8(weight: Tensor) -> Written:
    """Integers with one scale for all outputs."""
    q = (weight / FIXED).round().clamp(-127, 127).to(torch.int8)
    return Written({"weight": q, "weight_scale": torch.full((len(q),), FIXED)}, q.double() * FIXED)


def fixed_float8(weight: Tensor) -> Written:
    """8-bit floats with one scale."""
    q = (weight / FIXED).to(torch.float8_e4m3fn)
    return Written({"weight": q, "weight_scale": torch.tensor(FIXED)}, q.double() * FIXED)


def with_inputs(writer: Any, scale: float = 0.125) -> Any:
    """The writer, with the scale of static inputs."""

    def write_(weight: Tensor) -> Written:
        found = writer(weight)
        return Written({**found.tensors, "input_scale": torch.tensor(scale)}, found.weight)

    return write_


def int4_groups(weight: Tensor) -> Written:
    """Integers of 4 bits by groups of 16 inputs, two outputs in a byte, and factors of inputs."""
    groups = weight.unflatten(1, (-1, 16))
    scale = (groups.abs().amax(2) / 7).half()
    q = (groups / scale[:, :, None].to(weight.dtype)).round().clamp(-8, 7)
    integers = q.flatten(1).to(torch.int8)
    low, high = integers[::2] & 15, integers[1::2] & 15
    pairs = (low | high << 4).to(torch.uint8)
    factors = torch.full((weight.shape[1],), 0.5)
    return Written({"weight": pairs, "weight_scale": scale, "pre_quant_scale": factors}, q.flatten(1) * 0)


RENAMED = {
    "weight_scale": "weights_scaling_factor",
    "input_scale": "activation_scaling_factor",
    "pre_quant_scale": "prequant_scaling_factor",
}


def exported(writer: Any, *, as_int8: bool = False) -> trtllm.LinearWriter:
    """The writer's tensors under TensorRT-LLM's names, as ModelOpt exports them for it."""

    def linear(weight: Tensor) -> dict[str, Tensor]:
        found = writer(weight.double()).tensors
        if as_int8:
            found = {**found, "weight": found["weight"].view(torch.int8)}
        return {
            RENAMED.get(kind, kind): tensor.reshape(1) if tensor.dim() == 0 else tensor
            for kind, tensor in found.items()
        }

    return linear


EXPORTS: Mapping[str, tuple[Any, bool, dict[str, Any]]] = {
    "FP8": (with_inputs(fixed_float8), False, {}),
    "FP8 as int8": (with_inputs(fixed_float8), True, {}),
    "W8A8_SQ_PER_CHANNEL": (with_inputs(fixed_int8), False, {}),
    "W4A16_AWQ": (int4_groups, True, {"group_size": 16}),
}


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("case", EXPORTS)
def test_exports_of_modelopt_are_what_they_are_in_its_hugging_face_form(tmp_path: Path, case: str, tp: int) -> None:
    writer, as_int8, keys = EXPORTS[case]
    algorithm = case.partition(" ")[0]
    model = mpt()
    folder = trtllm.write(
        model,
        tmp_path / "ranks",
        tp=tp,
        linear=exported(writer, as_int8=as_int8),
        quantization={"quant_algo": algorithm, **keys},
        max_position_embeddings=32,
    )
    original = tmp_path / "original"
    write(model, writer, original)
    write_json(original / "hf_quant_config.json", modelopt_config(algorithm, **keys))
    assert_same_model(folder, original)


@pytest.mark.parametrize(("algorithm", "dtype"), [("INT8", "i8"), ("FP8", "f8e4m3")])
def test_scales_of_caches(tmp_path: Path, algorithm: str, dtype: str) -> None:
    scales = {"attention.kv_cache_scaling_factor": torch.tensor([0.05])}
    folder = trtllm.write(
        mpt(), tmp_path, tp=2, quantization={"quant_algo": None, "kv_cache_quant_algo": algorithm}, per_layer=scales
    )
    graph = lifted(folder)
    assert {value.type.dtype.value for value in graph.inputs if value.name.startswith("cache.")} == {dtype}


def smooth(weight: Tensor, *, static: bool, per_channel: bool) -> dict[str, Tensor]:
    """A linear of the older SmoothQuant converter, with powers of two for scales, so that nothing is rounded."""
    q = (weight / FIXED).round().clamp(-127, 127).to(torch.int8)
    count = len(q) if per_channel else 1
    if not static:
        return {"weight": q, "per_channel_scale": torch.full((1, count), FIXED)}
    # Products of integers times this are outputs in 8 bits: FIXED * 0.125 / 4; an integer of an output is 4.
    return {
        "weight": q,
        "per_channel_scale": torch.full((1, count), FIXED * 0.125 / 4),
        "act_scale": torch.full((1, 1), 4.0),
    }


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("static", [True, False])
def test_smoothquant_of_the_older_converter(tmp_path: Path, static: bool, per_channel: bool) -> None:
    model = mpt()
    to_int = {
        "input_layernorm.scale_to_int": torch.tensor([8.0 if static else 1.0]),
        "post_layernorm.scale_to_int": torch.tensor([8.0 if static else 1.0]),
    }
    if static:
        to_int |= {
            "attention.quantization_scaling_factor": torch.tensor([8.0]),
            "mlp.quantization_scaling_factor": torch.tensor([8.0]),
        }
    kind = "PER_CHANNEL" if per_channel else "PER_TENSOR"
    algorithm = {
        (True, True): "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
        (True, False): "W8A8_SQ_PER_TENSOR_PLUGIN",
    }.get((static, per_channel), f"W8A8_SQ_{kind}_PER_TOKEN_PLUGIN")
    folder = trtllm.write(
        model,
        tmp_path / "ranks",
        linear=lambda weight: smooth(weight, static=static, per_channel=per_channel),
        quantization={"quant_algo": algorithm},
        per_layer=to_int,
    )
    original = tmp_path / "original"
    if static:
        write(model, with_inputs(fixed_int8), original)
        write_json(original / "hf_quant_config.json", modelopt_config("W8A8_SQ_PER_CHANNEL"))
    else:
        config = compressed_config(
            {"num_bits": 8, "strategy": "channel"}, {"num_bits": 8, "dynamic": True, "strategy": "token"}
        )
        write(model, fixed_int8, original, **config)
    assert_same_logits(folder, original, vocab=32)


def test_smoothers_divide_inputs(tmp_path: Path) -> None:
    """Those of the projections behind attention and in the MLP, which no norm can take over."""
    model = mpt()
    smoothers = {
        "attention.dense.smoother": torch.full((1, WIDTH), 2.0),
        "mlp.proj.smoother": torch.full((1, 256), 4.0),
    }
    ones = {"input_layernorm.scale_to_int": torch.ones(1), "post_layernorm.scale_to_int": torch.ones(1)}
    quantization = {"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"}

    def linear(weight: Tensor) -> dict[str, Tensor]:
        return smooth(weight, static=False, per_channel=True)

    plain = trtllm.write(model, tmp_path / "plain", linear=linear, quantization=quantization, per_layer=ones)
    for layer in range(1):
        block = model.transformer.blocks[layer]
        block.attn.out_proj.weight.data *= 2
        block.ffn.down_proj.weight.data *= 4
    smoothed = trtllm.write(
        model, tmp_path / "smoothed", linear=linear, quantization=quantization, per_layer=ones | smoothers
    )
    ops = [op.kind.name for op in lifted(smoothed).ops]
    assert ops.count("div") == [op.kind.name for op in lifted(plain).ops].count("div") + 2


def gptq(weight: Tensor) -> dict[str, Tensor]:
    """What the converter of GPT-NeoX makes of GPTQ's integers: in kernel order, seen as float16, zero points scaled."""
    groups = weight.unflatten(1, (-1, 64))
    scale = (groups.abs().amax(2) / 7).half()
    q = (groups / scale[:, :, None].float()).round().clamp(-8, 7).flatten(1).to(torch.int8)
    zero = 1
    return {
        "weight": trtllm.kernel_order(q.T.contiguous(), 4, "ampere").view(torch.float16),
        "weights_scaling_factor": scale.T.contiguous(),
        "zero": (-zero * scale).T.contiguous(),
    }


def test_gptq_of_the_converter_of_gpt_neox(tmp_path: Path) -> None:
    """Integers less zero points, times scales; the biases of two linears are shared out."""
    model = neox(2 * WIDTH)
    quantization = {"quant_algo": "W4A16_GPTQ", "has_zero_point": True, "group_size": 64}
    folder = trtllm.write(model, tmp_path / "ranks", tp=2, linear=gptq, quantization=quantization, row_bias="shares")
    for module in linears(model).values():
        groups = module.weight.data.unflatten(1, (-1, 64))
        scale = (groups.abs().amax(2) / 7).half().float()[:, :, None]
        module.weight.data = (((groups / scale).round().clamp(-8, 7) - 1) * scale).flatten(1)
    model.save_pretrained(tmp_path / "original")
    assert_same_model(folder, tmp_path / "original")


def test_zero_points_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    def linear(weight: Tensor) -> dict[str, Tensor]:
        found = gptq(weight)
        return found | {"zero": found["zero"] * 1.5}

    folder = trtllm.write(neox(), tmp_path, linear=linear, quantization={"quant_algo": "W4A16_GPTQ"})
    assert "zero points that are no integers of 4 bits" in refusal(folder).message


def test_parts_of_other_scales_are_refused(tmp_path: Path) -> None:
    folder = trtllm.write(
        mpt(), tmp_path, tp=2, linear=exported(with_inputs(fixed_float8)), quantization={"quant_algo": "FP8"}
    )
    path = folder / "rank1.safetensors"
    tensors = load_file(path)
    name = "transformer.layers.0.mlp.fc.activation_scaling_factor"
    save_file(tensors | {name: torch.tensor([9.0])}, path)
    error = refusal(folder)
    assert isinstance(error, CheckpointError)
    assert f"{name!r} is another one in rank1.safetensors than in rank0.safetensors" in error.message


def test_an_algorithm_that_is_not_supported_is_named(tmp_path: Path) -> None:
    folder = trtllm.write(mpt(), tmp_path, quantization={"quant_algo": "NVFP4"})
    assert "'quantization.quant_algo' is 'NVFP4', which is not supported" in refusal(folder).message


@pytest.mark.parametrize(
    ("algorithm", "linear", "more"),
    [
        ("W4A16_AWQ", exported(int4_groups, as_int8=True), "zero"),
        ("W8A16", trtllm.weight_only(8), "prequant_scaling_factor"),
        (None, trtllm.plain, "weights_scaling_factor"),
    ],
)
def test_tensors_without_a_part_in_the_form_of_a_linear_are_refused(
    tmp_path: Path, algorithm: str | None, linear: trtllm.LinearWriter, more: str
) -> None:
    def with_more(weight: Tensor) -> dict[str, Tensor]:
        return {**linear(weight), more: torch.ones(weight.shape[1])}

    folder = trtllm.write(neox(), tmp_path, linear=with_more, quantization={"quant_algo": algorithm})
    assert f"{more}' in rank0.safetensors has no place in a linear that is" in refusal(folder).message


def test_scales_of_a_head_that_is_not_quantized_are_dropped(tmp_path: Path) -> None:
    """As TensorRT-LLM drops them."""
    model, quantization = mpt(), {"quant_algo": "FP8"}
    linear = exported(with_inputs(fixed_float8))
    original = trtllm.write(model, tmp_path / "original", linear=linear, quantization=quantization)
    folder = trtllm.write(model, tmp_path / "scales", linear=linear, quantization=quantization)
    path = folder / "rank0.safetensors"
    scales = {f"lm_head.{kind}_scaling_factor": torch.ones(1) for kind in ("weights", "activation")}
    save_file(load_file(path) | scales, path)
    assert_same_model(folder, original)
