"""Perplexity of quantized models: recipes by checkpoints.

    python benchmarks/quality.py --calib calib.txt --text val.txt MODEL... [--recipe quant=awq ...] [--windows 64]

Each checkpoint is lifted in float16, quantized on one text, and run by the interpreter on windows of the other. Every
token but a window's first is scored.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.passes import run_pipeline
from compiler.passes.quant.calibration import CalibrationSource
from compiler.passes.quant.text import read_texts
from compiler.passes.quant.walk import BATCH, step_inputs
from llmc.models import lift
from runtime.tokenizer import Tokenizer

RECIPES = (
    "quant=int8",
    "quant=int8:act=token",
    "quant=int8:act=static",
    "quant=smoothquant",
    "quant=smoothquant:act=static",
    "quant=smoothquant:search=true",
    "quant=fp8",
    "quant=fp8:weights=channel",
    "quant=int4:group=128",
    "quant=awq",
    "quant=gptq",
    "quant=gptq:order=false",
    "quant=int4:group=64",
    "quant=awq:group=64",
    "quant=gptq:group=64",
    "quant=gptq:damping=1e9",  # so much damping leaves rounding to the nearest value
    "quant=gptq:bits=3:damping=1e9",
    "quant=gptq:bits=3",
    "quant=gptq:bits=8",
    "quant=auto:bits=4.5",
    "quant=auto:bits=6",
)


def perplexity(graph: Graph, windows: Tensor, device: torch.device) -> float:
    """The perplexity of windows `[samples, length]`."""
    run = Interpreter(graph.with_ops(graph.ops, {"logits": graph.outputs["logits"]}), device=device)
    total = 0.0
    for ids in windows.split(BATCH):
        everywhere = torch.arange(ids.shape[1], dtype=torch.int32).expand(ids.shape)
        logits = run({**step_inputs(graph, ids), "logit_pos": everywhere})["logits"].float()
        following = ids[:, 1:].flatten().long().to(device)
        total += float(cross_entropy(logits[:, :-1].flatten(0, 1), following, reduction="sum"))
    return math.exp(total / (len(windows) * (windows.shape[1] - 1)))


def measure(model: Path, recipes: Sequence[str], options: argparse.Namespace) -> None:
    """Print the rows of one checkpoint."""
    graph = run_pipeline(lift(model), "dtype=float16").graph
    encode = Tokenizer(model / "tokenizer.json").encode
    text = CalibrationSource(encode, read_texts(options.text), samples=options.windows, length=options.length)
    windows = text.windows(graph)
    documents = read_texts(options.calib) if options.calib else ()
    baseline = 0.0
    for recipe in recipes:
        source = CalibrationSource(encode, documents, samples=options.samples, length=options.length)
        started = time.perf_counter()
        with source.active():
            quantized = run_pipeline(graph, recipe).graph
        seconds = time.perf_counter() - started
        found = perplexity(quantized, windows, source.place)
        baseline = baseline or found
        change = found / baseline - 1
        row = [model.name, recipe or "float16", f"{found:.3f}", f"{change:+.2%}", f"{source.report.mean:.2%}"]
        print("| " + " | ".join([*row, f"{seconds:.1f} s"]) + " |", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--text", required=True, type=Path)
    parser.add_argument("--calib", type=Path, help="the text that comes with the compiler, if not given")
    parser.add_argument("--samples", type=int, help="calibration windows")
    parser.add_argument("--windows", type=int, help="windows to measure on; 128 at most if not given")
    parser.add_argument("--length", type=int, default=256, help="tokens of a window")
    parser.add_argument("--recipe", action="append", help="a pipeline to measure instead of the usual ones")
    options = parser.parse_args()
    print("| model | recipe | perplexity | change | error of ops | time |\n|---|---|---|---|---|---|")
    for model in options.models:
        measure(model, ["", *(options.recipe or RECIPES)], options)


if __name__ == "__main__":
    main()
