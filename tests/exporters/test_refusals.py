"""What a checkpoint, or a format, cannot say is an error that names it, before any weight is read."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compiler.errors import ExportError
from compiler.exporters import find_format, plan_export
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep
from tests.exporters.digests import outputs_of
from tests.exporters.exporting import exported, rewritten, saved_model, tensors_of


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-NeoX checkpoint."""
    folder = tmp_path_factory.mktemp("neox")
    saved_model(folder, "gpt_neox")
    return folder


def refused(graph: Graph, source: Path, name: str) -> tuple[str, str | None]:
    """The message and the hint of the error that exporting a graph raises."""
    config = json.loads((source / "config.json").read_text())
    with pytest.raises(ExportError) as caught:
        plan_export(graph, config, find_format(name))
    return caught.value.message, caught.value.hint


QKV = "gpt_neox.layers.0.attention.query_key_value"
TWO_SCHEMES = (
    "the format gptq has one scheme for all modules, and the model has 4 bits in groups of 16 and 8 bits in whole rows"
)
CASES = {
    "quant=int8 safetensors": (
        f"the format safetensors has no place for weights in int8, as {QKV} has",
        "formats that can say what the model is: compressed-tensors, gptq",
    ),
    "quant=int8:act=token gptq": (
        f"the format gptq has no place for inputs that are rounded to int8 by a scale for each token, as {QKV} has",
        "formats that can say what the model is: compressed-tensors",
    ),
    "quant=int8:act=static awq": (
        f"the format awq has no place for weights in int8, as {QKV} has",
        "formats that can say what the model is: compressed-tensors",
    ),
    "quant=fp8 gptq": (
        f"the format gptq has no place for weights in fp8, as {QKV} has",
        "formats that can say what the model is: compressed-tensors",
    ),
    "quant=int4:group=16,kv=int8 gptq": (
        "the format gptq has no place for quantized caches",
        "formats that can say what the model is: compressed-tensors",
    ),
    "kv=int8 safetensors": (
        "the format safetensors has no place for quantized caches",
        "formats that can say what the model is: compressed-tensors",
    ),
    " awq": (
        "the format awq is one of quantized checkpoints, and nothing of the model is quantized",
        "formats that can say what the model is: safetensors",
    ),
    "quant=int4:group=16:only=dense,quant=int8 gptq": (
        TWO_SCHEMES,
        "formats that can say what the model is: compressed-tensors",
    ),
    "quant=int4:group=16:only=dense,quant=int4:group=8 awq": (
        "the format awq has one size of groups for all modules, and the model has 8 and 16",
        "formats that can say what the model is: compressed-tensors",
    ),
    "quant=awq:group=16 gptq": (
        "the format gptq has no place for factors of inputs, as gpt_neox.layers.0.mlp.dense_4h_to_h has",
        "formats that can say what the model is: awq; with multiply=false of quant compressed-tensors, gptq, awq",
    ),
    "quant=smoothquant compressed-tensors": (
        "the format compressed-tensors has no place for factors of inputs, as gpt_neox.layers.0.mlp.dense_4h_to_h has",
        "with multiply=false of quant, which leaves such inputs as they are, compressed-tensors can",
    ),
    "tp=2 safetensors": (
        "the graph is for 2 ranks (tp=2, pp=1), of which each has a part of the weights",
        "export the checkpoint with the same passes, without tp, pp and embed",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_format_cannot_say(neox: Path, case: str) -> None:
    passes, _, name = case.rpartition(" ")
    assert refused(rewritten(neox, passes), neox, name) == CASES[case]


def test_an_unknown_format() -> None:
    with pytest.raises(ExportError) as caught:
        find_format("gtpq")
    assert caught.value.message == "there is no format 'gtpq'; did you mean 'gptq'?"
    assert caught.value.hint == "formats are: safetensors, compressed-tensors, gptq, awq"


def _changed(graph: Graph, kind: str, change: Callable[[Op, RewriteBuilder], Value | None]) -> Graph:
    """The graph with every op of a kind replaced by a pass of that name."""
    return sweep(graph, lambda op, b: change(op, b) if op.kind.name == kind else None, pass_name="my-pass")


def test_an_activation_that_a_pass_has_changed(neox: Path) -> None:
    graph = _changed(rewritten(neox, ""), "gelu", lambda op, b: b.gelu(op.operands[0], tanh=True))
    message, hint = refused(graph, neox, "safetensors")
    assert message == (
        "gelu %layers.0.mlp.act from gpt_neox.layers.0.mlp (changed by my-pass) has tanh=True, "
        "where the family has False: no checkpoint of the family gpt_neox says that"
    )
    assert hint == "leave out the pass that made it: my-pass"


def test_an_op_that_a_pass_has_added(neox: Path) -> None:
    graph = _changed(rewritten(neox, ""), "gelu", lambda op, b: b.tanh(b.gelu(op.operands[0]), name="more"))
    message, _ = refused(graph, neox, "safetensors")
    assert "tanh %layers.0.mlp.act" in message
    assert "stands where the family has gelu" in message


def test_a_bias_for_which_the_family_has_no_place(tmp_path: Path) -> None:
    saved_model(tmp_path, "gptj")

    graph = _changed(rewritten(tmp_path, ""), "linear", _biased(1.0))
    message, _ = refused(graph, tmp_path, "safetensors")
    assert "linear %layers.0.attn.q" in message
    assert "has a bias, which the family has not" in message


def test_a_bias_of_zeros_is_left_out(tmp_path: Path) -> None:
    """Old AutoGPTQ stores one for every linear."""
    saved_model(tmp_path / "in", "gptj")
    graph = rewritten(tmp_path / "in", "")
    again = exported(_changed(graph, "linear", _biased(0.0)), tmp_path / "in", "safetensors", tmp_path / "out")
    assert outputs_of(again) == outputs_of(graph)


def _biased(value: float) -> Callable[[Op, RewriteBuilder], Value | None]:
    def change(op: Op, b: RewriteBuilder) -> Value | None:
        if len(op.operands) > 2:
            return None
        x, weight = op.operands
        bias = b.literal(dtype=op.result.type.dtype, shape=weight.type.shape[:1], values=(value,))
        return b.linear(x, weight, bias)

    return change


def test_virtual_tokens(neox: Path) -> None:
    graph = rewritten(neox, "")
    graph = replace(graph, facts=FrozenDict({**graph.facts, "tasks": "[]"}))
    assert refused(graph, neox, "safetensors") == (
        "the graph has virtual tokens of tasks, for which a checkpoint has no place",
        "leave the pass prompts out: other programs read the adapter folders themselves",
    )


def test_parts_of_a_tensor_that_are_quantized_differently(neox: Path) -> None:
    graph = rewritten(neox, "quant=int8:only=layers.0.attn.q")
    assert refused(graph, neox, "compressed-tensors") == (
        f"the parts of '{QKV}.weight' are quantized differently, and a checkpoint has one tensor for all of them",
        f"quantize all of it or none: skip={QKV}",
    )


@pytest.mark.parametrize("passes", ["quant=int8:only=lm_head", "quant=int4:group=16:head=int8"])
def test_a_tied_head_with_weights_of_its_own_is_untied(tmp_path: Path, passes: str) -> None:
    saved_model(tmp_path / "in", "mpt")
    graph = rewritten(tmp_path / "in", passes)
    again = exported(graph, tmp_path / "in", "compressed-tensors", tmp_path / "out")
    assert outputs_of(again) == outputs_of(graph)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert tensors_of(tmp_path / "out")["lm_head.weight_packed"].dtype is torch.int32


def test_modules_that_are_left_out_are_named(neox: Path, tmp_path: Path) -> None:
    graph = rewritten(neox, "quant=int4:group=16:skip=layers.0")
    left = [f"gpt_neox.layers.0.{name}" for name in ("attention.query_key_value", "attention.dense")]
    left += [f"gpt_neox.layers.0.mlp.{name}" for name in ("dense_h_to_4h", "dense_4h_to_h")]
    said = {}
    for name in ("gptq", "awq", "compressed-tensors"):
        again = exported(graph, neox, name, tmp_path / name)
        assert outputs_of(again) == outputs_of(graph)
        said[name] = json.loads((tmp_path / name / "config.json").read_text())["quantization_config"]
    assert said["awq"]["modules_to_not_convert"] == left
    assert said["compressed-tensors"]["ignore"] == [*left, "lm_head", "embed_out"]
    assert next(iter(said["gptq"]["dynamic"])) == r"-:^gpt_neox\.layers\.0\.attention\.query_key_value$"
    assert len(said["gptq"]["dynamic"]) == len(left)


def test_several_schemes_are_groups_of_modules(neox: Path, tmp_path: Path) -> None:
    graph = rewritten(neox, "quant=int4:group=16:only=dense,quant=fp8:weights=channel:act=token")
    again = exported(graph, neox, "compressed-tensors", tmp_path / "out")
    assert outputs_of(again) == outputs_of(graph)
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert said["format"] == "mixed-precision"
    assert [group["format"] for group in said["config_groups"].values()] == ["float-quantized", "pack-quantized"]
    assert said["config_groups"]["group_1"]["targets"] == [f"gpt_neox.layers.{i}.attention.dense" for i in range(2)]
