"""GPTQ checkpoints of every width, by every tool that stores its zero points differently."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compiler.errors import CheckpointError
from compiler.ir.dtypes import DType
from tests.frontends.quantized import writers
from tests.frontends.quantized.checkpoints import FAMILIES, change, linears, neox, write
from tests.frontends.quantized.test_importers import gptq_config, same, weights_of
from tests.frontends.quantized.writers import Written
from tests.frontends.steps import lift_folder


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [-1, 8, 32])
@pytest.mark.parametrize("less_one", [True, False])
def test_gptq_of_any_width(tmp_path: Path, bits: int, group: int, less_one: bool) -> None:
    model = neox()
    config = gptq_config(bits=bits, group_size=group, checkpoint_format="gptq" if less_one else "gptq_v2")
    write(model, writers.gptq(bits=bits, group=group, less_one=less_one), tmp_path, **config)
    graph = same(tmp_path, model)
    weights = weights_of(graph)
    assert len(weights) == len(list(graph.find("linear"))) - 1  # all but the head's
    for op in weights:
        assert op.operands[0].type.dtype is (DType.i4 if bits <= 4 else DType.i8)
        n, k = op.result.type.shape
        assert op.operands[1].type.shape == (n, k // group if group > 0 else 1)
        assert op.operands[1].type.dtype is DType.f32
        assert len(op.operands) == 3


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_gptq_needs_no_zero_points(tmp_path: Path, bits: int) -> None:
    model = neox()
    write(model, writers.gptq(bits=bits, symmetric=True), tmp_path, **gptq_config(bits=bits, sym=True))
    assert {len(op.operands) for op in weights_of(same(tmp_path, model))} == {2}


def test_zero_points_of_zero_were_borrowed_from_the_next(tmp_path: Path) -> None:
    model = neox()
    write(model, writers.gptq(less_one=False), tmp_path, **gptq_config())
    # Tools subtract one from every integer of a word at once, so 0 borrows.
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for name, module in linears(model).items():
        zeros = tensors[f"{name}.qzeros"]
        zeros[:, 0] &= ~0xFF | 0x30  # the first output has a zero point of 0, the second of at most 3
        zeros[:, 0] |= 0x10
        scales, groups = tensors[f"{name}.scales"].double(), tensors[f"{name}.g_idx"]
        words, packed = tensors[f"{name}.qweight"], zeros.tolist()
        q = torch.stack([(words >> (4 * i)) & 15 for i in range(8)], 1).reshape(-1, words.shape[1]).double()
        zero = torch.tensor([[(word >> (4 * i)) & 15 for word in row for i in range(8)] for row in packed]).double()
        assert (zero[:, 0] == 0).all()
        module.weight.data = ((q - zero[groups]) * scales[groups]).T
        stored = [[(word - 0x11111111) & 0xFFFFFFFF for word in row] for row in packed]
        signed = [[word - 2**32 if word >= 2**31 else word for word in row] for row in stored]
        tensors[f"{name}.qzeros"] = torch.tensor(signed, dtype=torch.int32)
    save_file(tensors, path)
    same(tmp_path, model)


def test_three_bits_by_gptqmodel_since_version_7(tmp_path: Path) -> None:
    model = neox()
    meta = {"quantizer": ["optimum:2.0.0", "gptqmodel:7.0.0"]}

    def write_with_zeros(weight: Tensor) -> Written:
        found = writers.rounded(weight, 3, [0] * weight.shape[1], symmetric=False)
        found.zero[5][0] = 0
        stored = [(zero - 1) % 8 for (zero,) in found.zero]
        tensors = {
            "qweight": writers.packed_rows(found.q, 3).T,
            "qzeros": writers.packed_rows([stored], 3),
            "scales": found.scale.T,
        }
        return Written(tensors, found.weight)

    write(model, write_with_zeros, tmp_path, **gptq_config(bits=3, group_size=-1, meta=meta))
    same(tmp_path, model)


def test_three_bits_by_older_gptqmodel(tmp_path: Path) -> None:
    model = neox()
    meta = {"quantizer": ["gptqmodel:4.0.0"]}
    write(model, writers.gptq(bits=3, less_one=False), tmp_path, **gptq_config(bits=3, meta=meta))
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for name in linears(model):
        zeros = tensors[f"{name}.qzeros"]
        for i, word in enumerate((0x24924924, 0x92492492 - 2**32, 0x49249249)):
            zeros[:, i::3] -= word
    save_file(tensors, path)
    same(tmp_path, model)


@pytest.mark.parametrize("family", FAMILIES)
def test_linears_that_have_biases_only_because_they_are_quantized(tmp_path: Path, family: str) -> None:
    model = FAMILIES[family]()
    write(model, writers.gptq(), tmp_path, **gptq_config())
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for name, module in linears(model).items():
        if module.bias is None:
            module.bias = torch.nn.Parameter(torch.linspace(-0.1, 0.1, module.out_features, dtype=torch.float64))
            tensors[f"{name}.bias"] = module.bias.detach().half()
            module.bias.data = tensors[f"{name}.bias"].double()
    save_file(tensors, path)
    same(tmp_path, model)


def test_groups_of_other_sizes_are_refused_when_the_graph_is_lifted(tmp_path: Path) -> None:
    write(neox(), writers.gptq(order=True), tmp_path, **gptq_config(desc_act=True))
    change(tmp_path, mlp__dense_4h_to_h__g_idx=torch.zeros(64, dtype=torch.int32))
    with pytest.raises(CheckpointError) as error:
        lift_folder(tmp_path)
    assert error.value.message == (
        "the tensor 'gpt_neox.layers.0.mlp.dense_4h_to_h.g_idx' does not put 16 of 64 inputs into each of 4 groups"
    )
