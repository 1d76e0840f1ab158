"""Checkpoints that other tools quantized compute what transformers computes with their dequantized weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compiler.frontends import Limits, lift, open_checkpoint
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from tests.frontends.models import logits_of
from tests.frontends.quantized import writers
from tests.frontends.quantized.checkpoints import FAMILIES, linears, neox, write, write_json
from tests.frontends.quantized.writers import Writer
from tests.frontends.steps import assert_same_logits, edit_config, lift_folder, run_rows


def same(folder: Path, model: Any, tolerance: float = 1e-5) -> Graph:
    """The lifted graph, which computes what the model does."""
    graph = lift_folder(folder)
    assert_same_logits(graph, logits_of(model), vocab=31, seed=0, tolerance=tolerance)
    return graph


def weights_of(graph: Graph) -> list[Any]:
    """The `dequantize` of each linear's weight."""
    found = [graph.producers[op.operands[1].name] for op in graph.find("linear")]
    return [op for op in found if op.kind.name == "dequantize"]


def gptq_config(**keys: Any) -> dict[str, Any]:
    """What GPTQ tools put into config.json."""
    usual = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": False}
    return {"quantization_config": usual | {"checkpoint_format": "gptq"} | keys}


def compressed_config(weights: dict[str, Any], activations: Any = None, **keys: Any) -> dict[str, Any]:
    """What llm-compressor puts into config.json."""
    group = {"targets": ["Linear"], "weights": {"type": "int", "symmetric": True, "dynamic": False} | weights}
    usual = {"quant_method": "compressed-tensors", "quantization_status": "compressed", "ignore": ["lm_head"]}
    return {
        "quantization_config": usual | {"config_groups": {"group_0": group | {"input_activations": activations}}} | keys
    }


def modelopt_config(algorithm: str, **keys: Any) -> dict[str, Any]:
    """What ModelOpt puts into hf_quant_config.json."""
    return {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": algorithm, "exclude_modules": []} | keys}


CASES: dict[str, tuple[Writer, dict[str, Any]]] = {
    "gptq": (writers.gptq(), gptq_config()),
    "gptq symmetric": (writers.gptq(symmetric=True), gptq_config(sym=True)),
    "gptq v2": (writers.gptq(less_one=False), gptq_config(checkpoint_format="gptq_v2")),
    "gptq order": (writers.gptq(order=True), gptq_config(desc_act=True)),
    "awq": (writers.awq(), {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 16}}),
    "pack-quantized": (
        writers.pack_quantized(),
        compressed_config({"num_bits": 4, "strategy": "group", "group_size": 16}, format="pack-quantized"),
    ),
    "float-quantized": (
        writers.float8(by="channel"),
        compressed_config({"num_bits": 8, "type": "float", "strategy": "channel"}, format="float-quantized"),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_every_family(tmp_path: Path, family: str, case: str) -> None:
    model = FAMILIES[family]()
    writer, config = CASES[case]
    write(model, writer, tmp_path, **config)
    graph = same(tmp_path, model)
    fused = family in ("gpt_neox", "mpt")
    layers = int(graph.facts["layers"])
    assert len(weights_of(graph)) == len(linears(model)) + (2 * layers if fused else 0)


@pytest.mark.parametrize(
    ("file", "content", "writer"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 16, "desc_act": False, "sym": False}, writers.gptq()),
        ("quant_config.json", {"zero_point": True, "q_group_size": 16, "w_bit": 4, "version": "GEMM"}, writers.awq()),
        ("quant_config.json", {"zero_point": False, "q_group_size": 16, "w_bit": 4, "version": "GEMM"}, writers.awq()),
    ],
)
def test_older_tools_have_files_of_their_own(tmp_path: Path, file: str, content: Any, writer: Writer) -> None:
    model = neox()
    write(model, writer, tmp_path)
    write_json(tmp_path / file, content)
    same(tmp_path, model)


@pytest.mark.parametrize("family", ["gpt_neox", "gptj", "mpt"])
def test_awq_divides_after_some_activation_functions(tmp_path: Path, family: str) -> None:
    model = FAMILIES[family]()
    write(model, writers.awq(), tmp_path, **CASES["awq"][1])
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for name, module in list(model.named_modules()):
        if name.endswith(("mlp", "ffn")):
            width = 128 if family == "mpt" else 64
            scales = torch.linspace(0.5, 2.0, width, dtype=torch.float16)
            tensors[f"{name}.act.scales"] = scales.clone()
            module.act.register_forward_hook(lambda m, given, y, s=scales: y / s.double())
    save_file(tensors, path)
    same(tmp_path, model)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [0, 8])
def test_packed_integers(tmp_path: Path, bits: int, symmetric: bool, group: int) -> None:
    model = neox()
    by = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    scheme = {"num_bits": bits, "symmetric": symmetric, **by}
    write(
        model,
        writers.pack_quantized(bits=bits, group=group, symmetric=symmetric),
        tmp_path,
        **compressed_config(scheme, format="pack-quantized"),
    )
    assert {len(op.operands) for op in weights_of(same(tmp_path, model))} == {3 - symmetric}


def test_packed_integers_in_the_order_of_activations(tmp_path: Path) -> None:
    model = neox()
    scheme = {"num_bits": 4, "strategy": "group", "group_size": 16, "actorder": "group"}
    write(model, writers.pack_quantized(order=True), tmp_path, **compressed_config(scheme, format="pack-quantized"))
    same(tmp_path, model)


def quantize_inputs(model: Any, scale: float | None, dtype: torch.dtype) -> None:
    """Quantize what each linear of the model is given: by one scale, or by one for each token."""
    top = 127 if dtype is torch.int8 else 448

    def before(module: Any, given: tuple[Tensor]) -> Tensor:
        x = given[0].float()
        step = x.abs().amax(-1, keepdim=True) * (1 / top) if scale is None else torch.tensor(scale)
        q = x * (1 / step)
        q = q.round().clamp(-128, 127) if dtype is torch.int8 else q.clamp(-448, 448).to(dtype)
        return q.double() * step.double()

    for module in linears(model).values():
        module.register_forward_pre_hook(before)


ACTIVATIONS: dict[str, tuple[Writer, dict[str, Any], float | None, torch.dtype]] = {
    "int8 by token": (
        writers.int8(),
        compressed_config({"num_bits": 8, "strategy": "channel"}, {"dynamic": True, "strategy": "token"}),
        None,
        torch.int8,
    ),
    "int8 static": (
        writers.int8(symmetric=False, input_scale=torch.tensor([0.05])),
        compressed_config(
            {"num_bits": 8, "strategy": "channel", "symmetric": False}, {"strategy": "tensor", "symmetric": True}
        ),
        0.05,
        torch.int8,
    ),
    "fp8 static": (
        writers.float8(input_scale=torch.tensor([0.01])),
        compressed_config({"num_bits": 8, "type": "float", "strategy": "tensor"}, {"type": "float"}),
        0.01,
        torch.float8_e4m3fn,
    ),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
@pytest.mark.parametrize("family", ["gpt_neox", "opt"])
def test_quantized_inputs(tmp_path: Path, case: str, family: str) -> None:
    model = FAMILIES[family]()
    writer, config, scale, dtype = ACTIVATIONS[case]
    write(model, writer, tmp_path, **config)
    quantize_inputs(model, scale, dtype)
    graph = same(tmp_path, model)
    inputs = {
        graph.producers[op.operands[0].name].kind.name
        for op in graph.find("linear")
        if op.operands[1].type.shape[0] != 31
    }
    assert inputs == {"dequantize"}


MODELOPT: dict[str, tuple[Writer, str, float | None]] = {
    "fp8": (writers.float8(input_scale=torch.tensor(0.01)), "FP8", 0.01),
    "fp8 by token": (writers.float8(by="channel"), "FP8_PER_CHANNEL_PER_TOKEN", None),
    "int8": (writers.int8(), "W8A16", 0.0),
    "int4": (writers.modelopt_int4(), "W4A16_AWQ", 0.0),
    "int4 with factors": (writers.modelopt_int4(factors=True), "W4A16_AWQ", 0.0),
}


@pytest.mark.parametrize("case", MODELOPT)
@pytest.mark.parametrize("place", ["hf_quant_config.json", "config.json"])
def test_modelopt(tmp_path: Path, case: str, place: str) -> None:
    model = neox()
    writer, algorithm, scale = MODELOPT[case]
    write(model, writer, tmp_path)
    if place == "config.json":
        write(neox(), writer, tmp_path, quantization_config={"quant_method": "modelopt", "quant_algo": algorithm})
    else:
        write_json(tmp_path / place, modelopt_config(algorithm, group_size=16, has_zero_point=False))
    if scale != 0.0:
        quantize_inputs(model, scale, torch.float8_e4m3fn)
    same(tmp_path, model)


def test_modelopt_with_inputs_of_int8(tmp_path: Path) -> None:
    model = neox()
    write(model, writers.int8(input_scale=torch.tensor(0.05)), tmp_path)
    write_json(tmp_path / "hf_quant_config.json", modelopt_config("W8A8_SQ_PER_CHANNEL"))
    quantize_inputs(model, 0.05, torch.int8)
    same(tmp_path, model)


@pytest.mark.parametrize("tool", ["modelopt", "compressed-tensors"])
def test_quantized_caches(tmp_path: Path, tool: str) -> None:
    model = neox()
    write(model, writers.float8(), tmp_path)
    path = tmp_path / "model.safetensors"
    modelopt = tool == "modelopt"
    scales = {
        f"gpt_neox.layers.{i}.attention.{f'{which}_proj.' if modelopt else ''}{which}_scale": torch.tensor(0.01)
        for i in range(2)
        for which in "kv"
    }
    if modelopt:
        write_json(tmp_path / "hf_quant_config.json", modelopt_config("FP8", kv_cache_quant_algo="FP8"))
        scales |= {f"{name}.input_scale": torch.tensor(0.01) for name in linears(model)}
        quantize_inputs(model, 0.01, torch.float8_e4m3fn)
    else:
        config = compressed_config(
            {"num_bits": 8, "type": "float", "strategy": "tensor"},
            kv_cache_scheme={"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True},
        )
        edit_config(tmp_path, **config)
    save_file({**load_file(path), **scales}, path)
    graph = lift_folder(tmp_path)
    states = [value.type.dtype for value in graph.inputs if value.name.startswith("cache.")]
    assert states == [DType.f8e4m3] * 4
    row = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]
    for ids, found in zip(row, run_rows(graph, row, ((5, 5),)), strict=True):
        expected = logits_of(model)(ids)
        assert 1e-4 < (found - expected).norm() / expected.norm() < 0.1


def test_a_module_in_several_files(tmp_path: Path) -> None:
    model = neox()
    write(model, writers.gptq(order=True), tmp_path, **gptq_config(desc_act=True))
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    files = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in files if files[name] == file}, tmp_path / file)
    write_json(tmp_path / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})
    assert len({files[name] for name in files if name.startswith("gpt_neox.layers.0.mlp.dense_h_to_4h.")}) == 2
    same(tmp_path, model)


def test_a_quantized_checkpoint_with_dummy_weights_is_not_quantized(tmp_path: Path) -> None:
    write(neox(), writers.gptq(), tmp_path, **gptq_config())
    checkpoint = open_checkpoint(tmp_path, dummy_weights=True)
    graph = lift(checkpoint, limits=Limits(max_seq=8))
    assert weights_of(graph) == []
    assert checkpoint.notes == ["the checkpoint is quantized; dummy weights are not"]
