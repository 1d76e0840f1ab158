"""Greedy tokens and logits beside transformers in float32: `python benchmarks/exactness.py MODEL [MODEL ...]`.

For each checkpoint folder, 64 prompts get 48 new tokens each, alone and in ragged batches of 8, and are compared with
`generate` of transformers on the CPU. Logits over the longest prompt are compared with transformers in float64.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from prompts import prompts
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmc
from compiler.ir.step import Step, all_positions
from runtime.executors.torch.executor import TorchExecutor

NEW_TOKENS = 48
MODELS = Path(__file__).parents[1] / "examples" / "models"


def expected_tokens(model: Any, prompt_ids: list[list[int]], new_tokens: int) -> list[list[int]]:
    """What transformers generates greedily for each prompt by itself, up to and with an end token."""
    return [
        model.generate(torch.tensor([ids]), max_new_tokens=new_tokens, do_sample=False)[0, len(ids) :].tolist()
        for ids in prompt_ids
    ]


def logits_error(model: Path, engine: Path, ids: list[int]) -> float:
    """Relative error (of the whole vector, in the Euclidean norm) against transformers in float64."""
    executor = TorchExecutor.load(engine / "rank0.ir", device="cpu", rows=1)
    step = Step.of_prompts([ids]).wanting(all_positions(1, len(ids)))
    found = executor.open(1, len(ids)).step(step).double()
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)(step.token_ids.long()).logits
    return float((found - expected).norm() / expected.norm())


def compare(folder: Path, new_tokens: int = NEW_TOKENS) -> dict[str, Any]:
    """The figures of one checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = prompts()
    prompt_ids = [tokenizer(text).input_ids for text in texts]
    expected = expected_tokens(model, prompt_ids, new_tokens)
    with tempfile.TemporaryDirectory() as temporary:
        engine = llmc.compile(folder, Path(temporary) / "engine", dtype="float32", max_batch=8).path
        runtime = llmc.load(engine, device="cpu")
        together = [c.token_ids for c in runtime.generate(prompt_ids, max_new_tokens=new_tokens)]
        alone = [runtime.generate([ids], max_new_tokens=new_tokens)[0].token_ids for ids in prompt_ids]
        error = logits_error(folder, engine, max(prompt_ids, key=len))
    return {
        "alone": sum(list(a) == e for a, e in zip(alone, expected, strict=True)),
        "together": sum(list(a) == e for a, e in zip(together, expected, strict=True)),
        "of": len(texts),
        "logits": error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, default=sorted(MODELS.glob("*-tiny")))
    table = Table("checkpoint", "alone", "in batches of 8", "relative error of logits (aim 1e-4)")
    good = True
    for folder in parser.parse_args().models:
        figures = compare(folder)
        good &= figures["alone"] == figures["together"] == figures["of"] and figures["logits"] < 1e-4
        counts = [f"{figures[way]} of {figures['of']}" for way in ("alone", "together")]
        table.add_row(folder.name, *counts, f"{figures['logits']:.1e}")
    Console().print(table)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
