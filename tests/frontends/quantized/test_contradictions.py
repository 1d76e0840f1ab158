"""Options that say other things of quantized weights than what is stored: what is stored is used, or it is refused."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from compiler.errors import CheckpointError
from compiler.frontends import lift, open_checkpoint
from tests.frontends.models import logits_of
from tests.frontends.quantized import writers
from tests.frontends.quantized.checkpoints import FAMILIES, change, neox, write, write_json
from tests.frontends.quantized.test_importers import compressed_config, gptq_config, same, weights_of
from tests.frontends.steps import LIMITS, assert_same_logits, edit_config

FIRST = "gpt_neox.layers.0.attention.query_key_value"
PACKED = {"num_bits": 4, "strategy": "group", "group_size": 16}


def notes_of(folder: Path) -> list[str]:
    """What lifting says."""
    checkpoint = open_checkpoint(folder)
    lift(checkpoint, limits=LIMITS)
    return checkpoint.notes


@settings(max_examples=16)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([-1, 8, 16]),
    order=st.booleans(),
    symmetric=st.booleans(),
    less_one=st.booleans(),
    said=st.fixed_dictionaries(
        {}, optional={"desc_act": st.booleans(), "sym": st.booleans(), "group_size": st.just(0)}
    ),
    beside=st.booleans(),
)
def test_gptq_is_what_is_stored(
    family: str,
    bits: int,
    group: int,
    order: bool,
    symmetric: bool,
    less_one: bool,
    said: dict[str, Any],
    beside: bool,
):
    model = FAMILIES[family]()
    options = {"bits": bits, "checkpoint_format": "gptq" if less_one else "gptq_v2", **said}
    if "group_size" in said:
        options["group_size"] = group
    config = {} if beside else {"quantization_config": {"quant_method": "gptq", **options}}
    file = "quantize_config.json" if beside else "config.json, quantization_config"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = writers.gptq(bits=bits, group=group, order=order, symmetric=symmetric, less_one=less_one)
        write(model, writer, folder, **config)
        if beside:
            write_json(folder / "quantize_config.json", options)
        checkpoint = open_checkpoint(folder)
        graph = lift(checkpoint, limits=LIMITS)
        assert_same_logits(graph, logits_of(model), vocab=31, seed=0)
    expected = [
        ("does not say", len(said) < 3),
        ("sets 'desc_act' to False", said.get("desc_act") is False and order and group > 0),
        ("sets 'sym' to True", said.get("sym") is True and not symmetric),
    ]
    assert len(checkpoint.notes) == sum(there for _, there in expected)
    for words, there in expected:
        assert sum(words in note and file in note for note in checkpoint.notes) == there


def test_a_contradiction_is_noted_once_for_all_modules(tmp_path: Path) -> None:
    write(neox(), writers.gptq(order=True), tmp_path, **gptq_config(desc_act=False, sym=True))
    assert notes_of(tmp_path) == [
        f"config.json, quantization_config, sets '{key}' to {value}, but the tensors '{FIRST}.{tensor}' and 7 more say "
        "otherwise: what is stored is used"
        for key, value, tensor in (("sym", True, "qzeros"), ("desc_act", False, "g_idx"))
    ]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("less_one", [True, False])
def test_symmetric_zero_points_of_the_other_format_are_refused(tmp_path: Path, bits: int, less_one: bool) -> None:
    stored, said = ("gptq", "gptq_v2") if less_one else ("gptq_v2", "gptq")
    config = gptq_config(bits=bits, sym=True, checkpoint_format=said)
    write(neox(), writers.gptq(bits=bits, symmetric=True, less_one=less_one), tmp_path, **config)
    with pytest.raises(CheckpointError) as error:
        notes_of(tmp_path)
    assert error.value.message == (
        f"the tensor '{FIRST}.qzeros' holds the zero points of symmetric weights in the format {stored}; "
        f"config.json, quantization_config, says {said}"
    )
    assert error.value.hint is not None and f"set 'checkpoint_format' to {stored!r}" in error.value.hint


def test_an_order_that_is_none_costs_nothing(tmp_path: Path) -> None:
    """Some tools say `desc_act` and yet store groups in their order."""
    model = neox()
    write(model, writers.gptq(), tmp_path, **gptq_config(desc_act=True))
    graph = same(tmp_path, model)
    assert not list(graph.find("group_order"))
    assert notes_of(tmp_path) == []


def test_bits_and_groups_that_are_stored_as_tensors(tmp_path: Path) -> None:
    model = neox()
    write(model, writers.gptq(symmetric=True), tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), "gptq_bits": torch.tensor([4]), "gptq_groupsize": torch.tensor([16])}, path)
    assert len(weights_of(same(tmp_path, model))) == 12
    assert notes_of(tmp_path) == ["the tensor 'gptq_bits' does not say 'desc_act' and 'sym': what is stored is used"]


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "hqq"])
def test_options_that_are_left_over_beside_plain_weights_are_noted(tmp_path: Path, method: str) -> None:
    model = neox()
    model.save_pretrained(tmp_path)
    edit_config(tmp_path, quantization_config={"quant_method": method, "load_in_4bit": True, "bits": 4})
    same(tmp_path, model)
    (note,) = notes_of(tmp_path)
    assert note.endswith("but none that is stored is: they are used as stored")
    assert method in note or method in ("gptq", "awq")


def test_weights_of_bitsandbytes_are_refused(tmp_path: Path) -> None:
    neox().save_pretrained(tmp_path)
    edit_config(tmp_path, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    change(tmp_path, dense__weight=torch.zeros(512, 1, dtype=torch.uint8))
    with pytest.raises(Exception, match="quantized by bitsandbytes, which is not supported"):
        notes_of(tmp_path)


REFUSED = {
    "an order": (
        writers.pack_quantized(order=True), compressed_config(PACKED), {},
        "weight_g_idx' puts the inputs into another order; config.json, quantization_config, config_groups,",
    ),
    "zero points": (
        writers.pack_quantized(symmetric=False), compressed_config(PACKED), {},
        "weight_zero_point' holds zero points that are not 0",
    ),
    "a shape": (
        writers.pack_quantized(), compressed_config(PACKED), {"weight_shape": torch.tensor([96, 64])},
        "weight_shape' says that the weight is [96,64], but the config makes it [96,32]",
    ),
    "a zero point of inputs": (
        writers.int8(input_scale=torch.tensor(0.1), input_zero_point=torch.tensor(3, dtype=torch.int8)),
        compressed_config({"num_bits": 8, "strategy": "channel"}, {"num_bits": 8, "type": "int"}), {},
        "input_zero_point' holds zero points that are not 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_compressed_tensors_that_contradict_the_config_are_refused(tmp_path: Path, case: str) -> None:
    writer, config, changed, message = REFUSED[case]
    write(neox(), writer, tmp_path, **config)
    if changed:
        change(tmp_path, **{f"{FIRST}.{name}".replace(".", "__"): tensor for name, tensor in changed.items()})
    with pytest.raises(CheckpointError) as error:
        notes_of(tmp_path)
    assert f"the tensor '{FIRST}.{message}" in error.value.message


def test_compressed_tensors_that_say_the_same_twice(tmp_path: Path) -> None:
    model = neox()
    write(model, writers.pack_quantized(), tmp_path, **compressed_config(PACKED))
    path, extra = tmp_path / "model.safetensors", {}
    for name, tensor in load_file(path).items():
        if name.endswith("weight_scale"):
            module, columns = name.removesuffix("weight_scale"), tensor.shape[1] * 16
            extra[f"{module}weight_zero_point"] = torch.full((len(tensor) // 8, tensor.shape[1]), -2004318072).int()
            extra[f"{module}weight_g_idx"] = torch.full((columns,), -1).int()
    save_file({**load_file(path), **extra}, path)
    same(tmp_path, model)
    assert notes_of(tmp_path) == []
