"""The passes of the cookbook: each compared with the model that it should make, and with other passes and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import llmc
from compiler.ir.graph import Graph
from compiler.ir.virtual_ranks import VirtualRanks
from compiler.passes import load_plugin, run_pipeline
from tests.frontends.models import logits_of, random_model
from tests.frontends.steps import assert_same_logits
from tests.passes.guide import COOKBOOK, guide_code
from tests.registrations import forgotten

VOCABULARY, LAYERS, WIDTH = 32, 3, 6
Change = Callable[[Any], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-NeoX model, an adapter for it, and the passes of the cookbook."""
    folder = tmp_path_factory.mktemp("cookbook")
    fresh_model().save_pretrained(folder)
    matrices = {"A": torch.randn(2, 24, generator=seeded(1)), "B": torch.randn(20, 2, generator=seeded(2))}
    name = "base_model.model.gpt_neox.layers.1.mlp.dense_h_to_4h.lora_{}.weight"
    save_file({name.format(which): matrix for which, matrix in matrices.items()}, folder / "adapter.safetensors")
    (folder / "my_passes.py").write_text(guide_code(COOKBOOK))
    return folder


@pytest.fixture(scope="module", autouse=True)
def cookbook(folder: Path) -> Iterator[Any]:
    """The cookbook as the plug-in that it says it is."""
    with pytest.MonkeyPatch.context() as patch, forgotten():
        patch.chdir(folder)
        yield load_plugin("my_passes.py")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh_model(**changes: Any) -> Any:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": LAYERS}
    sizes |= {"intermediate_size": 20, "max_position_embeddings": 32}
    return random_model(transformers.GPTNeoXForCausalLM, transformers.GPTNeoXConfig(**sizes | changes), seed=5)


def step_logits(graph: Graph) -> Tensor:
    """The logits of a prompt of two rows, on all ranks of a graph, in real numbers."""
    ranks = VirtualRanks(graph, accumulate=torch.float64, exact=True)
    ids = [[5, 30, 7, 21], [9, 2, 3, 0]]
    rows = {"token_ids": ids, "past_len": [0, 0], "new_len": [4, 3], "logit_pos": [[3], [2]]}
    inputs = {name: torch.tensor(values, dtype=torch.int32) for name, values in rows.items()}
    return ranks(inputs, ranks.empty_states(2, 8))[0]["logits"].double()


# What each pass should make of the model, by what is done to that of transformers


def prune(model: Any) -> None:
    for layer in model.gpt_neox.layers:
        for head in (0, 3):
            layer.attention.dense.weight.data[:, head * WIDTH : (head + 1) * WIDTH] = 0


def skip(model: Any) -> None:
    del model.gpt_neox.layers[:2]


def tie(model: Any) -> None:
    model.lm_head.weight.data = model.gpt_neox.embed_in.weight.data


def scale(model: Any) -> None:
    model.gpt_neox.embed_in.weight.data *= 24**0.5


def thin(model: Any) -> None:
    """Subtract what the smaller singular values contribute, one by one."""
    for layer in model.gpt_neox.layers:
        for linear in (layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h):
            left, sizes, right = torch.linalg.svd(linear.weight.data.double())
            for i in range(8, 20):
                linear.weight.data -= (sizes[i] * torch.outer(left[:, i], right[i])).float()


def merge(model: Any) -> None:
    a, b = (torch.randn(2, 24, generator=seeded(1)), torch.randn(20, 2, generator=seeded(2)))
    model.gpt_neox.layers[1].mlp.dense_h_to_4h.weight.data += 0.5 * b @ a


def sparsify(model: Any) -> None:
    for layer in model.gpt_neox.layers:
        attention, mlp = layer.attention, layer.mlp
        for linear in (attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h):
            for row in linear.weight.data:
                for at in range(0, len(row), 4):
                    four = row[at : at + 4]
                    four[four.abs().argsort()[:2]] = 0


RECIPES: dict[str, Change] = {
    "dtype=bfloat16,keep-float32=layers.2.*": lambda model: None,
    "prune-heads=0+3": prune,
    "skip-layers=0+1": skip,
    "soft-cap-logits=3": lambda model: None,
    "quick-gelu": lambda model: None,
    "tie-embeddings": tie,
    "scale-embeddings": scale,
    "low-rank=8": thin,
    "observe": lambda model: None,
    "merge-adapter=adapter.safetensors:scale=0.5": merge,
    "sparsify": sparsify,
}


@pytest.fixture(scope="module")
def lifted(folder: Path) -> Graph:
    return llmc.lift(folder, max_batch=2, max_seq=32)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_makes_the_model_that_it_says(recipe: str, lifted: Graph) -> None:
    model = fresh_model(hidden_act="quick_gelu" if recipe == "quick-gelu" else "gelu")
    RECIPES[recipe](model)
    logits = logits_of(model)
    expected = (lambda row: 3 * torch.tanh(logits(row) / 3)) if recipe == "soft-cap-logits=3" else logits
    changed = run_pipeline(lifted, recipe).graph
    tolerance = 0.03 if "bfloat16" in recipe else 1e-5  # the caches round, which have 8 bits of significand
    assert_same_logits(changed, expected, vocab=VOCABULARY, seed=1, tolerance=tolerance)
    assert changed is not lifted


def test_what_is_kept_in_float32_is_the_weight_of_the_file(lifted: Graph) -> None:
    graph = run_pipeline(lifted, "dtype=bfloat16,keep-float32=layers.2.*,cleanup").graph
    linears = [op for op in graph.find("linear") if {str(x.type.dtype) for x in op.operands} == {"f32"}]
    assert [op.name.partition(".attn")[0].partition(".mlp")[0] for op in linears] == ["layers.2"] * 6
    stored = [op for op in linears if graph.producers[op.operands[1].name].kind.name == "const"]
    assert {op.name for op in stored} >= {"layers.2.mlp.up.linear", "layers.2.mlp.down.linear"}


def test_an_adapter_for_another_model_is_refused(folder: Path, lifted: Graph) -> None:
    stranger = "base_model.model.gpt_neox.layers.9.mlp.dense_h_to_4h.lora_A.weight"
    save_file({stranger: torch.zeros(2, 24)}, folder / "other.safetensors")
    with pytest.raises(llmc.PassError) as caught:
        run_pipeline(lifted, "merge-adapter=other.safetensors")
    assert caught.value.message == f"other.safetensors has tensors for which there is no weight: {stranger}"


@pytest.mark.parametrize("recipe", ["keep-float32=nothing.*", "low-rank=4:only=attn", "observe=none", "sparsify=none"])
def test_a_pattern_that_matches_nothing_is_noted(recipe: str, lifted: Graph) -> None:
    assert run_pipeline(lifted, recipe).notes[0].endswith(": it changed nothing in this graph")


def test_observers_remember_what_executors_compute(cookbook: Any, folder: Path, tmp_path: Path) -> None:
    engine = llmc.compile(folder, tmp_path / "engine", passes="observe=*.mlp.act", target="torch", max_seq=16)
    cookbook.largest.clear()
    llmc.load(engine.path, executor="torch", device="cpu").logits([3, 1, 4])
    model, largest = fresh_model(), {}

    def hook(name: str) -> Callable[..., None]:
        return lambda module, given, result: largest.update({name: float(result.abs().max())})

    for i, layer in enumerate(model.gpt_neox.layers):
        layer.mlp.act.register_forward_hook(hook(f"layers.{i}.mlp.act"))
    with torch.no_grad():
        model(torch.tensor([[3, 1, 4]]))
    assert cookbook.largest == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("rest", ["tp=2,embed=vocab", "pp=2", "quant=int8"])
def test_other_passes_follow_a_recipe(recipe: str, rest: str, lifted: Graph) -> None:
    alone = step_logits(run_pipeline(lifted, recipe).graph)
    if rest == "pp=2" and recipe.startswith("skip"):
        rest = "pp=1"  # one layer is left
    both = step_logits(run_pipeline(lifted, f"{recipe},{rest}").graph)
    error = float((both - alone).norm() / alone.norm())
    low, high = (0.0, 0.1) if rest == "quant=int8" else (-1.0, 1e-5)
    assert low < error < high


@pytest.mark.parametrize("recipe", RECIPES)
def test_tensorrt_computes_a_recipe(recipe: str, folder: Path, tmp_path: Path) -> None:
    plans = "tensorrt-rtx:batch_sizes=1:prompt_sizes=16:capacities=16"
    engine = llmc.compile(folder, tmp_path / "engine", passes=recipe, target=plans, max_batch=1, max_seq=16)
    assert llmc.verify(engine.path, executor="emulator", random=1, max_new_tokens=2).holds
