"""TensorRT engines on the emulator: `python benchmarks/trt_emulated.py [MODEL ...] [--dtypes float32,float16]`.

For each checkpoint folder and element type an engine is built. Greedy tokens of ragged batches are compared with the
interpreter's on the same graph; in float32 each must also be what transformers ranks first after those before it. The
logits of a prompt are compared with transformers in float64, and so are the logits of transformers in the engine's own
type: an engine should err at most twice as much.
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
from torch import Tensor
from transformers import AutoModelForCausalLM

import llmc

MODELS = Path(__file__).parents[1] / "examples" / "models"
NEW_TOKENS = 24
PROMPTS = 16
SCORED = 100


@torch.inference_mode()
def logits(model: Path, dtype: torch.dtype, ids: list[int]) -> Tensor:
    """Those of transformers, `[tokens, vocabulary]`."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype)(torch.tensor([ids])).logits[0].double()


@torch.inference_mode()
def follows_greedily(model: Any, prompt: list[int], tokens: list[int]) -> bool:
    """Whether each token is what a model ranks first after those before it."""
    rows = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return bool(rows.argmax(-1).tolist() == tokens)


def compare(model: Path, dtype: str) -> dict[str, Any]:
    """The figures of one checkpoint in one element type."""
    ids = list(range(3, 3 + SCORED))
    with tempfile.TemporaryDirectory() as temporary:
        engine = llmc.compile(model, Path(temporary) / "engine", dtype=dtype, target="tensorrt-rtx", max_batch=8).path
        texts = prompts()[:PROMPTS]
        emulator, interpreter = (llmc.load(engine, executor=name) for name in ("emulator", "interpreter"))
        found, meant = (e.generate(texts, max_new_tokens=NEW_TOKENS, ignore_eos=True) for e in (emulator, interpreter))
        exact = logits(model, torch.float64, ids)
        error = (emulator.logits(ids).double() - exact).norm() / exact.norm()
    theirs = (logits(model, getattr(torch, dtype), ids) - exact).norm() / exact.norm()
    figures = {
        "equal": sum(a.token_ids == b.token_ids for a, b in zip(found, meant, strict=True)),
        "error": float(error),
        "theirs": float(theirs),
    }
    if dtype == "float32":
        oracle = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        figures["greedy"] = sum(follows_greedily(oracle, list(c.prompt_ids), list(c.token_ids)) for c in found)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=sorted(MODELS.glob("*-tiny")))
    parser.add_argument("--dtypes", default="float32,float16,bfloat16")
    given = parser.parse_args()
    table = Table("checkpoint", "type", "as interpreted", "as transformers", "error of logits", "that of transformers")
    good = True
    for model in given.models:
        for dtype in given.dtypes.split(","):
            figures = compare(model, dtype)
            good &= figures["error"] <= 2 * figures["theirs"] and figures.get("greedy", PROMPTS) == PROMPTS
            good &= dtype == "bfloat16" or figures["equal"] == PROMPTS
            counts = [f"{figures[key]} of {PROMPTS}" if key in figures else "" for key in ("equal", "greedy")]
            table.add_row(model.name, dtype, *counts, f"{figures['error']:.1e}", f"{figures['theirs']:.1e}")
    Console().print(table)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
