"""Checkpoints of other layouts become ones that transformers loads, with the same logits, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import llmc
from tests.frontends.layouts.ft_writer import write_gptj, write_neox, write_opt
from tests.frontends.layouts.neox_writer import write_by_layer
from tests.frontends.layouts.test_ft import gptj, neox, opt

CASES: dict[str, tuple[Callable[..., Any], Callable[..., Path]]] = {
    "GPT-NeoX run": (neox, write_by_layer),
    "FasterTransformer GPT-NeoX": (neox, write_neox),
    "FasterTransformer GPT-J": (gptj, write_gptj),
    "FasterTransformer OPT": (opt, write_opt),
}


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_another_layout_becomes_one_of_hugging_face(tmp_path: Path, case: str) -> None:
    make, write = CASES[case]
    model = make().eval()
    made = llmc.export(write(model, tmp_path / "parts", 2), tmp_path / "out")
    assert any("no tokenizer" in note for note in made.notes)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        row = torch.arange(3, 20)[None]
        assert back(row).logits.equal(model(row).logits)
