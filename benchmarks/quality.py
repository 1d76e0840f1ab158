"""Perplexity of quantized models: recipes by checkpoints.

    python benchmarks/quality.py --calib calib.txt --text val.txt MODEL... [--recipe quant=awq ...] [--windows 64]

Each checkpoint is lifted in float16, quantized on one text, and run by the interpreter on windows of the other. Every
token but a window's first is scored. Printed are perplexity, its change against float16 with the standard error over
windows, the KL divergence of predictions from those of float16 in hundredths of a nat a token, the mean error of
quantized ops on calibration data, how many of them a KL budget left as they were, and the time that quantizing took.
Caches in 8 bits are read as later steps would read them: rounded.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from compiler.ir.comparison import kl_divergence
from compiler.ir.graph import Graph
from compiler.passes import run_pipeline
from compiler.passes.quant.calibration.source import CalibrationSource
from compiler.passes.quant.calibration.text import read_texts
from compiler.passes.quant.calibration.windows import BATCH, window_logits
from llmc.models import lift
from runtime.generation.tokenizer import Tokenizer

RECIPES = (
    "quant=int8",
    "quant=int8:act=token",
    "quant=int8:act=static",
    "quant=int8:act=static:kl_budget=0.002",
    "quant=smoothquant",
    "quant=smoothquant:search=true",
    "quant=smoothquant:act=static",
    "quant=smoothquant:act=static:kl_budget=0.002",
    "quant=fp8",
    "quant=fp8:weights=channel",
    "quant=fp8:act=token",
    "quant=fp8:act=off",
    "quant=fp8:round=gptq",
    "quant=fp8:round=gptq:kl_budget=0.002",
    "quant=int4",
    "quant=int4:group=128",
    "quant=awq",
    "quant=gptq",
    "quant=gptq:order=false",
    "quant=int4:group=64",
    "quant=awq:group=64",
    "quant=gptq:group=64",
    "quant=int3:group=128",
    "quant=awq:bits=3",
    "quant=gptq:bits=3",
    "quant=gptq:bits=8",
    "quant=auto:bits=4.5",
    "quant=auto:bits=6",
    "kv=int8",
    "kv=int8:scale=tensor",
    "kv=fp8",
)


@dataclass(frozen=True)
class Reference:
    """What a model predicts before it is quantized.

    Attributes:
        windows: the token ids, `[samples, length]`.
        logits: the logits, float16, a batch each.
        nll: the mean negative log-likelihood of a window's tokens but the first, in nats, `[samples]`.
    """

    windows: Tensor
    logits: Sequence[Tensor]
    nll: Tensor


def likelihood(logits: Tensor, ids: Tensor) -> Tensor:
    """The mean negative log-likelihood of windows `[B, length]`, in nats, `[B]`."""
    losses = cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:].long().to(logits.device), reduction="none")
    return losses.double().mean(1).cpu()


def measure(model: Path, recipes: Sequence[str], options: argparse.Namespace) -> None:
    """Print the rows of one checkpoint."""
    graph = run_pipeline(lift(model), "dtype=float16").graph
    encode = Tokenizer(model / "tokenizer.json").encode
    text = CalibrationSource(encode, read_texts(options.text), samples=options.windows, length=options.length)
    documents = read_texts(options.calib) if options.calib else ()
    reference = refer(graph, text.windows(graph), text.place)
    print(f"| {model.name} | float16 | {math.exp(reference.nll.mean()):.3f} | | | | | |", flush=True)
    for recipe in recipes:
        source = CalibrationSource(encode, documents, samples=options.samples, length=options.length)
        started = time.perf_counter()
        with source.active():
            quantized = run_pipeline(graph, recipe).graph
        seconds = time.perf_counter() - started
        row = [model.name, recipe, *compare(quantized, reference, text.place), f"{source.report.mean:.2%}"]
        print("| " + " | ".join([*row, left(source), f"{seconds:.1f} s"]) + " |", flush=True)


def refer(graph: Graph, windows: Tensor, device: torch.device) -> Reference:
    """What a graph predicts of windows `[samples, length]`."""
    logits = [batch.half() for batch in window_logits(graph, windows, device)]
    nll = [likelihood(batch.float(), ids) for batch, ids in zip(logits, windows.split(BATCH), strict=True)]
    return Reference(windows, logits, torch.cat(nll))


def compare(graph: Graph, reference: Reference, device: torch.device) -> list[str]:
    """The perplexity of a graph, the change with its standard error over windows, and the mean KL divergence."""
    batches = list(window_logits(graph, reference.windows, device))
    split = reference.windows.split(BATCH)
    nll = torch.cat([likelihood(batch, ids) for batch, ids in zip(batches, split, strict=True)])
    pairs = zip(reference.logits, batches, strict=True)
    lost = sum(kl_divergence(a.float().log_softmax(-1), b.float().log_softmax(-1)) for a, b in pairs)
    change = nll - reference.nll
    error = float(change.std() / math.sqrt(len(change)))
    return [
        f"{math.exp(nll.mean()):.3f}",
        f"{math.expm1(change.mean()):+.2%} ± {error:.2%}",
        f"{lost / reference.windows.numel():.2%}",
    ]


def left(source: CalibrationSource) -> str:
    """How many linears or caches a KL budget left as they are."""
    return str(sum(entry.recipe.startswith("left") for entry in source.report.entries))


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
    print("| model | recipe | perplexity | change | KL divergence | error of ops | left | time |")
    print("|---" * 8 + "|")
    for model in options.models:
        measure(model, options.recipe or RECIPES, options)


if __name__ == "__main__":
    main()
