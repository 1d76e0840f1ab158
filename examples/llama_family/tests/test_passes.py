"""No pass, target or executor knows of these families, and each works with them: token by token, as transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import llmc
from compiler.ir.graph import Graph
from compiler.passes import run_pipeline
from examples.llama_family.tests.small import checkpoint, large_vocabulary, likeliest
from tests.passes.parallel.meshes import PROMPTS, STEPS, greedy, logits, rewritten
from tests.passes.quant.models import calibration

FAMILIES = ("llama", "gpt2")
LINEARS = {"llama": 2 * 7, "gpt2": 2 * 6}  # all but the head
LIMITS = {"dtype": "float32", "max_batch": 3, "max_seq": 32}
FEW_PLANS = "tensorrt-rtx:batch_sizes=1:prompt_sizes=32:capacities=32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint of a family, not to be changed."""
    return cache(lambda family: checkpoint(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="module")
def lifted(folder: Callable[[str], Path]) -> Callable[[str], Graph]:
    """The graph of a family's checkpoint, in float32."""
    return cache(lambda family: run_pipeline(llmc.lift(folder(family), max_seq=32), "dtype=float32").graph)


@cache
def expected(family: str) -> list[list[int]]:
    return likeliest(large_vocabulary(family), PROMPTS, STEPS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "passes", ["tp=2", "tp=4,embed=vocab", "pp=2", "merge-linears,fuse-attention,cleanup,tp=2,pp=2"]
)
def test_tokens_are_those_of_transformers_on_every_mesh(lifted, family: str, passes: str) -> None:
    assert greedy(rewritten(lifted(family), passes)) == expected(family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quant", ["awq:group=16", "gptq:group=16", "smoothquant", "int8", "int4:group=16", "fp8"])
def test_every_linear_is_quantized_and_may_be_split_afterwards(lifted, family: str, quant: str) -> None:
    with calibration(samples=2, length=16).active():
        graph = rewritten(lifted(family), f"quant={quant}:skip=lm_head,kv=int8")
    weights = [op for op in graph.find("linear") if graph.producers[op.operands[1].name].kind.name == "dequantize"]
    assert len(weights) == LINEARS[family]
    assert {value.type.dtype.value for value in graph.inputs if value.name.startswith("cache.")} == {"i8"}
    # In real numbers, so that what is rounded to 8 bits falls to the same side of a step.
    torch.testing.assert_close(logits(rewritten(graph, "tp=2"), 1024), logits(graph, 1024), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_engines_generate_what_transformers_does_on_both_targets(folder, tmp_path: Path, family: str) -> None:
    engine = llmc.compile(folder(family), tmp_path / "engine", target=FEW_PLANS, **LIMITS).path
    for executor in ("torch", "interpreter", "emulator"):
        found = llmc.load(engine, executor=executor).generate(PROMPTS, max_new_tokens=STEPS, ignore_eos=True)
        assert [one.token_ids for one in found] == expected(family), executor
    assert llmc.verify(engine, folder(family), executor="torch", random=1, max_new_tokens=4).holds


@pytest.mark.parametrize("family", FAMILIES)
def test_paged_caches(folder, tmp_path: Path, family: str) -> None:
    engine = llmc.compile(folder(family), tmp_path / "engine", passes="cache=paged:block=8", target="torch", **LIMITS)
    found = llmc.load(engine.path, executor="torch").generate(PROMPTS, max_new_tokens=STEPS, ignore_eos=True)
    assert [one.token_ids for one in found] == expected(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_exported_is_the_checkpoint(folder, tmp_path: Path, family: str) -> None:
    """The way back needs nothing of a family but its frontend, which it undoes."""
    llmc.export(folder(family), tmp_path / "back")
    before, after = (load_file(path / "model.safetensors") for path in (folder(family), tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(after[name].equal(tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("gptq", "int4:group=16"), ("awq", "awq:group=16:multiply=false"), ("compressed-tensors", "int8")],
)
def test_quantized_checkpoints_of_llama_are_read(folder, lifted, tmp_path: Path, name: str, recipe: str) -> None:
    options = {"passes": f"dtype=float32,quant={recipe}", "calib_samples": 2, "calib_length": 16}
    llmc.export(folder("llama"), tmp_path / "packed", name, **options)
    packed = llmc.lift(tmp_path / "packed", max_seq=32)
    assert sum(1 for _ in packed.find("dequantize")) >= LINEARS["llama"]
    with calibration(samples=2, length=16).active():
        graph = run_pipeline(lifted("llama"), f"quant={recipe}").graph
    if recipe.startswith("int"):  # what is calibrated depends on the text
        assert greedy(packed, PROMPTS, 3) == greedy(graph, PROMPTS, 3)
