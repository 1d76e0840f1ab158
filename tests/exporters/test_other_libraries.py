"""transformers, with the library compressed-tensors where it is installed, computes what llmc does with an export."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.exporters.exporting import exported, rewritten, saved_model
from tests.frontends.quantized.checkpoints import FAMILIES
from tests.frontends.steps import assert_same_logits

pytest.importorskip("compressed_tensors")
pytest.importorskip("accelerate")

# Not with act=token: the library divides the largest value of int8 by 127.5 where llmc takes 127.
RECIPES = (
    "quant=int4:group=16",
    "quant=int8",
    "quant=int8:act=static",
    "quant=fp8:act=static",
    "quant=fp8:weights=channel:act=off",
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_compressed_tensors(tmp_path: Path, family: str, recipe: str) -> None:
    saved_model(tmp_path / "in", family, torch.float32)
    graph = exported(rewritten(tmp_path / "in", recipe), tmp_path / "in", "compressed-tensors", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32").eval()

    @torch.no_grad()
    def logits(row: list[int]) -> torch.Tensor:
        found: torch.Tensor = model(torch.tensor([row]), use_cache=False).logits[0]
        return found.double()

    assert_same_logits(graph, logits, vocab=31, seed=0)
