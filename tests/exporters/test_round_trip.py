"""What is exported and lifted again is the same graph, with the same tensors bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compiler.errors import ExportError
from compiler.ir.graph import Graph
from tests.exporters.digests import outputs_of
from tests.exporters.exporting import exported, rewritten, saved_model, tensors_of
from tests.frontends.quantized import writers
from tests.frontends.quantized.checkpoints import FAMILIES, write
from tests.frontends.quantized.test_importers import CASES, compressed_config, gptq_config
from tests.frontends.steps import assert_same_logits, random_rows, run_rows

RECIPES = {
    "float16": ("safetensors", ""),
    "float32": ("safetensors", "dtype=float32"),
    "gptq": ("gptq", "quant=int4:group=16"),
    "gptq int8": ("gptq", "quant=int8"),
    "awq": ("awq", "quant=int4:group=16"),
    "pack-quantized": ("compressed-tensors", "quant=int4:group=16"),
    "w8a16": ("compressed-tensors", "quant=int8"),
    "w8a8 token": ("compressed-tensors", "quant=int8:act=token"),
    "w8a8 static, caches": ("compressed-tensors", "quant=int8:act=static,kv=int8"),
    "fp8": ("compressed-tensors", "quant=fp8:weights=channel:act=static,kv=fp8:scale=tensor"),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small checkpoint of every family in float16."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        saved_model(folder / family, family)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_family_and_format(checkpoints: Path, tmp_path: Path, family: str, recipe: str) -> None:
    name, passes = RECIPES[recipe]
    graph = rewritten(checkpoints / family, passes)
    again = exported(graph, checkpoints / family, name, tmp_path / "out")
    assert outputs_of(again) == outputs_of(graph)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unchanged_checkpoint_keeps_its_tensors(checkpoints: Path, tmp_path: Path, family: str) -> None:
    exported(rewritten(checkpoints / family, ""), checkpoints / family, "safetensors", tmp_path / "out")
    before, after = tensors_of(checkpoints / family), tensors_of(tmp_path / "out")
    renamed = {name.replace("lm_head", "embed_out") if family == "gpt_neox" else name: t for name, t in before.items()}
    assert renamed.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in renamed.items())


IMPORTED = {
    "gptq": ("gptq", CASES["gptq"]),
    "gptq symmetric": ("gptq", CASES["gptq symmetric"]),
    "gptq order": ("gptq", CASES["gptq order"]),
    "gptq 8 bits": ("gptq", (writers.gptq(bits=8), gptq_config(bits=8))),
    "gptq whole rows": ("gptq", (writers.gptq(group=-1), gptq_config(group_size=-1))),
    "awq": ("awq", CASES["awq"]),
    "pack-quantized": ("compressed-tensors", CASES["pack-quantized"]),
    "asymmetric": (
        "compressed-tensors",
        (
            writers.pack_quantized(symmetric=False),
            compressed_config(
                {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False}, format="pack-quantized"
            ),
        ),
    ),
    "order": (
        "compressed-tensors",
        (
            writers.pack_quantized(order=True),
            compressed_config(
                {"num_bits": 4, "strategy": "group", "group_size": 16, "actorder": "group"}, format="pack-quantized"
            ),
        ),
    ),
    "fp8": ("compressed-tensors", CASES["float-quantized"]),
}
BLOCKS = (
    writers.float8(by="block"),
    compressed_config(
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [8, 16]}, format="float-quantized"
    ),
)
PLACES = [(family, case) for family in ("gpt_neox", "opt") for case in IMPORTED]


@pytest.mark.parametrize(("family", "case"), [*PLACES, ("opt", "fp8 blocks")])
def test_a_quantized_checkpoint_keeps_its_tensors(tmp_path: Path, family: str, case: str) -> None:
    """Those that are written by loops over bits, independently of what is tested."""
    name, (writer, config) = IMPORTED.get(case, ("compressed-tensors", BLOCKS))
    (tmp_path / "in").mkdir()
    write(FAMILIES[family](), writer, tmp_path / "in", **config)
    graph = rewritten(tmp_path / "in", "")
    again = exported(graph, tmp_path / "in", name, tmp_path / "out")
    assert outputs_of(again) == outputs_of(graph)
    before, after = tensors_of(tmp_path / "in"), tensors_of(tmp_path / "out")
    for key, tensor in before.items():
        found = after[key.replace("lm_head", "embed_out") if family == "gpt_neox" else key]
        assert found.dtype == tensor.dtype, key
        assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8)), key


def test_one_tool_s_weights_in_the_format_of_another(tmp_path: Path) -> None:
    writer, config = CASES["gptq order"]
    (tmp_path / "in").mkdir()
    write(FAMILIES["opt"](), writer, tmp_path / "in", **config)
    graph = rewritten(tmp_path / "in", "")
    packed = exported(graph, tmp_path / "in", "compressed-tensors", tmp_path / "out")
    assert outputs_of(packed) == outputs_of(graph)
    back = exported(packed, tmp_path / "out", "gptq", tmp_path / "back")
    assert outputs_of(back) == outputs_of(graph)


def test_parts_of_a_tensor_get_a_scale_for_each_row(checkpoints: Path, tmp_path: Path) -> None:
    """A scale each for q, k and v cannot be that of one tensor; as scales of rows they say the same."""
    graph = rewritten(checkpoints / "gpt_neox", "quant=fp8:act=token")
    exported(graph, checkpoints / "gpt_neox", "compressed-tensors", tmp_path / "out")
    tensors = tensors_of(tmp_path / "out")
    scales = tensors["gpt_neox.layers.0.attention.query_key_value.weight_scale"]
    assert scales.shape == (96, 1)
    assert len(scales.unique()) == 3
    assert tensors["gpt_neox.layers.0.attention.dense.weight_scale"].shape == (1,)


@pytest.mark.parametrize("family", ["gpt_neox", "gptj", "mpt"])
def test_what_awq_cannot_fold_is_divided_after_the_activation(checkpoints: Path, tmp_path: Path, family: str) -> None:
    """The graph multiplies by factors, the format divides by their reciprocals: a rounding of float32 apart."""
    graph = rewritten(checkpoints / family, "dtype=float32,quant=awq:group=16")
    again = exported(graph, checkpoints / family, "awq", tmp_path / "out")
    divisors = [name for name in tensors_of(tmp_path / "out") if name.endswith(".act.scales")]
    assert len(divisors) == graph.facts["layers"]
    assert_same_logits(again, _logits(graph), vocab=31, seed=0, tolerance=1e-5)


def _logits(graph: Graph) -> Callable[[list[int]], torch.Tensor]:
    found = dict(zip(map(tuple, random_rows(31, 0)), run_rows(graph, random_rows(31, 0)), strict=True))
    return lambda row: found[tuple(row)]


def test_what_awq_divides_by_is_kept_and_no_other_format_has_a_place_for_it(tmp_path: Path) -> None:
    writer, config = CASES["awq"]
    (tmp_path / "in").mkdir()
    write(FAMILIES["gptj"](), writer, tmp_path / "in", **config)
    file = tmp_path / "in" / "model.safetensors"
    scales = torch.linspace(0.5, 2, 64).half()
    save_file(load_file(file) | {"transformer.h.0.mlp.act.scales": scales}, file)
    graph = rewritten(tmp_path / "in", "")
    again = exported(graph, tmp_path / "in", "awq", tmp_path / "out")
    assert outputs_of(again) == outputs_of(graph)
    assert torch.equal(tensors_of(tmp_path / "out")["transformer.h.0.mlp.act.scales"].half(), scales)
    message = "the format gptq has no place for what activations are divided by, as transformer.h.0.mlp.act.scales"
    with pytest.raises(ExportError) as caught:
        exported(graph, tmp_path / "in", "gptq", tmp_path / "more")
    assert (caught.value.message, caught.value.hint) == (message, "formats that can say what the model is: awq")
